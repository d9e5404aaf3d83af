package oauth

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// stage is how far an exchange has come.
type stage int

const (
	stageStart stage = iota
	stageName
	stageConnect
	stageTunnel // the network proxy is asked to open a connection
	stageHandshake
	stageAnswer
)

// progress observes one exchange. Many errors of net/http and crypto/tls do not show with which peer the exchange failed, or
// that the server asked for a client certificate. net/http can still be connecting after RoundTrip has returned, so progress
// is locked.
type progress struct {
	mu    sync.Mutex
	seen  observed
	proxy *url.URL // nil: none
	plain bool     // without TLS, which makes an http proxy send the request itself
}

// observed is what a progress has seen.
type observed struct {
	stage stage
	peer  token.Peer
	asked bool           // the peer asked for a client certificate
	shown bool           // the client has one, and has shown it
	alert tls.AlertError // the alert that the client sent in the clear
	once  bool           // renegotiation is permitted once
}

type progressKey struct{}

// observe returns a request whose context reports the progress of the exchange.
func observe(req *http.Request, once bool) *http.Request {
	p := &progress{plain: req.URL.Scheme != "https", seen: observed{peer: peerOf(req.Context()), once: once}}
	ctx := context.WithValue(req.Context(), progressKey{}, p)
	return req.WithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		DNSStart:     func(httptrace.DNSStartInfo) { p.at(stageName) },
		ConnectStart: func(string, string) { p.at(stageConnect) },
		ConnectDone: func(_, _ string, err error) {
			if err == nil {
				p.at(stageTunnel)
			}
		},
		TLSHandshakeStart: func() {
			p.at(stageHandshake)
			if p.tunnelsSOCKS() {
				p.reached()
			}
		},
		TLSHandshakeDone: func(_ tls.ConnectionState, err error) {
			if err == nil {
				p.at(stageTunnel)
			}
		},
		GotConn: func(httptrace.GotConnInfo) {
			p.at(stageAnswer)
			if !p.plain || p.tunnelsSOCKS() {
				p.reached()
			}
		},
	}))
}

// progressOf returns the progress of the exchange with this context.
func progressOf(ctx context.Context) *progress {
	if p, ok := ctx.Value(progressKey{}).(*progress); ok {
		return p
	}
	return &progress{seen: observed{peer: peerOf(ctx)}}
}

func (p *progress) change(f func(*observed)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f(&p.seen)
}

func (p *progress) at(s stage) { p.change(func(o *observed) { o.stage = s }) }

// through reports that the exchange uses a network proxy.
func (p *progress) through(proxy *url.URL) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.proxy = proxy
}

// reached reports that the connection has passed the network proxy.
func (p *progress) reached() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.proxy == nil {
		return
	}
	p.proxy = nil
	p.seen.asked, p.seen.shown = false, false
}

// askedBy returns the network proxy that answers requests itself, or nil.
func (p *progress) askedBy() *url.URL {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.proxy
}

func (p *progress) tunnelsSOCKS() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.proxy != nil && (p.proxy.Scheme == "socks5" || p.proxy.Scheme == "socks5h")
}

// now returns what the progress has seen. The peer is the network proxy until the connection has passed it.
func (p *progress) now() observed {
	p.mu.Lock()
	defer p.mu.Unlock()
	seen := p.seen
	if p.proxy != nil {
		seen.peer = token.PeerProxy
	}
	return seen
}

type peerKey struct{}

// withPeer returns a context for an exchange with this peer instead of the token endpoint.
func withPeer(ctx context.Context, peer token.Peer) context.Context {
	return context.WithValue(ctx, peerKey{}, peer)
}

func peerOf(ctx context.Context) token.Peer {
	peer, _ := ctx.Value(peerKey{}).(token.Peer)
	return peer
}

// observedConn reports the alert that the client sends in the clear. crypto/tls does not return it when the server chooses a
// version or a cipher that the client did not offer.
type observedConn struct {
	net.Conn
	progress *progress
}

// Write implements net.Conn. An alert is a record of its own (RFC 8446 section 5.1).
func (c *observedConn) Write(b []byte) (int, error) {
	const recordAlert, levelFatal = 21, 2
	if len(b) == 7 && b[0] == recordAlert && b[5] == levelFatal {
		c.progress.change(func(o *observed) { o.alert = tls.AlertError(b[6]) })
	}
	return c.Conn.Write(b)
}
