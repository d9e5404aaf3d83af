package caddymodule

import (
	"errors"
	"io"
	"sync/atomic"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/provider"
)

// tokenField makes the values of the header field that carries the token: once for each token, for all its requests.
type tokenField struct {
	made atomic.Pointer[madeField]
}

type madeField struct {
	token    provider.Secret
	values   []string
	previous provider.Secret // the token before, which an upstream may send back late
}

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

// withoutEcho replaces an error that quotes a token, because the upstream sent it back in place of an answer: errors are
// logged.
func (f *tokenField) withoutEcho(err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	if made := f.made.Load(); made != nil && (made.token.In(err.Error()) || made.previous.In(err.Error())) {
		return errEcho
	}
	return err
}
