const { EnvHttpProxyAgent, request } = require("undici");

const dispatcher = new EnvHttpProxyAgent();
(async () => {
	const answer = await request(process.argv[2], {
		method: "POST", body: '{"quantity":1}', headers: { "Content-Type": "application/json" }, dispatcher,
	});
	if (answer.statusCode !== 200) throw new Error(answer.statusCode);
	console.log(await answer.body.text());
	await dispatcher.close();
})();
