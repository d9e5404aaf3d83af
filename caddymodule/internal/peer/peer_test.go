package peer

import (
	"crypto/tls"
	"net"
	"testing"
)

// wrappedConn embeds a connection, as most wrappers do.
type wrappedConn struct{ net.Conn }

// hidden embeds a connection under a name at which Socket does not look.
type hidden struct{ inner }

type inner = net.Conn

// selfConn is a wrapper that says it is around itself.
type selfConn struct{ net.Conn }

func (c selfConn) NetConn() net.Conn { return c }

// optionalConn embeds a wrapper as a pointer, which can be nil.
type optionalConn struct{ *wrappedConn }

// The socket is found below the usual wrappers. Whatever a wrapper is like, to look does not take the server down.
func TestSocketOf(t *testing.T) {
	tcp, unix := new(net.TCPConn), new(net.UnixConn)
	for name, tc := range map[string]struct{ conn, want net.Conn }{
		"TCP":                     {tcp, tcp},
		"unix":                    {unix, unix},
		"TLS":                     {tls.Server(unix, nil), unix},
		"embedded":                {&wrappedConn{tcp}, tcp},
		"embedded, deeply":        {&wrappedConn{wrappedConn{tls.Server(&wrappedConn{tcp}, nil)}}, tcp},
		"embedded in an embedded": {optionalConn{wrappedConn: &wrappedConn{tcp}}, tcp},
		"a nil pointer":           {optionalConn{}, nil},
		"a nil connection":        {wrappedConn{}, nil},
		"nothing":                 {nil, nil},
		"hidden":                  {hidden{tcp}, nil},
		"itself":                  {selfConn{tcp}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Socket(tc.conn); got != tc.want {
				t.Errorf("got %T, want %T", got, tc.want)
			}
		})
	}
}
