import https from "node:https";

const headers = { "Content-Type": "application/json" };
https.request(process.argv[2], { method: "POST", headers }, (answer) => {
	if (answer.statusCode !== 200) throw new Error(answer.statusCode);
	answer.pipe(process.stdout);
}).end('{"quantity":1}');
