// An unchanged application, except for host and protocol.
import { gateway } from '@elasticpath/js-sdk'

const store = gateway({
	client_id: process.env.OLD_CLIENT_ID ?? 'unused',
	client_secret: process.env.OLD_CLIENT_SECRET ?? 'unused',
	host: process.env.SIDECAR ?? '127.0.0.1:8081',
	protocol: 'http',
})

const { data: products } = await store.Products.Limit(10).All()
for (const { id } of products) {
	const { data: product } = await store.Products.Get(id)
	console.log(product.id, product.name)
}
