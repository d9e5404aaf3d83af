//go:build unix

package option

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest"
)

const canary = "the content of a file outside"

// newVolume returns a folder as the kubelet makes it, beside a file that no name in the folder may lead to.
func newVolume(t *testing.T) (folder, outside string) {
	t.Helper()
	parent := t.TempDir()
	folder, outside = filepath.Join(parent, "tenants"), filepath.Join(parent, "outside")
	writeFile(t, outside, canary)
	writeFile(t, filepath.Join(folder, "..2026_1", "acme", "id"), "id of acme")
	symlink(t, "..2026_1", filepath.Join(folder, "..data"))
	symlink(t, "..data/acme", filepath.Join(folder, "acme"))
	return folder, outside
}

func writeFile(t *testing.T, name, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func symlink(t *testing.T, to, name string) {
	t.Helper()
	if err := os.Symlink(to, name); err != nil {
		t.Fatal(err)
	}
}

func TestBeneath(t *testing.T) {
	folder, outside := newVolume(t)
	for _, read := range []func(name string) (string, error){
		ReadFile,
		func(name string) (string, error) {
			r, err := NewReader("{file." + name + "}")
			if err != nil {
				return "", err
			}
			s, err := r.Read()
			return s.Reveal(), err
		},
		func(name string) (string, error) { return ReplaceGlobals("{file." + name + "}") },
	} {
		if content, err := read(Beneath(folder, "acme/id")); err != nil || content != "id of acme" {
			t.Errorf("got %q, %v", content, err)
		}
		_, err := read(Beneath(folder, "nobody/id"))
		if !IsMissing(err) || !strings.Contains(err.Error(), filepath.Join(folder, "nobody/id")) {
			t.Errorf("a file that is not there: %v", err)
		}
		for what, rest := range map[string]string{
			"a parent": "../outside", "a parent further on": "acme/../../../outside", "an absolute path": outside,
			"a link": "link", "an absolute link": "absolute", "a link of a folder": "up/outside", "a link to a link": "far",
		} {
			for name, to := range map[string]string{"link": "../outside", "absolute": outside, "up": "..", "far": "link"} {
				_ = os.Symlink(to, filepath.Join(folder, name))
			}
			content, err := read(Beneath(folder, rest))
			if err == nil || strings.Contains(content+err.Error(), canary) || IsMissing(err) {
				t.Errorf("%s: got %q, %v", what, content, err)
			}
		}
	}
	// a missing folder is no proof that the file is missing
	if _, err := ReadFile(filepath.Join(folder, "nobody", "id")); err == nil || IsMissing(err) {
		t.Errorf("a file that is not one of the folder's: %v", err)
	}
	if _, err := ReadFile(Beneath(filepath.Join(folder, "gone"), "acme/id")); err == nil || IsMissing(err) {
		t.Errorf("a missing folder: %v", err)
	}
}

// What holds for files with a path holds for those in a folder.
func TestBeneathIrregularFiles(t *testing.T) {
	for what, name := range caddytest.IrregularFiles(t) {
		started := time.Now()
		_, err := ReadFile(Beneath(filepath.Dir(name), filepath.Base(name)))
		if err == nil || time.Since(started) > FileTimeout/2 {
			t.Errorf("%s: error %v after %s", what, err, time.Since(started))
		}
	}
	folder := t.TempDir()
	writeFile(t, filepath.Join(folder, "large"), strings.Repeat("x", maxSecretFile+1))
	if _, err := ReadFile(Beneath(folder, "large")); err == nil || !strings.HasSuffix(err.Error(), "is larger than 64 KiB") {
		t.Errorf("a large file: %v", err)
	}
	// a FIFO that takes the place of a file between the check and the opening
	if err := syscall.Mkfifo(filepath.Join(folder, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(folder)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	f, err := root.OpenFile("fifo", os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := readOpen(f, "fifo"); err == nil {
		t.Error("a FIFO was read")
	}
}

// The kubelet replaces the volume again and again. Every read finds the old content or the new, never nothing.
func TestBeneathWhileTheVolumeIsReplaced(t *testing.T) {
	folder, _ := newVolume(t)
	begun := make(chan struct{}) // one volume for each read
	done := make(chan struct{})
	go func() {
		defer close(done)
		n := 0
		for range begun {
			n++
			old, _ := os.Readlink(filepath.Join(folder, "..data"))
			next := "..2026_" + string(rune('a'+n%2))
			writeFile(t, filepath.Join(folder, next, "acme", "id"), "id of acme")
			_ = os.Symlink(next, filepath.Join(folder, "..data_tmp"))
			_ = os.Rename(filepath.Join(folder, "..data_tmp"), filepath.Join(folder, "..data"))
			_ = os.RemoveAll(filepath.Join(folder, old))
		}
	}()
	for range 2000 {
		begun <- struct{}{}
		if content, err := ReadFile(Beneath(folder, "acme/id")); err != nil || content != "id of acme" {
			t.Errorf("got %q, %v", content, err)
			break
		}
	}
	close(begun)
	<-done
}
