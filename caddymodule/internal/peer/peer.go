// Package peer finds and judges the other end of the connection that a request came over.
package peer

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"reflect"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/quic-go/quic-go/http3"
)

// connection is the connection that a request came over.
type connection struct {
	shown  net.Conn // with its listener wrappers; one such as proxy_protocol can report any address
	socket net.Conn // without its listener wrappers; nil if a wrapper hides it
}

// connectionKey is the context key of a *connection. Only this package can use it.
type connectionKey struct{}

// RememberConnections puts the connection of each request of a server into the request's context. Caddy does not do so (it no
// longer sets caddyhttp.ConnCtxKey), and the addresses in a request are those that listener wrappers show.
func RememberConnections(ctx caddy.Context) {
	if server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); ok {
		server.RegisterConnContext(With)
	}
}

// With puts a connection into the context of its requests. It does not ask for the address that a wrapper shows,
// because that would wait for the client and keep the server from accepting other connections.
func With(ctx context.Context, conn net.Conn) context.Context {
	if ctx.Value(connectionKey{}) != nil { // each handler of the server registers this function
		return ctx
	}
	return WithSocket(ctx, conn, Socket(conn))
}

// WithSocket is With for a connection whose socket the caller knows.
func WithSocket(ctx context.Context, conn, socket net.Conn) context.Context {
	return context.WithValue(ctx, connectionKey{}, &connection{shown: conn, socket: socket})
}

// maxWrappers is the number of wrappers that Socket looks into. It ends the search if a wrapper returns itself.
const maxWrappers = 32

// Socket returns the kernel's socket below all wrappers, or nil.
func Socket(conn net.Conn) net.Conn {
	for range maxWrappers {
		switch c := conn.(type) {
		case *net.TCPConn, *net.UnixConn:
			return c
		case interface{ NetConn() net.Conn }: // crypto/tls
			conn = c.NetConn()
		case interface{ Raw() net.Conn }: // go-proxyproto
			conn = c.Raw()
		default:
			conn = embeddedConn(c)
		}
	}
	return nil
}

// embeddedConn returns the field Conn of a struct, or nil. Most wrappers, and those of Caddy's own servers, embed a net.Conn
// and have no method that returns it.
func embeddedConn(conn net.Conn) net.Conn {
	value := reflect.Indirect(reflect.ValueOf(conn))
	if value.Kind() != reflect.Struct {
		return nil
	}
	field, ok := value.Type().FieldByName("Conn")
	if !ok {
		return nil
	}
	embedded, err := value.FieldByIndexErr(field.Index)
	if err != nil || !embedded.CanInterface() {
		return nil
	}
	inner, _ := embedded.Interface().(net.Conn)
	return inner
}

// peer is the other end of a connection.
type peer struct {
	// local means loopback or a unix socket, by the socket and by what the listener wrappers show.
	local bool
	// addr is what the listener wrappers show. It is not valid on a unix socket, nor if they show a loopback address to
	// which the socket is not connected.
	addr netip.Addr
}

// of returns the peer of a request's connection.
func of(r *http.Request) peer {
	socket, shown := Addrs(r)
	addr, local := judge(shown)
	if _, socketLocal := judge(socket); local && !socketLocal {
		return peer{}
	}
	return peer{local: local, addr: addr}
}

// IsLoopback reports whether a request comes from this machine, over loopback or a unix socket. Both the socket and
// the address that the listener wrappers show must be local. A header of the PROXY protocol can claim any address, and a load
// balancer on this machine passes on the requests of other machines.
func IsLoopback(r *http.Request) bool { return of(r).local }

// Addrs returns the peer's address on the socket, which is nil if a wrapper hides the socket, and the address that listener
// wrappers show. HTTP/3 has no net.Conn and no listener wrappers.
func Addrs(r *http.Request) (socket, shown net.Addr) {
	ctx := r.Context()
	c, ok := ctx.Value(connectionKey{}).(*connection)
	if !ok {
		addr, _ := ctx.Value(http3.RemoteAddrContextKey).(net.Addr)
		return addr, addr
	}
	if c.socket != nil {
		socket = c.socket.RemoteAddr()
	}
	return socket, c.shown.RemoteAddr()
}

// judge returns the IP address in an address, if it has one, and reports whether it is an address of this machine.
func judge(a net.Addr) (addr netip.Addr, local bool) {
	switch a := a.(type) {
	case nil:
		return netip.Addr{}, false
	case *net.TCPAddr:
		addr = a.AddrPort().Addr()
	case *net.UDPAddr:
		addr = a.AddrPort().Addr()
	case *net.UnixAddr:
		return netip.Addr{}, true
	default: // an address of a listener wrapper's own type
		parsed, _ := netip.ParseAddrPort(a.String())
		addr = parsed.Addr()
	}
	addr = addr.Unmap().WithZone("")
	return addr, addr.IsLoopback()
}
