package caddymodule

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/provider"
)

const (
	// stubToken is the token for an SDK that requests its own. It is worthless. In the requests of the SDK, the proxy replaces
	// it with the real token.
	stubToken = "placeholder-of-token-proxy"

	stubLifetime = time.Hour
)

// tokenStub answers the token requests of an SDK. It does not read their id and secret.
type tokenStub struct {
	paths   []string
	stubber provider.Stubber
}

// stubDefault stands for the path of the provider's own token endpoint.
const stubDefault = "default"

// newTokenStub checks the option token_stub. It returns nil if the option is not set.
func newTokenStub(paths []string, p provider.Provider, clientAuthorization string) (*tokenStub, error) {
	if len(paths) == 0 {
		return nil, nil
	}
	stubber, ok := p.(provider.Stubber)
	if !ok {
		return nil, errors.New("the token endpoint of this provider cannot be imitated")
	}
	if clientAuthorization != authorizationReplace {
		return nil, fmt.Errorf("client_authorization must be %s, because the SDK sends the worthless token", authorizationReplace)
	}
	s := &tokenStub{stubber: stubber}
	for _, path := range paths {
		if err := checkStubPath(path); err != nil {
			return nil, err
		}
		if path == stubDefault {
			var err error
			if path, err = endpointPath(p); err != nil {
				return nil, err
			}
		}
		s.paths = append(s.paths, path)
	}
	return s, nil
}

// checkStubPath returns an error for a path that no token request can have.
func checkStubPath(path string) error {
	if path == stubDefault || strings.HasPrefix(path, "/") && !strings.ContainsAny(path, "*?#{} ") {
		return nil
	}
	return fmt.Errorf("this is not the path of a token endpoint: it must begin with a slash and have no wildcard, query or placeholder, or be %q",
		stubDefault)
}

// endpointPath returns the path of the provider's token endpoint, which an SDK uses unless its configuration has another path.
// With an issuer, the path is not known when the configuration is loaded.
func endpointPath(p provider.Provider) (string, error) {
	endpoint, err := url.Parse(p.Endpoint())
	discoverer, ok := p.(provider.Discoverer)
	if err != nil || strings.Trim(endpoint.Path, "/") == "" || ok && discoverer.ByIssuer() {
		return "", errors.New("the path of the token endpoint is not known: set the path that the SDK uses")
	}
	return endpoint.Path, nil
}

// takes reports whether the stub answers a request. A nil stub answers none.
func (s *tokenStub) takes(r *http.Request) bool {
	return s != nil && r.Method == http.MethodPost && slices.Contains(s.paths, r.URL.Path)
}

// write answers with the worthless token.
func (s *tokenStub) write(w http.ResponseWriter) error {
	return writeJSON(w, http.StatusOK, s.stubber.Stub(stubToken, time.Now(), stubLifetime))
}
