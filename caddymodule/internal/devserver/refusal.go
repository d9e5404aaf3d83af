package devserver

import (
	"fmt"
	"net/http"
)

// RefusalHeader is the header field with the reason why the dialect OAuth2 refused a request, in one line. It repeats
// no value that the client sent.
const RefusalHeader = "X-Dev-Refusal"

// The error codes of RFC 6749, section 5.2; RFC 6750, section 3.1; RFC 9449, section 12.2.
const (
	invalidRequest       = "invalid_request"
	invalidClient        = "invalid_client"
	invalidGrant         = "invalid_grant"
	invalidScope         = "invalid_scope"
	unsupportedGrantType = "unsupported_grant_type"
	invalidToken         = "invalid_token"
	invalidDPoPProof     = "invalid_dpop_proof"
	useDPoPNonce         = "use_dpop_nonce"
)

// refusal is why a request gets no token.
type refusal struct {
	status int
	code   string
	reason string
}

// refuse returns a refusal with the status that RFC 6749, section 5.2, has for the code.
func refuse(code, format string, args ...any) *refusal {
	status := http.StatusBadRequest
	if code == invalidClient {
		status = http.StatusUnauthorized
	}
	return &refusal{status, code, fmt.Sprintf(format, args...)}
}

// misconfigured returns the refusal for a mistake that ValidateKeys would have found.
func misconfigured(option string) *refusal {
	return &refusal{http.StatusInternalServerError, "server_error", option + " of the development server is wrong"}
}
