const answer = await fetch(process.argv[2], {
	method: "POST", body: '{"quantity":1}', headers: { "Content-Type": "application/json" },
});
if (!answer.ok) throw new Error(answer.status);
console.log(await answer.text());
