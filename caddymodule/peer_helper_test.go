package caddymodule

import (
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/peer"
)

// testConn is a connection that shows an address, of what another one is underneath.
type testConn struct {
	net.Conn
	remote net.Addr
}

func (c testConn) RemoteAddr() net.Addr { return c.remote }

// overConnection makes a request that arrives over a connection whose socket has one peer and whose listener wrappers show
// another.
func overConnection(socket, shown net.Addr) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "http://127.0.0.1:8080/", nil)
	r.RemoteAddr = shown.String()
	return r.WithContext(peer.WithSocket(r.Context(), testConn{remote: shown}, testConn{remote: socket}))
}

// peerRequest makes a request as it arrives from a peer at remote over network ("tcp" or "unix").
func peerRequest(remote, network string) *http.Request {
	addr := addrOf(remote, network)
	return overConnection(addr, addr)
}

func addrOf(remote, network string) net.Addr {
	if network == "unix" {
		return &net.UnixAddr{Net: "unix", Name: remote}
	}
	if addr, err := netip.ParseAddrPort(remote); err == nil {
		return net.TCPAddrFromAddrPort(addr)
	}
	return wrapperAddr(remote)
}

// wrapperAddr is an address of a type of its own.
type wrapperAddr string

func (wrapperAddr) Network() string  { return "tcp" }
func (a wrapperAddr) String() string { return string(a) }

// clientsOf is the option clients with one value.
func clientsOf(value string) peer.Clients {
	clients, err := peer.ParseClients([]string{value})
	if err != nil {
		panic(err)
	}
	return clients
}
