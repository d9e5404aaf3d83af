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
	// stubToken is what such an SDK gets. It is worthless: the proxy puts the real token in its place.
	stubToken = "placeholder-of-token-proxy"

	stubLifetime = time.Hour
)

// tokenStub answers an SDK's token requests, whose id and secret are not even read.
type tokenStub struct {
	paths   []string
	stubber provider.Stubber
}

// stubDefault stands for the path of the provider's own token endpoint.
const stubDefault = "default"

// newTokenStub checks the option token_stub; nil if it is not used.
func newTokenStub(paths []string, p provider.Provider, clientAuthorization string) (*tokenStub, error) {
	if len(paths) == 0 {
		return nil, nil
	}
	stubber, ok := p.(provider.Stubber)
	if !ok {
		return nil, errors.New("the token endpoint of this provider cannot be imitated")
	}
	if clientAuthorization != authorizationReplace {
		return nil, fmt.Errorf("client_authorization must be %s, because the SDK sends the placeholder", authorizationReplace)
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

// checkStubPath refuses what would never be equal to the path of a request.
func checkStubPath(path string) error {
	if path == stubDefault || strings.HasPrefix(path, "/") && !strings.ContainsAny(path, "*?#{} ") {
		return nil
	}
	return fmt.Errorf("this is not the path of a token endpoint: it begins with a slash and has no wildcard, query or placeholder, or it is %q",
		stubDefault)
}

// endpointPath is the path that an SDK asks, unless it was told another one. An issuer's path is not it.
func endpointPath(p provider.Provider) (string, error) {
	endpoint, err := url.Parse(p.Endpoint())
	discoverer, ok := p.(provider.Discoverer)
	if err != nil || strings.Trim(endpoint.Path, "/") == "" || ok && discoverer.ByIssuer() {
		return "", errors.New("the path of the token endpoint is not known: name the path that the SDK asks")
	}
	return endpoint.Path, nil
}

// takes reports whether a request is one for a token. Nil takes none.
func (s *tokenStub) takes(r *http.Request) bool {
	return s != nil && r.Method == http.MethodPost && slices.Contains(s.paths, r.URL.Path)
}

func (s *tokenStub) write(w http.ResponseWriter) error {
	return writeJSON(w, http.StatusOK, s.stubber.Stub(stubToken, time.Now(), stubLifetime))
}
