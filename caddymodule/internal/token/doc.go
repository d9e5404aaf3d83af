// Package token keeps OAuth 2.0 access tokens alive.
//
// A [Source] is the truth for one credential. It holds the current [Token] behind an atomic pointer, fetches
// through a [Fetcher], and knows three states:
//
//	fresh    serve
//	stale    inside the refresh margin: serve, and refresh in the background
//	expired  wait for the one flight that fetches, bounded by the caller's context and by Policy.MaxWait
//
// A failure is state too. While a source backs off, a caller without a valid token gets an error at once, which names
// the time of the next call. An expired token is never handed out.
//
// The package knows neither Caddy nor HTTP: it sees a fetch function.
package token
