package provider

import (
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/oauth"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// Answer is the answer of a token endpoint. The app has read it completely, within strict limits of size and time.
//
// Its fields are Status (int), Header (http.Header), Body ([]byte, at most 64 KiB), Sent (time.Time, when the app sent the
// request) and WantsCertificate (bool, whether the server asked for a client certificate that the client does not have). Its
// methods are:
//
//   - Read(Layout) (Issued, error) returns the token or an *Error. It suits every answer that has the fields of RFC 6749
//     section 5 in JSON or in a form, wherever in the answer they are.
//   - Text(paths ...string) (string, bool) returns the first string at the paths, and whether there is one. The paths are
//     those of Layout.
type Answer = oauth.Answer

// Layout tells Answer.Read where to find the fields of an answer. Token is required.
//
// A path consists of member names and array indexes joined by dots, such as "data.access_token". For names with dots, it is
// a JSON Pointer such as "/data/access.token" (RFC 6901). The path "header:X-Subject-Token" stands for a header field, and
// the path "$" for the whole body. Of several paths, Read uses the first one that leads to a value that it can use. Read
// ignores a field without paths.
//
//   - Token, Type and Scope ([]string) are the paths of access_token, token_type and scope.
//   - Types ([]string) are the token types that Read accepts. The type "any" accepts all. Default: Bearer and its variants.
//   - DPoP (bool) makes Read accept the type DPoP as well. Set it if the provider is a DPoPHolder that uses DPoP.
//   - ExpiresIn ([]string) are the paths of the lifetime, and ExpiresInUnit is "s", "ms", "min" or "h". Default: "s".
//   - ExpiresAt ([]string) are the paths of the time of expiry. Read uses them if the answer has no lifetime or, with
//     ExpiresAtFirst (bool), before the lifetime. ExpiresAtUnit is "s" or "ms" since the Unix epoch, or "rfc3339" for
//     text. Default: "s".
//   - DefaultLifetime (time.Duration) is the lifetime of a token that has none in the answer or, as a JWT, in itself.
//     Default: the credential's default_lifetime.
//   - RefreshIn ([]string) are the paths of the seconds after which the token endpoint advises a refresh.
//   - AskedScope ([]string) is the requested scope. The app logs a warning if the token endpoint granted less.
//   - Keep (map[string]string) maps the names of placeholders to the paths of their values. A request has them as
//     {http.token_proxy.<name>}.
//   - Code ([]string) are the paths of the error code.
//   - Transient ([]string), TransientStatus ([]int) and TransientText (string) are further error codes, HTTP statuses and a
//     text in the body that mean "try again". The kind of the error is then Unavailable. Read knows those of RFC 6749 and
//     HTTP.
//   - RetryAfter ([]string) are the paths of the seconds to wait after a failure. The header Retry-After takes precedence.
type Layout = oauth.Layout

// Issued is a token as the token endpoint issued it. A provider that does not use Answer.Read sets its fields itself:
//
//   - Token (Secret) is the access token. Required.
//   - Lifetime (time.Duration) counts from Answer.Sent. A lifetime of zero means that the app does not keep the token. Set
//     UnknownLifetime if the answer has no lifetime.
//   - RefreshIn (time.Duration) is when the token endpoint advises a refresh. It counts like Lifetime. Zero means no advice.
//   - Kept (map[string]string) are the values of the placeholders {http.token_proxy.<name>}, by name.
//   - Note (string) is a warning for operators, such as a narrower scope. It must not quote the token endpoint.
//   - DPoP (bool) is whether the token type is DPoP, so that the token is bound to a key (RFC 9449). The app adds a proof to
//     each request with such a token.
//
// The app sets Certificate and Prover.
type Issued = token.Issued

// UnknownLifetime is the Lifetime of a token whose answer has none. The credential's default_lifetime applies.
const UnknownLifetime time.Duration = token.UnknownLifetime
