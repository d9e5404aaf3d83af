package apart

import (
	"flag"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// A test that calls Run runs in another process, and what becomes of it there becomes of it here.
func TestRun(t *testing.T) {
	for name, want := range map[string]struct {
		status int
		text   string
	}{
		"passes":  {0, "--- PASS: TestRehearsed "},
		"fails":   {1, "it was told to fail"},
		"skips":   {0, "--- SKIP: TestRehearsed "},
		"panics":  {1, "it was told to panic"},
		"leaves":  {1, "the process has not run the test"},
		"subtest": {0, "--- PASS: TestRehearsed/one "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run := "^TestRehearsed$"
			if name == "subtest" {
				run += "/^one$"
			}
			cmd := exec.Command(os.Args[0], "-test.run="+run, "-test.v", "-test.count=1", "-rehearse", name)
			out, err := cmd.CombinedOutput()
			if cmd.ProcessState == nil {
				t.Fatal(err)
			}
			if status := cmd.ProcessState.ExitCode(); status != want.status || !strings.Contains(string(out), want.text) {
				t.Errorf("status %d, want %d and %q:\n%s", status, want.status, want.text, out)
			}
			if name == "subtest" && strings.Contains(string(out), "/two") {
				t.Errorf("another subtest ran:\n%s", out)
			}
		})
	}
}

var rehearse = flag.String("rehearse", "", "what TestRehearsed does in its process")

// TestRehearsed does what TestRun wants of it, and nothing without TestRun.
func TestRehearsed(t *testing.T) {
	if *rehearse == "" {
		return
	}
	if Run(t) {
		return
	}
	switch *rehearse {
	case "fails":
		t.Error("it was told to fail")
	case "skips":
		t.Skip("it was told to skip")
	case "panics":
		panic("it was told to panic")
	case "leaves":
		os.Exit(0)
	default:
		t.Run("one", func(*testing.T) {})
		t.Run("two", func(*testing.T) {})
	}
}
