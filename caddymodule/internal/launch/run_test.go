//go:build unix

package launch

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The processes of these tests are this test's own binary, with a role.
const roleVariable = "LAUNCH_TEST_ROLE"

func TestMain(m *testing.M) {
	switch role := os.Getenv(roleVariable); role {
	case "":
		signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP) // under nohup, the processes would inherit that it is ignored
		os.Exit(m.Run())
	case "exec":
		runExec()
	case "asked":
		runAsked()
	case "counter":
		runCounter()
	case "open", "concealed":
		runHolder(role)
	default:
		runSidecar(role)
	}
}

// runExec runs the Program in the last argument.
func runExec() {
	var p Program
	if err := json.Unmarshal([]byte(os.Args[1]), &p); err != nil {
		panic(err)
	}
	status, err := p.Run()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(status)
}

// runSidecar behaves as the role says. Its first argument is a folder, where it leaves the file "ended" at an orderly end.
func runSidecar(role string) {
	folder, address := os.Args[1], os.Args[2]
	in := func(name string) string { return filepath.Join(folder, name) }
	if role == "fails" {
		os.Exit(7)
	}
	parent, err := Attach(os.Stdin, address)
	if err != nil {
		panic(err)
	}
	mark(in("sidecar"), strconv.Itoa(os.Getpid()))
	if role != "slow" {
		if err := parent.Ready(); err != nil {
			panic(err)
		}
	}
	if role == "dies" {
		for !exists(in("die")) {
			time.Sleep(10 * time.Millisecond)
		}
		os.Exit(7)
	}
	parent.Wait()
	if role == "stubborn" {
		select {}
	}
	mark(in("ended"), "")
}

// mark makes a file in one step.
func mark(name, content string) {
	if err := os.WriteFile(name+".tmp", []byte(content), 0o600); err != nil {
		panic(err)
	}
	if err := os.Rename(name+".tmp", name); err != nil {
		panic(err)
	}
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

// trial is one run of exec.
type trial struct {
	t      *testing.T
	folder string
	cmd    *exec.Cmd
	out    bytes.Buffer
	errs   bytes.Buffer
	done   chan struct{}
}

// startTrial runs a shell script as the application. In the script, $1 is the folder of the trial.
func startTrial(t *testing.T, role, script string, change ...func(*Program)) *trial {
	t.Helper()
	tr := &trial{t: t, folder: t.TempDir(), done: make(chan struct{})}
	p := Program{
		Sidecar:     []string{"/usr/bin/env", roleVariable + "=" + role, os.Args[0], tr.folder},
		Application: []string{"/bin/sh", "-c", script, "sh", tr.folder},
		Environment: []string{"PATH=" + os.Getenv("PATH"), "MARK=set"},
		Wait:        time.Minute,
		Grace:       time.Minute,
	}
	for _, change := range change {
		change(&p)
	}
	config, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	tr.cmd = exec.Command(os.Args[0], string(config))
	tr.cmd.Env = append(os.Environ(), roleVariable+"=exec")
	tr.cmd.Stdin = strings.NewReader("input\n")
	tr.cmd.Stdout, tr.cmd.Stderr = &tr.out, &tr.errs
	if err := tr.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = tr.cmd.Wait()
		close(tr.done)
	}()
	t.Cleanup(func() { _ = tr.cmd.Process.Kill() })
	return tr
}

// await waits for a file of the trial, and returns its content.
func (tr *trial) await(name string) string {
	tr.t.Helper()
	path := filepath.Join(tr.folder, name)
	for deadline := time.Now().Add(time.Minute); !exists(path); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			tr.t.Fatalf("the file %s does not appear: %s", name, tr.errs.String())
		}
	}
	content, err := os.ReadFile(path)
	if err != nil {
		tr.t.Fatal(err)
	}
	return strings.TrimSpace(string(content))
}

func (tr *trial) signal(sig syscall.Signal) {
	tr.t.Helper()
	if err := tr.cmd.Process.Signal(sig); err != nil {
		tr.t.Fatal(err)
	}
}

// want waits for the end of exec, and checks its exit status and parts of what it writes to the standard error.
func (tr *trial) want(status int, parts ...string) {
	tr.t.Helper()
	select {
	case <-tr.done:
	case <-time.After(time.Minute):
		tr.t.Fatal("exec does not end")
	}
	errs := tr.errs.String()
	if got := tr.cmd.ProcessState.ExitCode(); got != status {
		tr.t.Errorf("the status is %d, want %d: %s", got, status, errs)
	}
	for _, part := range parts {
		if !strings.Contains(errs, part) {
			tr.t.Errorf("it writes %q, want %q in it", errs, part)
		}
	}
	if len(parts) == 0 && errs != "" {
		tr.t.Errorf("it writes %q", errs)
	}
}

func (tr *trial) wantOrderlyEnd() {
	tr.t.Helper()
	if !exists(filepath.Join(tr.folder, "ended")) {
		tr.t.Error("the sidecar has had no orderly end")
	}
}

// wantGone waits until no process has the number in the file.
func (tr *trial) wantGone(name string) {
	tr.t.Helper()
	pid, err := strconv.Atoi(tr.await(name))
	if err != nil {
		tr.t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); !gone(pid); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			tr.t.Fatalf("the process of %s runs on", name)
		}
	}
}

// gone reports whether a process has ended. A zombie counts, because init may be slow to reap it, or not do so at all.
func gone(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return true
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && strings.Contains(string(stat), ") Z ")
}

func TestRunReturnsTheStatusOfTheApplication(t *testing.T) {
	tr := startTrial(t, "ready", `read line; echo "$line $MARK $LAUNCH_TEST_ROLE."; exit 42`)
	tr.want(42)
	tr.wantOrderlyEnd()
	if got := tr.out.String(); got != "input set .\n" {
		t.Errorf("the application writes %q", got)
	}
	tr = startTrial(t, "ready", "exit 0")
	tr.want(0)
	tr = startTrial(t, "ready", "kill -KILL $$")
	tr.want(128 + 9)
	tr.wantOrderlyEnd()
}

func TestRunHandsSignalsOn(t *testing.T) {
	const script = `trap 'echo USR1 >"$1/usr1"' USR1; trap 'exit 9' TERM; echo $$ >"$1/tmp"; mv "$1/tmp" "$1/app"; while :; do sleep 0.1; done`
	tr := startTrial(t, "ready", script)
	tr.await("app")
	tr.signal(syscall.SIGUSR1)
	if got := tr.await("usr1"); got != "USR1" {
		t.Errorf("it gets %q", got)
	}
	tr.signal(syscall.SIGTERM)
	tr.want(9)
	tr.wantOrderlyEnd()

	// An application that does not handle the signal dies of it.
	for _, sig := range []syscall.Signal{syscall.SIGHUP, syscall.SIGTERM, syscall.SIGINT} {
		tr := startTrial(t, "ready", `echo $$ >"$1/tmp"; mv "$1/tmp" "$1/app"; exec sleep 600`)
		tr.await("app")
		tr.signal(sig)
		tr.want(128 + int(sig))
		tr.wantOrderlyEnd()
	}
}

// TestRunWhileTheSidecarStarts ends without an application.
func TestRunWhileTheSidecarStarts(t *testing.T) {
	const script = `echo >"$1/app"`
	trials := []*trial{startTrial(t, "slow", script)}
	trials[0].await("sidecar")
	trials[0].signal(syscall.SIGUSR2) // no reason to end
	trials[0].signal(syscall.SIGTERM)
	trials[0].want(128 + 15)
	trials[0].wantOrderlyEnd()

	late := startTrial(t, "slow", script, func(p *Program) { p.Wait = time.Millisecond })
	late.want(StatusFailed, "no token after 1ms")
	failing := startTrial(t, "fails", script)
	failing.want(StatusFailed, "the sidecar has ended: exit status 7")
	missing := startTrial(t, "ready", script, func(p *Program) { p.Sidecar = []string{"/nowhere"} })
	missing.want(StatusFailed, "starting the sidecar")
	for _, tr := range append(trials, late, failing, missing) {
		if exists(filepath.Join(tr.folder, "app")) {
			t.Error("the application ran")
		}
	}
}

func TestRunWithoutTheApplication(t *testing.T) {
	tr := startTrial(t, "ready", "", func(p *Program) { p.Application = []string{"/nowhere/app"} })
	tr.want(statusNotFound, "starting the application")
	tr.wantOrderlyEnd()
	tr = startTrial(t, "ready", "", func(p *Program) { p.Application = []string{"not-in-the-path"} })
	tr.want(statusNotFound, "starting the application")
	tr = startTrial(t, "ready", "", func(p *Program) { p.Application = []string{"/etc/passwd"} })
	tr.want(statusNotExecutable, "starting the application")
}

// TestRunWhenTheSidecarDies ends the application, also one that takes no notice of SIGTERM.
func TestRunWhenTheSidecarDies(t *testing.T) {
	const begin = `echo $$ >"$1/tmp"; mv "$1/tmp" "$1/app"; : >"$1/die"; `
	tr := startTrial(t, "dies", `trap 'echo >"$1/asked"; exit 0' TERM; `+begin+`while :; do sleep 0.1; done`)
	tr.want(StatusFailed, "the sidecar has ended: exit status 7, so exec has ended the application")
	tr.await("asked")

	tr = startTrial(t, "dies", `trap '' TERM; `+begin+`while :; do sleep 0.1; done`, func(p *Program) { p.Grace = 100 * time.Millisecond })
	tr.want(StatusFailed, "exec has ended the application")
	tr.wantGone("app")
}

func TestRunKillsAStubbornSidecar(t *testing.T) {
	tr := startTrial(t, "stubborn", "exit 3", func(p *Program) { p.Grace = 100 * time.Millisecond })
	tr.want(3)
	tr.wantGone("sidecar")
}

// TestSidecarEndsWithExec ends the sidecar even if exec is killed.
func TestSidecarEndsWithExec(t *testing.T) {
	tr := startTrial(t, "ready", `echo $$ >"$1/tmp"; mv "$1/tmp" "$1/app"; exec sleep 600`)
	pid, err := strconv.Atoi(tr.await("app"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Kill(pid, syscall.SIGKILL) }()
	tr.signal(syscall.SIGKILL)
	tr.await("ended")
	tr.wantGone("sidecar")
}

// TestIgnoredSignalsStayIgnored is for nohup.
func TestIgnoredSignalsStayIgnored(t *testing.T) {
	tr := startTrial(t, "ready", `kill -HUP $$; kill -HUP $PPID; exit 4`, func(p *Program) {})
	tr.want(128 + 1) // the control: without nohup, it dies
	dir := t.TempDir()
	p, err := json.Marshal(Program{
		Sidecar:     []string{"/usr/bin/env", roleVariable + "=ready", os.Args[0], dir},
		Application: []string{"/bin/sh", "-c", `kill -HUP $$; kill -HUP $PPID; exit 4`},
		Wait:        time.Minute, Grace: time.Minute,
	})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/bin/sh", "-c", `trap '' HUP; exec "$0" "$1"`, os.Args[0], string(p))
	cmd.Env = append(os.Environ(), roleVariable+"=exec")
	if out, err := cmd.CombinedOutput(); cmd.ProcessState.ExitCode() != 4 {
		t.Errorf("%v: %s", err, out)
	}
}

// TestReadinessHearsOnlyTheSidecar ignores connections without the password.
func TestReadinessHearsOnlyTheSidecar(t *testing.T) {
	r, err := newReadiness()
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	heard := func(password string) bool {
		here, there := net.Pipe()
		go func() {
			_, _ = io.WriteString(there, password)
			_ = there.Close()
		}()
		r.hear(here)
		select {
		case <-r.ready:
			return true
		default:
			return false
		}
	}
	for _, password := range []string{"", "x\n", strings.Repeat("x", len(r.password)-1) + "\n", r.password[:len(r.password)-1]} {
		if heard(password) {
			t.Errorf("it hears a stranger with %q", password)
		}
	}
	if !heard(r.password) {
		t.Error("it does not hear the sidecar")
	}

	// A silent connection delays no other.
	silent, err := net.Dial("tcp", r.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	if err := (&Parent{address: r.listener.Addr().String(), password: r.password}).Ready(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-r.ready:
	case <-time.After(time.Minute):
		t.Error("the sidecar is not heard")
	}
}

func TestAttachNeedsAParent(t *testing.T) {
	if _, err := Attach(strings.NewReader("no line"), "127.0.0.1:1"); err == nil {
		t.Error("it attaches to nothing")
	}
	var failure *net.OpError
	err := (&Parent{address: "127.0.0.1:1"}).Ready()
	if !errors.As(err, &failure) {
		t.Errorf("the error is %v", err)
	}
}
