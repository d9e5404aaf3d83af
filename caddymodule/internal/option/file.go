package option

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/semaphore"
)

const (
	// maxSecretFile limits the size of a file. A larger file is no secret, and was probably named by mistake.
	maxSecretFile = 64 << 10

	// FileTimeout limits the time to read a file. A disk takes milliseconds. A mount without its server takes for ever.
	FileTimeout = 2 * time.Second

	// maxStuckReads limits the reads of one file that hang in the operating system, because each of them holds a thread.
	maxStuckReads = 4

	// maxFolderReads limits the reads of files that must be in one folder, because a folder may have the files of thousands of
	// tenants. With 10,000 threads, the Go runtime ends the process.
	maxFolderReads = 128

	// maxProbePause is the longest time between two reads that find out whether such a folder answers again.
	maxProbePause = 10 * time.Minute
)

// smallFile is the content of a file and its permissions.
type smallFile struct {
	content string
	mode    fs.FileMode
}

// fileReader reads the files that options name. It waits at most FileTimeout for a file, because Caddy holds its lock
// while it loads a configuration, and because each token request reads files.
type fileReader struct {
	// read reads a file. It may block for ever.
	read func(name string) (smallFile, error)

	mu    sync.Mutex
	paths map[string]*filePath // the files that are being read

	folders sync.Map // of *folderTurns, by the folder of Beneath
}

// filePath holds the reads of one file. It exists while at least one of them runs.
type filePath struct {
	latest  *fileRead
	running int
}

// fileRead is one read of a file. All callers that need the file in the meantime share it.
type fileRead struct {
	began time.Time
	done  chan struct{}
	file  smallFile
	err   error
}

// files reads the files of all options.
var files = newFileReader(readRegular)

func newFileReader(read func(name string) (smallFile, error)) *fileReader {
	return &fileReader{read: read, paths: make(map[string]*filePath)}
}

// Read returns the current content of a file. An error names the file and the cause.
func (r *fileReader) Read(name string) (smallFile, error) {
	read := r.join(name)
	timer := time.NewTimer(time.Until(read.began.Add(FileTimeout)))
	defer timer.Stop()
	select {
	case <-read.done:
		return read.file, read.err
	case <-timer.C:
		return smallFile{}, stuck(name)
	}
}

// join returns the latest running read of the file, or starts one.
//
// A read hangs if it has run for FileTimeout. The callers that join it fail at once. After a pause, join starts another
// read, because the operator may have replaced the mount. The pause doubles with each read that hangs. With maxStuckReads
// of them, join starts no more.
func (r *fileReader) join(name string) *fileRead {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.paths[name]
	if p == nil {
		p = new(filePath)
		r.paths[name] = p
	}
	if p.latest != nil && (p.running >= maxStuckReads || time.Since(p.latest.began) < FileTimeout<<p.running) {
		return p.latest
	}
	read := &fileRead{began: time.Now(), done: make(chan struct{})}
	p.latest = read
	p.running++
	go r.run(name, read)
	return read
}

func (r *fileReader) run(name string, read *fileRead) {
	read.file, read.err = r.readInTurn(name)
	r.mu.Lock()
	defer r.mu.Unlock()
	close(read.done)
	p := r.paths[name]
	p.running--
	if p.latest == read {
		p.latest = nil
	}
	if p.running == 0 {
		delete(r.paths, name)
	}
}

// folderTurns limits the reads of the files of one folder.
type folderTurns struct {
	mu    sync.Mutex
	turns *semaphore.Weighted
	probe time.Time // when a read may begin although too many hang
	pause time.Duration
}

func newFolderTurns() *folderTurns {
	return &folderTurns{turns: semaphore.NewWeighted(maxFolderReads), pause: FileTimeout}
}

// readInTurn reads a file. One of a folder waits while too many of the folder are being read.
func (r *fileReader) readInTurn(name string) (smallFile, error) {
	folder, _, ok := strings.Cut(name, boundary)
	if !ok {
		return r.read(name)
	}
	of, _ := r.folders.LoadOrStore(folder, newFolderTurns())
	f := of.(*folderTurns)
	if turn := f.wait(); turn != nil {
		defer turn.Release(1)
		return r.read(name)
	}
	if !f.mayProbe(time.Now()) {
		return smallFile{}, stuck(name)
	}
	defer f.renew() // if the read returns, the operator has replaced the mount
	return r.read(name)
}

// wait returns the semaphore that the caller must release, or nil if its turn has not come in time.
func (f *folderTurns) wait() *semaphore.Weighted {
	f.mu.Lock()
	turns := f.turns
	f.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), FileTimeout)
	defer cancel()
	if turns.Acquire(ctx, 1) != nil {
		return nil
	}
	return turns
}

// mayProbe reports whether one more read may find out whether the folder answers again.
func (f *folderTurns) mayProbe(now time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now.Before(f.probe) {
		return false
	}
	f.probe, f.pause = now.Add(f.pause), min(2*f.pause, maxProbePause)
	return true
}

// renew makes turns for the reads to come. Those that hang keep theirs.
func (f *folderTurns) renew() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.turns, f.pause = semaphore.NewWeighted(maxFolderReads), FileTimeout
}

func stuck(name string) error {
	return fmt.Errorf("the file %s could not be read within %s, because its disk or its mount does not answer", shownName(name), FileTimeout)
}

// readRegular reads a regular file. It follows symbolic links, because Kubernetes mounts secrets with them. A device may
// have no end, and a FIFO may wait for a writer that never comes.
func readRegular(name string) (smallFile, error) {
	if folder, rest, ok := strings.Cut(name, boundary); ok {
		return readBeneath(folder, rest)
	}
	info, err := os.Stat(name) // opening a device may have effects, so look first
	if err != nil {
		return smallFile{}, err // names the file and the cause
	}
	if !info.Mode().IsRegular() {
		return smallFile{}, notRegular(name)
	}
	return openRegular(name)
}

// openRegular checks the open file again, because a FIFO may have taken the place of the regular file. O_NONBLOCK keeps
// it from waiting for the FIFO's writer.
func openRegular(name string) (smallFile, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return smallFile{}, err
	}
	return readOpen(f, name)
}

// readOpen reads an open file and closes it.
func readOpen(f *os.File, name string) (smallFile, error) {
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return smallFile{}, err
	}
	if !info.Mode().IsRegular() {
		return smallFile{}, notRegular(name)
	}
	content, err := io.ReadAll(io.LimitReader(f, maxSecretFile+1))
	if err != nil {
		return smallFile{}, err
	}
	if len(content) > maxSecretFile {
		return smallFile{}, fmt.Errorf("the file %s is larger than 64 KiB", name)
	}
	return smallFile{string(content), info.Mode()}, nil
}

func notRegular(name string) error { return fmt.Errorf("%s is not a regular file", name) }

// ReadFile returns the current content of a regular file. It fails if the file is larger than 64 KiB or if reading it
// takes longer than FileTimeout. The error names the file.
func ReadFile(name string) (string, error) {
	file, err := files.Read(name)
	return file.content, err
}
