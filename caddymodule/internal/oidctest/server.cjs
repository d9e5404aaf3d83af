// An authorization server (oidc-provider) and a protected resource (oauth4webapi), which demand DPoP with nonces. Both
// listen on loopback, on ports of their own. The settings are the first argument, in JSON. The server reports its URLs in
// one line on stdout, and ends when stdin does.
"use strict";
const http = require("node:http");
const crypto = require("node:crypto");
const { Provider } = require("oidc-provider");
const oauth = require("oauth4webapi");

const settings = JSON.parse(process.argv[2]); // client_id, client_key (a public JWK), scope
const events = []; // what both servers answered
const record = (server, status, error, proof) => events.push({ server, status, error, ...claimsOf(proof) });

// claimsOf returns what a test may want to know about a proof, without judging it.
function claimsOf(proof) {
	try {
		const [header, claims] = proof.split(".", 2).map(part => JSON.parse(Buffer.from(part, "base64url")));
		return { proof: claims, jwk: header.jwk };
	} catch {
		return {};
	}
}

const listen = () => new Promise(resolve => {
	const server = http.createServer();
	server.listen(0, "127.0.0.1", () => resolve({ server, url: `http://127.0.0.1:${server.address().port}` }));
});

function authorizationServer(issuer, api) {
	const { privateKey } = crypto.generateKeyPairSync("ec", { namedCurve: "P-256" });
	const provider = new Provider(issuer, {
		clients: [{
			client_id: settings.client_id,
			token_endpoint_auth_method: "private_key_jwt",
			token_endpoint_auth_signing_alg: settings.client_key.alg,
			jwks: { keys: [settings.client_key] },
			grant_types: ["client_credentials"], redirect_uris: [], response_types: [],
			id_token_signed_response_alg: "ES256", // of no use here, but its default needs an RSA key
			dpop_bound_access_tokens: true,
			scope: settings.scope,
		}],
		jwks: { keys: [{ ...privateKey.export({ format: "jwk" }), alg: "ES256", use: "sig", kid: "as" }] },
		clientAuthMethods: ["private_key_jwt"],
		scopes: [settings.scope],
		features: {
			devInteractions: { enabled: false },
			clientCredentials: { enabled: true },
			dPoP: { enabled: true, nonceSecret: crypto.randomBytes(32), requireNonce: () => true },
			resourceIndicators: {
				enabled: true,
				defaultResource: () => api,
				getResourceServerInfo: () => ({
					audience: api, scope: settings.scope, accessTokenFormat: "jwt", accessTokenTTL: 300, jwt: { sign: { alg: "ES256" } },
				}),
			},
		},
	});
	provider.use(async (ctx, next) => {
		await next();
		if (ctx.path === "/token") record("token", ctx.status, ctx.body?.error, ctx.get("DPoP"));
	});
	provider.on("server_error", (_, error) => console.error(error));
	return provider.callback();
}

// protectedResource lets oauth4webapi verify the token, and the proof of the key that the token is bound to. Nonces and
// replays are not the business of oauth4webapi.
function protectedResource(issuer, api) {
	const as = { issuer, jwks_uri: `${issuer}/jwks` };
	const used = new Set();
	let nonce = crypto.randomUUID();

	async function judge(request) {
		await oauth.validateJwtAccessToken(as, request, api, { [oauth.allowInsecureRequests]: true });
		const { proof } = claimsOf(request.headers.get("DPoP"));
		if (proof.nonce !== nonce) return "use_dpop_nonce";
		if (used.has(proof.jti)) return "invalid_dpop_proof";
		used.add(proof.jti);
	}

	return async (req, res) => {
		if (req.url === "/_events") return res.end(JSON.stringify(events));
		if (req.url === "/_rotate") return res.end(nonce = crypto.randomUUID());
		let body = "", error, description;
		for await (const chunk of req) body += chunk;
		try {
			error = await judge(new Request(api + req.url, { method: req.method, headers: new Headers(req.headers) }));
		} catch (thrown) {
			[error, description] = ["invalid_token", thrown.message];
		}
		res.setHeader("DPoP-Nonce", nonce);
		if (error) {
			res.statusCode = 401;
			res.setHeader("WWW-Authenticate", `DPoP error="${error}", algs="ES256"`);
		}
		record("api", res.statusCode, error, req.headers.dpop);
		res.setHeader("Content-Type", "application/json");
		res.end(JSON.stringify({ method: req.method, url: req.url, body, error, description }));
	};
}

(async () => {
	const [as, api] = [await listen(), await listen()];
	as.server.on("request", authorizationServer(as.url, api.url));
	api.server.on("request", protectedResource(as.url, api.url));
	console.log(JSON.stringify({ issuer: as.url, api: api.url }));
	process.stdin.resume().on("end", () => process.exit());
})();
