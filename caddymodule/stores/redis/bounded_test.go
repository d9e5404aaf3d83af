package redis

import (
	"fmt"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"
)

func TestScanner(t *testing.T) {
	for answers, want := range map[string]bool{
		"+OK\r\n:1\r\n-ERR x\r\n$-1\r\n*-1\r\n*0\r\n$0\r\n\r\n": true,
		"$5\r\n$9999999999\r\n":                                 true, // a text of 5 bytes with its end, and the rest of a line
		"$12\r\n$9999999999\n\r\n+OK\r\n":                       true, // a size in a text is none
		"*2\r\n$1\r\na\r\n*1\r\n:1\r\n":                         true,
		"$1048576\r\n":                                          true,
		"$1048577\r\n":                                          false,
		"=1048577\r\n":                                          false,
		"!1048577\r\n":                                          false,
		"$9223372036854775807\r\n":                              false,
		"$92233720368547758070000000000000\r\n":                 false,
		"$" + strings.Repeat("1", 100) + "\r\n":                 false,
		"$-2\r\n":                                               false,
		"$x\r\n":                                                false,
		"$?\r\n":                                                false,
		"*65535\r\n":                                            true,
		"*65536\r\n":                                            false,
		"~65536\r\n":                                            false,
		"%32767\r\n":                                            true,
		"%32768\r\n":                                            false,
		"|32768\r\n":                                            false,
		">65536\r\n":                                            false,
		strings.Repeat("*1\r\n", 65535):                         true,
		strings.Repeat("*1\r\n", 65536):                         false, // values in values in values
		strings.Repeat("*60000\r\n", 2):                         false,
		strings.Repeat("*1\r\n:1\r\n", 65536):                   true, // many answers
		"+" + strings.Repeat("$", 1000) + "\r\n":                true,
		"+" + strings.Repeat("$", 3<<20):                        false, // a line that does not end
		"*3\r\n" + strings.Repeat("$1000000\r\n"+strings.Repeat("a", 1000000)+"\r\n", 3): false,
		strings.Repeat("$1000000\r\n"+strings.Repeat("a", 1000000)+"\r\n", 3):            true, // many answers
	} {
		for _, piece := range []int{1, 3, 1 << 20} {
			var s scanner
			got := true
			for rest := answers; got && rest != ""; {
				n := min(piece, len(rest))
				got = s.accepts([]byte(rest[:n]))
				rest = rest[n:]
			}
			if got != want {
				t.Errorf("%.40q in pieces of %d: %v", answers, piece, got)
			}
		}
	}
}

// A server can do nothing worse than not to work, whether it is asked as a server, a Sentinel or a cluster.
func TestServerIsHostile(t *testing.T) {
	const huge = 1 << 40
	for _, answer := range []string{
		fmt.Sprintf("$%d\r\n", huge), fmt.Sprintf("*%d\r\n", huge), "$9223372036854775800\r\n", "*9223372036854775800\r\n", "*-9\r\n",
		"*1\r\n$1\r\na\r\n", "*3\r\n$1\r\na\r\n$1\r\na\r\n$1\r\na\r\n", "*0\r\n", "*1\r\n*0\r\n", "*1\r\n*3\r\n:0\r\n:9\r\n*0\r\n", "%1\r\n+a\r\n+b\r\n",
		"*1\r\n*3\r\n:0\r\n:99999999\r\n*2\r\n$1\r\na\r\n:1\r\n", strings.Repeat("*1\r\n", 100_000),
	} {
		for kind, o := range map[string]options{
			"server":   {},
			"Sentinel": {"master_name": "main"},
			"cluster":  {"cluster": true},
		} {
			e := open(t, o.with("addresses", []string{hostile(t, answer)}))
			value, err := e.Load(within(t), name)
			if err == nil {
				t.Errorf("%s, %.20q: %q", kind, answer, value)
			}
			if owner, err := e.Claim(within(t), name, []byte("me"), time.Minute); err == nil {
				t.Errorf("%s, %.20q: %q", kind, answer, owner)
			}
		}
	}
}

// A server sends without end, which must not fill the memory until the time of the call is over.
func TestServerSendsWithoutEnd(t *testing.T) {
	const piece = 1 << 20
	for name, answer := range map[string]struct{ begin, more string }{
		"a line":      {"+", strings.Repeat("a", piece)},
		"an error":    {"-ERR ", strings.Repeat("a", piece)},
		"many texts":  {"*60000\r\n", fmt.Sprintf("$%d\r\n%s\r\n", piece, strings.Repeat("a", piece))},
		"many values": {"*60000\r\n", strings.Repeat(":1\r\n", piece/4)},
	} {
		t.Run(name, func(t *testing.T) {
			e := open(t, at(endless(t, answer.begin, answer.more)))
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			if owner, err := e.Claim(within(t), "token_proxy/v1/0123/claim", []byte("me"), time.Minute); err == nil {
				t.Errorf("%.20q", owner)
			}
			runtime.ReadMemStats(&after)
			if grown := after.TotalAlloc - before.TotalAlloc; grown > 16<<20 {
				t.Errorf("one call has taken %d MiB", grown>>20)
			}
		})
	}
}

// endless starts a server that answers everything with begin, and then with more for as long as it can.
func endless(t *testing.T, begin, more string) string {
	t.Helper()
	return serving(t, func(conn net.Conn) {
		_, err := conn.Read(make([]byte, 4096))
		for next := begin; err == nil; next = more {
			_, err = conn.Write([]byte(next))
		}
	})
}

// hostile starts a server that does not know HELLO, and gives the same answer to everything else.
func hostile(t *testing.T, answer string) string {
	t.Helper()
	return serving(t, func(conn net.Conn) {
		buf := make([]byte, 4096)
		for next := "-ERR\r\n"; ; next = answer {
			if _, err := conn.Read(buf); err != nil {
				return
			}
			if _, err := conn.Write([]byte(next)); err != nil {
				return
			}
		}
	})
}
