//go:build !windows

package trust

import (
	"os"
	"path/filepath"
	"testing"
)

// places puts the system's files and folders elsewhere.
func places(t *testing.T, files, folders []string) {
	t.Helper()
	oldFiles, oldFolders := systemFiles, systemFolders
	systemFiles, systemFolders = files, folders
	t.Cleanup(func() { systemFiles, systemFolders = oldFiles, oldFolders })
	t.Setenv("SSL_CERT_FILE", "")
	t.Setenv("SSL_CERT_DIR", "")
}

func wantSystem(t *testing.T, output, from string, names ...string) {
	t.Helper()
	found, err := System(output)
	if err != nil {
		t.Fatal(err)
	}
	if found.From != from {
		t.Errorf("they are from %s, want %s", found.From, from)
	}
	wantNames(t, found.Certificates, names...)
}

func TestSystem(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	if err := os.Mkdir(in("folder"), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, in("folder/a.pem"), Bundle(newAuthority(t, "a")))
	write(t, in("folder/b.pem"), Bundle(newAuthority(t, "b")))
	write(t, in("second.pem"), Bundle(newAuthority(t, "second")))
	write(t, in("third.pem"), Bundle(newAuthority(t, "third")))
	write(t, in("own.pem"), Bundle(newAuthority(t, "own"), newAuthority(t, "own too")))

	places(t, []string{in("missing"), in("second.pem"), in("third.pem")}, []string{in("folder")})
	wantSystem(t, "", in("second.pem"), "second")

	t.Run("folders", func(t *testing.T) {
		places(t, []string{in("missing")}, []string{in("none"), in("folder")})
		wantSystem(t, "", in("none")+" and "+in("folder"), "a", "b")
	})
	t.Run("SSL_CERT_FILE", func(t *testing.T) {
		t.Setenv("SSL_CERT_FILE", in("own.pem"))
		wantSystem(t, in("bundle.pem"), in("own.pem"), "own", "own too")
		// An operator who sets it to the bundle does not get the authorities of the old bundle again.
		wantSystem(t, in("own.pem"), in("second.pem"), "second")
		t.Setenv("SSL_CERT_FILE", in("missing"))
		if _, err := System(""); err == nil {
			t.Error("a missing file is no error")
		}
	})
	t.Run("SSL_CERT_DIR", func(t *testing.T) {
		t.Setenv("SSL_CERT_DIR", in("none")+":"+in("folder"))
		wantSystem(t, "", in("none")+" and "+in("folder"), "a", "b")
	})
	t.Run("none", func(t *testing.T) {
		places(t, nil, nil)
		if found, err := System(""); err != nil || len(found.Certificates) < 50 {
			t.Errorf("found %d authorities, %v", len(found.Certificates), err)
		}
	})
}

// TestWriteFileIsReadable lets every user read the file, whatever the umask.
func TestWriteFileIsReadable(t *testing.T) {
	name := filepath.Join(t.TempDir(), "bundle.pem")
	if err := WriteFile(name, nil); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o644 {
		t.Errorf("its mode is %v", info.Mode())
	}
}
