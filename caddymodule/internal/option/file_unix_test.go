//go:build unix

package option

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest"
)

// The reader reads only regular files. It follows symbolic links.
func TestIrregularFiles(t *testing.T) {
	for what, name := range caddytest.IrregularFiles(t) {
		started := time.Now()
		file, err := files.Read(name)
		if err == nil || err.Error() != name+" is not a regular file" {
			t.Errorf("%s: got %d bytes and error %v", what, len(file.content), err)
		}
		if d := time.Since(started); d > FileTimeout/2 {
			t.Errorf("%s: it took %s", what, d)
		}
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("content"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("file", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	file, err := files.Read(filepath.Join(dir, "link"))
	if err != nil || file.content != "content" || file.mode.Perm() != 0o640 {
		t.Errorf("a symlink to a file: got %v, %v", file, err)
	}
}

// Another file may take the place of a regular file between the check and the opening.
func TestOpeningIrregularFilesDoesNotBlock(t *testing.T) {
	for what, name := range caddytest.IrregularFiles(t) {
		done := make(chan error, 1)
		go func() {
			_, err := openRegular(name)
			done <- err
		}()
		select {
		case err := <-done:
			if err == nil || !strings.Contains(err.Error(), "not a regular file") && !errors.Is(err, syscall.ENXIO) { // a socket
				t.Errorf("%s: got error %v", what, err)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("%s: opening it blocks", what)
		}
	}
}

// hungDisk is a disk whose reads hang until the test repairs it.
type hungDisk struct {
	gate chan struct{}
	hung atomic.Bool
	all  atomic.Int64
}

func newHungDisk() *hungDisk {
	d := &hungDisk{gate: make(chan struct{})}
	d.hung.Store(true)
	return d
}

func (d *hungDisk) read(name string) (smallFile, error) {
	d.all.Add(1)
	if d.hung.Load() {
		<-d.gate
	}
	return smallFile{content: "content of " + name}, nil
}

// A mount that does not answer delays no caller for more than two seconds and does not delay the other files. It costs at
// most maxStuckReads goroutines.
func TestHungMount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newHungDisk()
		r := newFileReader(d.read)
		began := time.Now()
		longest := time.Duration(0)
		for time.Since(began) < time.Hour {
			started := time.Now()
			if _, err := r.Read("a"); err == nil || !strings.Contains(err.Error(), "the file a could not be read within 2s") {
				t.Fatalf("got error %v", err)
			}
			longest = max(longest, time.Since(started))
			time.Sleep(100 * time.Millisecond)
		}
		if longest > FileTimeout {
			t.Errorf("a caller waited %s", longest)
		}
		if n := d.all.Load(); n != maxStuckReads {
			t.Errorf("%d reads hang, want %d", n, maxStuckReads)
		}

		d.hung.Store(false)
		if file, err := r.Read("b"); err != nil || file.content != "content of b" {
			t.Errorf("another file: got %q, %v", file.content, err)
		}
		close(d.gate)
		synctest.Wait()
		if file, err := r.Read("a"); err != nil || file.content != "content of a" {
			t.Errorf("after the repair: got %q, %v", file.content, err)
		}
		synctest.Wait()
		if len(r.paths) != 0 {
			t.Errorf("the reader still holds %d paths", len(r.paths))
		}
	})
}

// The operator replaces a mount while a read of the old mount hangs for ever.
func TestHungMountIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newHungDisk()
		r := newFileReader(d.read)
		if _, err := r.Read("a"); err == nil {
			t.Fatal("the read succeeded on a mount that hangs")
		}
		d.hung.Store(false)
		time.Sleep(FileTimeout << 1)
		for range 3 {
			if file, err := r.Read("a"); err != nil || file.content != "content of a" {
				t.Errorf("got %q, %v", file.content, err)
			}
		}
		close(d.gate)
	})
}

// A folder with the files of thousands of tenants that does not answer takes few threads, because each hung read takes one. It
// does not delay other folders, and is read again after the operator has replaced it.
func TestHungFolder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newHungDisk()
		r := newFileReader(d.read)
		for i := range 20_000 {
			go func() {
				if _, err := r.Read(Beneath("hung", strconv.Itoa(i))); err == nil || !strings.Contains(err.Error(), "could not be read within 2s") {
					t.Errorf("got error %v", err)
				}
			}()
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(time.Minute)
		if n := d.all.Load(); n < maxFolderReads || n > maxFolderReads+20 {
			t.Errorf("%d reads hang, want %d and a few more", n, maxFolderReads)
		}
		d.hung.Store(false)
		if _, err := r.Read(Beneath("other", "a")); err != nil {
			t.Errorf("another folder: %v", err)
		}
		time.Sleep(maxProbePause)
		_, _ = r.Read(Beneath("hung", "probe"))
		time.Sleep(time.Second)
		for i := range 200 {
			if _, err := r.Read(Beneath("hung", strconv.Itoa(i))); err != nil {
				t.Errorf("after the repair: %v", err)
			}
		}
		close(d.gate)
		synctest.Wait()
		if len(r.paths) != 0 {
			t.Errorf("the reader still holds %d paths", len(r.paths))
		}
	})
}

// Callers that need a file at the same time share one read.
func TestReadsAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newHungDisk()
		r := newFileReader(d.read)
		for range 100 {
			go func() {
				if _, err := r.Read("a"); err != nil {
					t.Error(err)
				}
			}()
		}
		synctest.Wait()
		close(d.gate)
		synctest.Wait()
		if n := d.all.Load(); n != 1 {
			t.Errorf("%d reads, want one", n)
		}
	})
}
