package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest/apart"
)

// wantIPv6 skips a test on a machine without IPv6.
func wantIPv6(t *testing.T) {
	t.Helper()
	l, err := net.Listen("tcp", "[::1]:0")
	if isMissing(err) {
		t.Skip("SKIPPED: this machine has no ::1")
	}
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}

// Node 17 to 19 ask ::1 alone for localhost, and others ask 127.0.0.1. Both reach the proxy, and both are loopback.
func TestLoopbackHasTwoAddresses(t *testing.T) {
	wantIPv6(t)
	addr, api := freeAddr(t), freeAddr(t)
	port := portNumber(addr)
	config := func(answer string) string {
		return fmt.Sprintf(`{
			token_proxy {
				credential catalog {
					provider optoro {
						token_url http://%[1]s/oauth/token
					}
					client_id dev-client
					client_secret dev-secret
				}
			}
		}
		http://%[2]s, http://localhost:%[3]s, http://[::1]:%[3]s {
			bind loopback/localhost
			header X-Config %[4]s
			token_proxy catalog http://%[1]s
		}
		http://:%[5]s { # the API gets the Host of the application
			bind 127.0.0.1
			dev_token_endpoint /oauth/* optoro
			dev_api
		}
		`, api, addr, port, answer, portNumber(api))
	}
	server := startCaddy(t, config("one"))
	ask := func(t *testing.T, dial, host, answer string) {
		t.Helper()
		transport := &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, net.JoinHostPort(dial, port))
		}}
		defer transport.CloseIdleConnections()
		res, err := (&http.Client{Transport: transport}).Get("http://" + net.JoinHostPort(host, port) + "/orders")
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, _ := io.ReadAll(res.Body)
		if res.StatusCode != http.StatusOK || res.Header.Get("X-Config") != answer || !strings.Contains(string(body), `"path":"/orders"`) {
			t.Errorf("status %d, X-Config %q: %s", res.StatusCode, res.Header.Get("X-Config"), body)
		}
	}
	askAll := func(t *testing.T, answer string) {
		for _, dial := range []string{"127.0.0.1", "::1"} {
			for _, host := range []string{"localhost", "127.0.0.1", "::1"} {
				t.Run(dial+" as "+host+", "+answer, func(t *testing.T) { ask(t, dial, host, answer) })
			}
		}
	}
	askAll(t, "one")
	if err := server.load(config("two")); err != nil { // the new listeners overlap the old ones
		t.Fatal(err)
	}
	askAll(t, "two")
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{"127.0.0.1", "::1"} {
		eventually(t, address+" is free", func() bool { // Caddy closes its sockets after Stop has returned
			l, err := net.Listen("tcp", net.JoinHostPort(address, port))
			if err == nil {
				l.Close()
			}
			return err == nil
		})
	}
}

// Another process on one of the two addresses would answer a part of the requests, so Caddy does not start beside it.
func TestLoopbackInUse(t *testing.T) {
	if apart.Run(t) {
		return
	}
	wantIPv6(t)
	for _, address := range []string{"127.0.0.1", "::1"} {
		t.Run(address, func(t *testing.T) {
			port := portNumber(freeAddr(t)) // a port that the system gives to no connection
			other, err := net.Listen("tcp", net.JoinHostPort(address, port))
			if err != nil {
				t.Fatal(err)
			}
			defer other.Close()
			l, err := listenLoopback(t.Context(), "loopback", "localhost", port, 0, net.ListenConfig{})
			if !errors.Is(err, syscall.EADDRINUSE) {
				t.Errorf("got %v, %v", l, err)
			}
			free := map[string]string{"127.0.0.1": "::1", "::1": "127.0.0.1"}[address]
			again, err := net.Listen("tcp", net.JoinHostPort(free, port))
			if err != nil {
				t.Fatalf("the listener on %s is left open: %v", free, err)
			}
			again.Close()
		})
	}
}

// The network has one address, so that a mistyped one is not taken for another.
func TestLoopbackAddresses(t *testing.T) {
	for _, host := range []string{"", "127.0.0.1", "::1", "0.0.0.0", "example.com", "LOCALHOST", "localhost.", "127.0.0.2", "::", "localhost.localdomain"} {
		if l, err := listenLoopback(t.Context(), "loopback", host, "0", 0, net.ListenConfig{}); err == nil || !strings.Contains(err.Error(), "loopback/localhost") {
			t.Errorf("%q: got %v, %v", host, l, err)
		}
	}
	for err, want := range map[error]bool{
		syscall.EADDRNOTAVAIL: true, syscall.EAFNOSUPPORT: true, syscall.Errno(10049): true, syscall.Errno(10047): true,
		syscall.EADDRINUSE: false, syscall.EACCES: false, syscall.EMFILE: false, net.ErrClosed: false, context.Canceled: false, nil: false,
	} {
		if err != nil {
			err = &net.OpError{Op: "listen", Err: err}
		}
		if got := isMissing(err); got != want {
			t.Errorf("%v: got %t", err, got)
		}
	}
}

// scripted is a listener whose connections and errors a test sends.
type scripted struct {
	net.Listener
	accepts chan acceptance
	closed  chan struct{}
}

func (s scripted) Accept() (net.Conn, error) {
	select {
	case a := <-s.accepts:
		return a.conn, a.err
	case <-s.closed:
		return nil, net.ErrClosed
	}
}

func (s scripted) Close() error {
	close(s.closed)
	return nil
}

// Errors reach net/http, a connection that comes with the end is closed, and nothing is left behind.
func TestJointListener(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, two := scripted{accepts: make(chan acceptance), closed: make(chan struct{})}, scripted{accepts: make(chan acceptance), closed: make(chan struct{})}
		l := newJointListener([]net.Listener{one, two})
		near, far := net.Pipe()
		for _, from := range []scripted{one, two, one} {
			from.accepts <- acceptance{conn: near}
			if conn, err := l.Accept(); conn != near || err != nil {
				t.Errorf("got %v, %v", conn, err)
			}
			from.accepts <- acceptance{err: syscall.EMFILE} // net/http waits and accepts again
			if _, err := l.Accept(); err != syscall.EMFILE {
				t.Errorf("got %v", err)
			}
		}
		two.accepts <- acceptance{conn: near} // nothing accepts it any more
		synctest.Wait()
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if _, err := far.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("the connection that was not accepted is left open: %v", err)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("got %v", err)
		}
	})
}

// TestLoopbackWithoutIPv6 runs the product in a network without ::1, as many containers are.
func TestLoopbackWithoutIPv6(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"unshare", "ip", "curl"} {
		if _, err := exec.LookPath(tool); err != nil || runtime.GOOS != "linux" {
			t.Skipf("SKIPPED: it needs Linux and %s", tool)
		}
	}
	if out, err := exec.Command("unshare", "-rn", "sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6").CombinedOutput(); err != nil {
		t.Skipf("SKIPPED: this user may make no network: %v %s", err, out)
	}
	path := product(t)
	run := func(bind string) string {
		config := filepath.Join(t.TempDir(), "Caddyfile")
		writeFile(t, config, "{\n\tadmin off\n}\nhttp://127.0.0.1:8080, http://localhost:8080 {\n\tbind "+bind+"\n\trespond served\n}\n")
		script := `
			ip link set lo up
			echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6
			timeout -s KILL 20 "$0" run --config "$1" > "$1.log" 2>&1 &
			for i in 1 2 3 4 5 6 7 8 9 10; do
				curl -sS --max-time 5 http://localhost:8080/ && break
				kill -0 $! || break
				sleep 0.5
			done
			kill -9 $!
			cat "$1.log"`
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, "unshare", "-rn", "--kill-child", "-f", "-p", "bash", "-c", script, path, config)
		cmd.WaitDelay = time.Second
		cmd.Env = append(cmd.Environ(), "HOME="+t.TempDir(), "XDG_CONFIG_HOME=", "XDG_DATA_HOME=")
		out, _ := cmd.CombinedOutput()
		return string(out)
	}
	if out := run("loopback/localhost"); !strings.Contains(out, "served") {
		t.Errorf("the product does not serve without IPv6:\n%s", out)
	}
	if out := run("127.0.0.1 [::1]"); !strings.Contains(out, "listening on [::1]:8080") { // otherwise the network is not needed
		t.Errorf("Caddy starts without ::1 by itself, or the test has IPv6:\n%s", out)
	}
}
