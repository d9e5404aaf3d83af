package caddymodule

import (
	"net/http"
	"reflect"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// hostOps are the header operations that reverse_proxy's own transport has if it encrypts.
var hostOps = &headers.HeaderOps{Set: http.Header{"Host": {"{http.reverse_proxy.upstream.hostport}"}}}

// headerOpsOf returns the header operations of a transport, or nil.
func headerOpsOf(transport http.RoundTripper) *headers.HeaderOps {
	t, ok := transport.(reverseproxy.RequestHeaderOpsTransport)
	if !ok {
		return nil
	}
	return t.RequestHeaderOps()
}

// leaveHost reports whether the injector sets Host in place of reverse_proxy. For the header operations of a transport, reverse_proxy
// makes another copy of the whole header, even if Host is all that they set. With header_up, it makes that copy in any case, and must
// set Host before header_up may change it.
func leaveHost(transport http.RoundTripper, configured *headers.Handler) bool {
	return (configured == nil || configured.Request == nil) && reflect.DeepEqual(headerOpsOf(transport), hostOps)
}

// setHost does what hostOps do.
func setHost(req *http.Request) {
	di, _ := reverseproxy.GetDialInfo(req.Context())
	req.Host = di.Address
}
