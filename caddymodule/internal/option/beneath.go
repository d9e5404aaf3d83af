package option

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// boundary separates the folder from the rest of a name that Beneath has made. No name of a file has it.
const boundary = "\x00"

// Beneath returns the name of a file that must be in the folder. Readers of files accept it in the place of a path, also
// within {file.…}. They read the file only if neither ".." nor a symbolic link leads out of the folder, and if no link is
// absolute. Links within the folder work, as Kubernetes makes them in the volume of a secret.
func Beneath(folder, rest string) string { return folder + boundary + rest }

// shownName returns a name as errors and logs show it.
func shownName(name string) string {
	folder, rest, ok := strings.Cut(name, boundary)
	if !ok {
		return name
	}
	return filepath.Join(folder, rest)
}

// errMissing marks the error for a file that Beneath names and that is not there.
var errMissing = errors.New("no such file")

// IsMissing reports whether the error is about a file that is not there, and whose name Beneath has made.
func IsMissing(err error) bool { return errors.Is(err, errMissing) }

// beneathAttempts is how often a file is looked for. When the kubelet replaces a volume, it removes the folder that a link
// has just led to, and the next attempt finds the new one.
const beneathAttempts = 5

// readBeneath reads a regular file that must be in the folder.
func readBeneath(folder, rest string) (file smallFile, err error) {
	for range beneathAttempts {
		file, err = tryBeneath(folder, rest)
		if !IsMissing(err) {
			break
		}
	}
	return file, err
}

func tryBeneath(folder, rest string) (smallFile, error) {
	name := filepath.Join(folder, rest)
	root, err := os.OpenRoot(folder)
	if err != nil { // not wrapped, because a folder that is missing is no proof that the file is
		return smallFile{}, fmt.Errorf("the folder of the file %s cannot be opened: %v", name, err)
	}
	defer root.Close()
	info, err := root.Stat(rest) // opening a device may have effects, so look first
	if err != nil {
		return smallFile{}, beneathError(name, err)
	}
	if !info.Mode().IsRegular() {
		return smallFile{}, notRegular(name)
	}
	f, err := root.OpenFile(rest, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return smallFile{}, beneathError(name, err)
	}
	return readOpen(f, name)
}

// beneathError names the whole path, because os.Root names only the part below the folder.
func beneathError(name string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the file %s cannot be opened: %w", name, errMissing)
	}
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		err = e.Err
	}
	return fmt.Errorf("the file %s cannot be opened: %w", name, err)
}
