//go:build unix

package caddymodule

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest/apart"
)

// reusable listens as Caddy does in another process of this user.
func reusable(t *testing.T, network, address string) net.Listener {
	t.Helper()
	config := net.ListenConfig{Control: func(_, _ string, conn syscall.RawConn) (err error) {
		controlErr := conn.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) })
		return errors.Join(controlErr, err)
	}}
	l, err := config.Listen(t.Context(), network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// TestLoopbackIsNotShared refuses an address that another process of the same user shares by SO_REUSEPORT.
func TestLoopbackIsNotShared(t *testing.T) {
	if apart.Run(t) {
		return
	}
	wantIPv6(t)
	for _, test := range []struct{ network, host, free string }{
		{"tcp", "127.0.0.1", "::1"}, {"tcp", "::1", "127.0.0.1"}, {"tcp4", "0.0.0.0", "::1"}, {"tcp6", "::", ""},
	} {
		t.Run(test.host, func(t *testing.T) {
			port := portNumber(freeAddr(t)) // a port that the system gives to no connection
			reusable(t, test.network, net.JoinHostPort(test.host, port))
			reusable(t, test.network, net.JoinHostPort(test.host, port)).Close() // otherwise the test needs no check
			l, err := listenLoopback(t.Context(), "loopback", "localhost", port, 0, net.ListenConfig{})
			if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(fmt.Sprint(err), ":"+port+": ") {
				t.Fatalf("got %v, %v", l, err)
			}
			if test.free == "" {
				return
			}
			again, err := net.Listen("tcp", net.JoinHostPort(test.free, port))
			if err != nil {
				t.Fatalf("the listener on %s is left open: %v", test.free, err)
			}
			again.Close()
		})
	}
}

// TestLoopbackOfTwoProcesses starts a second sidecar of the same user with the same port. It fails at once, and gets no request
// that is meant for the first. Once the first has ended, it starts.
func TestLoopbackOfTwoProcesses(t *testing.T) {
	addr := freeAddr(t)
	config := func(answer string) string {
		site := fmt.Sprintf("http://%s, http://localhost:%s {\n bind loopback/localhost\n respond %s\n}\n", addr, portNumber(addr), answer)
		return writeConfig(t, "Caddyfile", "{\n admin off\n persist_config off\n}\n"+site)
	}
	first, second := config("first"), config("second")
	wantAnswer := func(want string) {
		t.Helper()
		eventually(t, want+" answers", func() bool { return getText("http://"+addr) == want })
	}
	_, process := startBinary(t, t.TempDir(), first)
	wantAnswer("first")
	log, other := startBinary(t, t.TempDir(), second)
	eventually(t, "an error of the second sidecar", func() bool {
		return strings.Contains(log.String(), "listen tcp "+addr+": bind: address already in use; end the other process")
	})
	if err := other.Wait(); err == nil {
		t.Error("the second sidecar ends without an error")
	}
	for range 20 { // each on a connection of its own
		if got := getText("http://" + addr); got != "first" {
			t.Errorf("got %q", got)
		}
	}
	if err := process.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = process.Wait()
	startBinary(t, t.TempDir(), second)
	wantAnswer("second")
}

// getText returns the body of an answer on a connection of its own, or an empty text without an answer.
func getText(url string) string {
	transport := new(http.Transport)
	defer transport.CloseIdleConnections()
	res, err := (&http.Client{Transport: transport}).Get(url)
	if err != nil {
		return ""
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(res.Body)
	return string(body)
}

// TestLoopbackReloads replaces the listeners of this process with those of the network loopback, and back.
func TestLoopbackReloads(t *testing.T) {
	wantIPv6(t)
	addr := freeAddr(t)
	port := portNumber(addr)
	config := func(step int, bind string) string {
		return fmt.Sprintf("{\n}\nhttp://:%s {\n %s\n respond step-%d\n}\n", port, bind, step)
	}
	server := startCaddy(t, config(0, "bind loopback/localhost"))
	for step, bind := range []string{
		"bind loopback/localhost", "bind 127.0.0.1", "bind loopback/localhost", "bind localhost", "bind loopback/localhost", "",
		"bind loopback/localhost", "bind tcp4/0.0.0.0", "bind loopback/localhost", "bind [::]", "bind loopback/localhost", "bind [::1]", "bind loopback/localhost",
	} {
		if err := server.load(config(step, bind)); err != nil {
			t.Fatalf("%d: %q: %v", step, bind, err)
		}
	}
	if err := server.load(strings.ReplaceAll(config(100, "bind loopback/localhost"), port, portNumber(freeAddr(t)))); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the old listener to be closed", func() bool {
		l, err := net.Listen("tcp", addr)
		return err == nil && l.Close() == nil
	})
	if err := server.load(config(101, "bind loopback/localhost")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the last configuration answers", func() bool { return getText("http://"+addr) == "step-101" })
}
