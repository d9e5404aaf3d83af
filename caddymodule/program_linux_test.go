package caddymodule

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// openTerminal returns both ends of a pseudo-terminal.
func openTerminal(t *testing.T) (user, program *os.File) {
	t.Helper()
	user, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("there are no terminals: %v", err)
	}
	t.Cleanup(func() { _ = user.Close() })
	if err := unix.IoctlSetPointerInt(int(user.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Skipf("terminals cannot be unlocked: %v", err)
	}
	number, err := unix.IoctlGetInt(int(user.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("the terminal cannot be opened: %v", err)
	}
	t.Cleanup(func() { _ = program.Close() })
	return user, program
}

// On a terminal, --print-header prints what the API would get.
func TestBinaryPrintsTheHeaderOnATerminal(t *testing.T) {
	t.Parallel()
	path := product(t)
	user, program := openTerminal(t)
	good := newTokenServer(t)
	config := writeConfig(t, "Caddyfile", globalOptions(good.credential("good"), newTokenServer(t).credential("other")))
	cmd := exec.CommandContext(t.Context(), path, "tokens", "check", "other", "--print-header", "good", "--config", config)
	cmd.Stdout = program
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	_ = program.Close() // so that reading ends
	var printed string
	for lines := bufio.NewScanner(user); lines.Scan(); {
		line := strings.TrimSpace(lines.Text())
		if value, ok := strings.CutPrefix(line, "Authorization: Bearer "); ok {
			printed = value
			break
		}
	}
	if token, _ := good.tokens.Lookup(printed); token.Value == "" || token.ClientID != good.ClientID {
		t.Errorf("it prints %q, which is no token of the endpoint", printed)
	}
}
