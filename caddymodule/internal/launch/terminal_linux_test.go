package launch

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// openTerminal returns both ends of a pseudo-terminal.
func openTerminal(t *testing.T) (user, program *os.File) {
	t.Helper()
	user, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("SKIPPED: there are no terminals: %v", err)
	}
	t.Cleanup(func() { _ = user.Close() })
	if err := unix.IoctlSetPointerInt(int(user.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Skipf("SKIPPED: terminals cannot be unlocked: %v", err)
	}
	number, err := unix.IoctlGetInt(int(user.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("SKIPPED: the terminal cannot be opened: %v", err)
	}
	t.Cleanup(func() { _ = program.Close() })
	return user, program
}

// TestTerminalInterruptsOnce presses Ctrl-C. The application gets one SIGINT, and the sidecar outlives it. A SIGINT that
// another process sends while exec has the terminal is not told from a key, so SIGTERM ends the application then.
func TestTerminalInterruptsOnce(t *testing.T) {
	user, program := openTerminal(t)
	folder := t.TempDir()
	p, err := json.Marshal(Program{
		Sidecar:     []string{"/usr/bin/env", roleVariable + "=ready", os.Args[0], folder},
		Application: []string{"/usr/bin/env", roleVariable + "=counter", os.Args[0], folder},
		Wait:        time.Minute, Grace: time.Minute,
	})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], string(p))
	cmd.Env = append(os.Environ(), roleVariable+"=exec")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = program, program, program
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill() }()
	tr := &trial{t: t, folder: folder}
	tr.await("app")
	if _, err := user.Write([]byte{3}); err != nil { // Ctrl-C
		t.Fatal(err)
	}
	tr.await("interrupted")
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if n := cmd.ProcessState.ExitCode(); n != 1 {
		t.Errorf("the application got %d interrupts, want 1", n)
	}
	tr.wantOrderlyEnd()
}

// TestFromTerminal asks a process in the foreground of a terminal, and one without a terminal.
func TestFromTerminal(t *testing.T) {
	_, program := openTerminal(t)
	for _, test := range []struct {
		name       string
		attributes syscall.SysProcAttr
		want       string
	}{
		{"foreground", syscall.SysProcAttr{Setsid: true, Setctty: true}, "interrupt true, quit true, terminated false"},
		{"no terminal", syscall.SysProcAttr{Setsid: true}, "interrupt false, quit false, terminated false"},
	} {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), roleVariable+"=asked")
		cmd.Stdin = program
		cmd.SysProcAttr = &test.attributes
		out, err := cmd.Output()
		if err != nil || string(out) != test.want {
			t.Errorf("%s: got %q, %v, want %q", test.name, out, err, test.want)
		}
	}
}

// runAsked reports which signals come from the terminal.
func runAsked() {
	fmt.Printf("interrupt %t, quit %t, terminated %t",
		fromTerminal(syscall.SIGINT), fromTerminal(syscall.SIGQUIT), fromTerminal(syscall.SIGTERM))
}

// runCounter is an application that counts its interrupts. A shell would take two that come together for one.
func runCounter() {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	mark(filepath.Join(os.Args[1], "app"), "")
	interrupts := 0
	for sig := range signals {
		if sig == syscall.SIGTERM {
			os.Exit(interrupts)
		}
		interrupts++
		mark(filepath.Join(os.Args[1], "interrupted"), "")
	}
}

// runHolder is a process that has a secret in its environment until its standard input ends.
func runHolder(role string) {
	if role == "concealed" {
		if err := Conceal(); err != nil {
			panic(err)
		}
	}
	fmt.Println("begun")
	_, _ = os.Stdin.Read(make([]byte, 1))
}

// TestConceal reads the environment of a process as the same user.
func TestConceal(t *testing.T) {
	// The user nobody, if the test runs as root, because root may read everything.
	var attributes *syscall.SysProcAttr
	if os.Getuid() == 0 {
		attributes = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	folder, err := os.MkdirTemp("", "conceal") // all users may enter it, unlike t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	if err := os.Chmod(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(folder, "program")
	content, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, content, 0o755); err != nil {
		t.Fatal(err)
	}
	environ := func(role string) string {
		cmd := exec.Command(program)
		cmd.Env = []string{roleVariable + "=" + role, "CLIENT_SECRET=se-cret"}
		cmd.Dir = folder
		cmd.SysProcAttr = attributes
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() {
			_ = in.Close()
			_ = cmd.Wait()
		}()
		if _, err := out.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		cat := exec.Command("/bin/cat", fmt.Sprintf("/proc/%d/environ", cmd.Process.Pid))
		cat.Dir = folder
		cat.SysProcAttr = attributes
		read, _ := cat.CombinedOutput()
		return string(read)
	}
	if got := environ("open"); !strings.Contains(got, "se-cret") {
		t.Fatalf("the control cannot be read: %q", got)
	}
	if got := environ("concealed"); strings.Contains(got, "se-cret") || !strings.Contains(got, "denied") {
		t.Errorf("another process of the user reads %q", got)
	}
}
