package caddymodule

import (
	"errors"
	"io"
	"net"
	"net/http"
	"regexp"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/dpop"
)

// sentFields are the fields that one request has carried in all its attempts. The upstream may send back the token of each.
type sentFields struct {
	latest *madeField  // nil before the first attempt
	before *sentFields // nil if all attempts had the same token
}

// add adds the field of the next attempt. A copy that was made before stays as it is.
func (s *sentFields) add(made *madeField) {
	if s.latest != nil {
		before := *s
		s.before = &before
	}
	s.latest = made
}

// in reports whether a text shows one of the tokens.
func (s *sentFields) in(text string) bool {
	return s != nil && (s.latest.in(text) || s.before.in(text))
}

// echoes reports whether a text shows a DPoP proof, a token that the request has sent, or one of the handler's latest two. Bytes
// about an earlier request can arrive late on a connection.
func (f *tokenField) echoes(text string, sent *sentFields) bool {
	return sent.in(text) || f.made.Load().in(text) || dpop.In(text)
}

var errEcho = errors.New("the upstream sent back the token in place of an answer")

// withoutEcho replaces an error that quotes a token or a DPoP proof, because errors are logged. Such an error occurs if the
// upstream sends the token back in place of an answer.
func (f *tokenField) withoutEcho(err error, sent *sentFields) error {
	switch {
	case err == nil || err == io.EOF:
		return err
	case f.echoes(err.Error(), sent):
		return errEcho
	case f.tenants:
		return withoutQuotes(err)
	default:
		return err
	}
}

// quotes matches what errors quote of an upstream. net/http, net/textproto and HTTP/2 quote it. HTTP/3 and QUIC append the reason
// for closing the connection, and names of fields.
var quotes = regexp.MustCompile(`(?s)"(?:[^"\\]|\\.)*"|(?:\(remote\)|H3|http3: |not lower-case: ).*`)

// withoutQuotes removes what an error quotes of the upstream. The requests of many tenants share a connection, so that the
// upstream may have sent the token of any of them.
func withoutQuotes(err error) error {
	if _, ok := err.(net.Error); ok { // quotes nothing, and reverse_proxy looks for a timeout in it
		return err
	}
	text := err.Error()
	if without := quotes.ReplaceAllLiteralString(text, hiddenToken); without != text {
		return &unquotedError{err, without}
	}
	return err
}

// unquotedError is an error with another text.
type unquotedError struct {
	error
	text string
}

// Error implements error.
func (e *unquotedError) Error() string { return e.text }

// Unwrap lets errors.Is and errors.As find the error.
func (e *unquotedError) Unwrap() error { return e.error }

// withoutQuery removes the query parameter that carries the token from the header or trailer of an answer. An API that
// redirects a request, or names the next page, repeats the query. Logs and placeholders have the header of the answer.
func (f *tokenField) withoutQuery(fields http.Header, sent *sentFields) {
	f.made.Load().withoutQuery(fields)
	for ; sent != nil; sent = sent.before {
		sent.latest.withoutQuery(fields)
	}
}

// guard wraps the body of an answer, so that neither its errors nor its trailer show a token. It leaves the body of 101 Switching
// Protocols alone, which is a connection whose errors quote nothing.
func (f *tokenField) guard(res *http.Response, body *answerBody, sent *sentFields) {
	if _, connection := res.Body.(io.Writer); connection || res.Body == http.NoBody {
		return
	}
	*body = answerBody{res.Body, res, f, sent}
	res.Body = body
}

// answerBody is the body of an answer. A read error may quote what the upstream has sent, such as a trailer or the reason for
// closing the connection, and reverse_proxy logs it. The trailer arrives at the end of the body.
type answerBody struct {
	io.ReadCloser
	answer *http.Response
	field  *tokenField
	sent   *sentFields
}

// Read implements io.Reader.
func (b *answerBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		err = b.end(err)
	}
	return n, err
}

// Close implements io.Closer.
func (b *answerBody) Close() error { return b.end(b.ReadCloser.Close()) }

func (b *answerBody) end(err error) error {
	b.field.withoutQuery(b.answer.Trailer, b.sent)
	return b.field.withoutEcho(err, b.sent)
}
