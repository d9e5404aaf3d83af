package httpsproxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"time"

	"go.uber.org/zap"
)

// established answers a CONNECT, RFC 9110 section 9.3.6.
const established = "HTTP/1.1 200 Connection established\r\n\r\n"

// serve answers a request to the proxy itself, which came without TLS.
func (w *ListenerWrapper) serve(rw http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodConnect {
		w.connect(rw, r, r.Context().Value(connKey{}).(*conn))
		return
	}
	w.forward(rw, r)
}

// forward gives a request in absolute form (RFC 9112 section 3.2.2) to the routes of the site.
func (w *ListenerWrapper) forward(rw http.ResponseWriter, r *http.Request) {
	if !w.clients.Admit(r) {
		w.deny(rw, r, target{}, deniedClient)
		return
	}
	if r.URL.Scheme != "http" || r.URL.User != nil {
		w.deny(rw, r, target{}, deniedTarget)
		return
	}
	if w.mutualTLS {
		w.deny(rw, r, target{}, deniedPlain)
		return
	}
	port := r.URL.Port()
	if port == "" {
		port = portHTTP
	}
	to, ok := newTarget(r.URL.Hostname(), port)
	switch {
	case !ok:
		w.deny(rw, r, target{}, deniedTarget)
	case !w.sites.serve(to.host):
		w.deny(rw, r, to, deniedHost)
	case to.port != portHTTP:
		w.deny(rw, r, to, deniedPort)
	case to.root:
		w.deny(rw, r, to, deniedRoot)
	default:
		counts.served[servedHTTP].Add(1)
		w.server.ServeHTTP(rw, r)
	}
}

// connect answers a CONNECT.
func (w *ListenerWrapper) connect(rw http.ResponseWriter, r *http.Request, c *conn) {
	if !w.clients.Admit(r) {
		w.deny(rw, r, target{}, deniedClient)
		return
	}
	to, ok := parseTarget(r.RequestURI)
	if !ok {
		w.deny(rw, r, target{}, deniedTarget)
		return
	}
	if w.sites.serve(to.host) {
		w.connectSite(rw, r, c, to)
		return
	}
	if !w.tunnels.allow(to) {
		w.deny(rw, r, to, w.whyNot(to))
		return
	}
	w.connectTunnel(rw, r, c, to)
}

// whyNot returns why no tunnel leads to a target.
func (w *ListenerWrapper) whyNot(to target) denied {
	if w.tunnels.allowHost(to.host) {
		return deniedPort
	}
	return deniedHost
}

// connectSite hands the connection to Caddy's TLS, after it has seen that the client wants the same host there.
func (w *ListenerWrapper) connectSite(rw http.ResponseWriter, r *http.Request, c *conn, to target) {
	if to.port != portTLS {
		w.deny(rw, r, to, deniedPort)
		return
	}
	if to.root { // Caddy would take the request for one without a site, and answer it with an empty 200
		w.deny(rw, r, to, deniedRoot)
		return
	}
	if !w.takeOver(rw, c) {
		return
	}
	_ = c.SetReadDeadline(time.Now().Add(w.headerTimeout()))
	name, err := c.peekServerName()
	if err != nil {
		w.count(r, to, deniedTLS)
		_ = c.Close()
		return
	}
	if name != "" && !sameName(name, to.host) {
		w.count(r, to, deniedSNI)
		_, _ = c.Write(alertUnrecognizedName)
		_ = c.Close()
		return
	}
	_ = c.SetDeadline(time.Time{})
	counts.served[servedSite].Add(1)
	c.deliver(true)
}

// takeOver takes the connection from the HTTP server and answers the CONNECT. What the client has already sent after the
// CONNECT stays the beginning of what is read.
func (w *ListenerWrapper) takeOver(rw http.ResponseWriter, c *conn) bool {
	_, buffered, err := http.NewResponseController(rw).Hijack()
	if err != nil {
		return false
	}
	if n := buffered.Reader.Buffered(); n > 0 {
		ahead, _ := buffered.Reader.Peek(n)
		c.unread = slices.Concat(ahead, c.unread)
	}
	_ = c.SetWriteDeadline(time.Now().Add(w.headerTimeout()))
	if _, err := io.WriteString(c, established); err != nil {
		_ = c.Close()
		return false
	}
	return true
}

// connectTunnel connects the client to a host without a site here.
func (w *ListenerWrapper) connectTunnel(rw http.ResponseWriter, r *http.Request, near *conn, to target) {
	far, err := w.tunnels.dial(r.Context(), to)
	if err != nil {
		w.unreachable(rw, r, to, err)
		return
	}
	if !w.takeOver(rw, near) {
		_ = far.Close()
		return
	}
	_ = near.SetDeadline(time.Time{})
	counts.served[servedTunnel].Add(1)
	startTunnel(&w.tunnels, near, far)
}

func (w *ListenerWrapper) unreachable(rw http.ResponseWriter, r *http.Request, to target, err error) {
	switch netErr, ok := errors.AsType[net.Error](err); {
	case errors.Is(err, errSpecialAddress):
		w.deny(rw, r, to, deniedAddress)
	case r.Context().Err() != nil:
		// the client has left
	case ok && netErr.Timeout(), errors.Is(err, context.DeadlineExceeded):
		counts.served[servedUnreachable].Add(1)
		answerTimeout.write(rw)
	default:
		counts.served[servedUnreachable].Add(1)
		answerUnreachable.write(rw)
	}
	if c := w.logger.Check(zap.DebugLevel, "no tunnel"); c != nil {
		c.Write(zap.Stringer("target", to), zap.Error(err))
	}
}

// deny answers a request that the proxy denies, counts it, and logs it.
func (w *ListenerWrapper) deny(rw http.ResponseWriter, r *http.Request, to target, why denied) {
	w.count(r, to, why)
	why.answer().write(rw)
}

// count counts a denial, and logs it unless the same has been logged lately. The host is in its normal form, so that a client
// cannot write what it likes into the log.
func (w *ListenerWrapper) count(r *http.Request, to target, why denied) {
	counts.deny(to.host, why)
	if !w.logged.allow(to.host + " " + why.String()) {
		return
	}
	w.logger.Warn("denied a request to https_proxy: "+why.advice(),
		zap.String("host", to.host),
		zap.String("port", to.port),
		zap.Stringer("reason", why),
		zap.String("remote", r.RemoteAddr))
}
