// A call without auth code, in Node.
const api = process.env.ORDERS_API ?? 'http://127.0.0.1:8080'
const answer = await fetch(`${api}/orders`)
if (!answer.ok) throw new Error(`status ${answer.status}`)
process.stdout.write(await answer.text())
