package devserver

import (
	"fmt"
	"net/http"
)

// RefusalHeader says, in one line, why the dialect OAuth2 refused a request. It holds nothing that was sent but names.
const RefusalHeader = "X-Dev-Refusal"

// The error codes of RFC 6749, section 5.2.
const (
	invalidRequest       = "invalid_request"
	invalidClient        = "invalid_client"
	invalidGrant         = "invalid_grant"
	invalidScope         = "invalid_scope"
	unsupportedGrantType = "unsupported_grant_type"
)

// refusal is why a request gets no token.
type refusal struct {
	status int
	code   string
	reason string
}

func refuse(code, format string, args ...any) *refusal {
	status := http.StatusBadRequest
	if code == invalidClient {
		status = http.StatusUnauthorized
	}
	return &refusal{status, code, fmt.Sprintf(format, args...)}
}

// misconfigured is for what ValidateKeys would have found.
func misconfigured(option string) *refusal {
	return &refusal{http.StatusInternalServerError, "server_error", option + " of the development server is wrong"}
}
