package caddymodule

import (
	"errors"
	"io"
	"sync/atomic"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/provider"
)

// tokenField has the values of the header field that carries the token. It makes them once for each token.
type tokenField struct {
	made atomic.Pointer[madeField]
}

type madeField struct {
	token    provider.Secret
	values   []string
	previous provider.Secret // the earlier token, which an upstream may still send back
}

// values returns the values of the field for a token. Requests share them.
func (f *tokenField) values(header *TokenHeader, token provider.Secret) []string {
	before := f.made.Load()
	if before != nil && before.token == token {
		return before.values
	}
	made := &madeField{token: token, values: []string{header.value(token)}}
	if before != nil {
		made.previous = before.token
	}
	f.made.Store(made)
	return made.values
}

var errEcho = errors.New("the upstream sent back the token in place of an answer")

// withoutEcho replaces an error that quotes a token, because errors are logged. Such an error occurs if the upstream sends the
// token back in place of an answer.
func (f *tokenField) withoutEcho(err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	if made := f.made.Load(); made != nil && (made.token.In(err.Error()) || made.previous.In(err.Error())) {
		return errEcho
	}
	return err
}
