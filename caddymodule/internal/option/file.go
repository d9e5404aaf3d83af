package option

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"syscall"
	"time"
)

const (
	// maxSecretFile bounds a secret file: what is larger is another file.
	maxSecretFile = 64 << 10

	// FileTimeout bounds the reading of one file. A disk takes milliseconds; a mount whose server is gone takes for ever.
	FileTimeout = 2 * time.Second

	// maxStuckReads bounds, for each file, the readings that the operating system does not let go of: each holds a
	// thread.
	maxStuckReads = 4
)

// smallFile is what a file holds, and who may read it.
type smallFile struct {
	content string
	mode    fs.FileMode
}

// fileReader reads the files that options name. It waits for no file longer than fileTimeout, whatever the file is:
// files are read while a configuration is loaded, which holds Caddy's lock, and for each token request.
type fileReader struct {
	// read reads a file, and may block for ever.
	read func(name string) (smallFile, error)

	mu    sync.Mutex
	paths map[string]*filePath // those that are being read
}

// filePath is what is known of a path while at least one reading of it has not ended.
type filePath struct {
	latest  *fileReading
	running int
}

// fileReading is one reading of a file, for all who want the file meanwhile.
type fileReading struct {
	began time.Time
	done  chan struct{}
	file  smallFile
	err   error
}

// files is the one reader of all options.
var files = newFileReader(readRegular)

func newFileReader(read func(name string) (smallFile, error)) *fileReader {
	return &fileReader{read: read, paths: make(map[string]*filePath)}
}

// Read returns what the file holds now, or an error that names the file and the cause.
func (r *fileReader) Read(name string) (smallFile, error) {
	reading := r.begin(name)
	timer := time.NewTimer(time.Until(reading.began.Add(FileTimeout)))
	defer timer.Stop()
	select {
	case <-reading.done:
		return reading.file, reading.err
	case <-timer.C:
		return smallFile{}, fmt.Errorf("the file %s could not be read within %s: the disk or the mount that it is on does not answer", name, FileTimeout)
	}
}

// begin returns the reading that runs, or starts one. A reading that is stuck is joined as well, which fails at once,
// but not for ever: the file may be another one by now. The pauses double, and their number is bounded.
func (r *fileReader) begin(name string) *fileReading {
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
	reading := &fileReading{began: time.Now(), done: make(chan struct{})}
	p.latest = reading
	p.running++
	go r.run(name, reading)
	return reading
}

func (r *fileReader) run(name string, reading *fileReading) {
	reading.file, reading.err = r.read(name)
	r.mu.Lock()
	defer r.mu.Unlock()
	close(reading.done)
	p := r.paths[name]
	p.running--
	if p.latest == reading {
		p.latest = nil
	}
	if p.running == 0 {
		delete(r.paths, name)
	}
}

// readRegular reads a regular file, or what a symbolic link leads to, as Kubernetes mounts secrets. Anything else may
// have no end, or wait for a writer that never comes.
func readRegular(name string) (smallFile, error) {
	info, err := os.Stat(name) // before the file is opened, which does something to a device
	if err != nil {
		return smallFile{}, err // names the file and the cause
	}
	if !info.Mode().IsRegular() {
		return smallFile{}, notRegular(name)
	}
	return openRegular(name)
}

// openRegular does not trust that the file is still the one that was looked at: a FIFO may be in its place.
func openRegular(name string) (smallFile, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return smallFile{}, err
	}
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

// ReadFile returns the content of a file.
func ReadFile(name string) (string, error) {
	file, err := files.Read(name)
	return file.content, err
}
