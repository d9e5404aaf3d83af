package systemtest

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/certmagic"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/devserver"
)

func init() { caddy.RegisterModule(new(moodyStorage)) }

// moodyStorage is a folder that behaves as storage modules do in bad times. A file beside it says how.
type moodyStorage struct {
	Root string `json:"root"`

	certmagic.Storage `json:"-"`
}

// The moods. In none, the storage works.
const (
	unborn = "unborn" // it cannot be provisioned
	absent = "absent" // it knows nothing, as some modules say while their server is down, and stores nothing
	hangs  = "hangs"  // no call returns for 5 s, whatever its context says
	well   = ""
)

func (*moodyStorage) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.storage.moody", New: func() caddy.Module { return new(moodyStorage) }}
}

func (s *moodyStorage) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if !d.AllArgs(&s.Root) {
		return d.ArgErr()
	}
	return nil
}

func (s *moodyStorage) Provision(caddy.Context) error {
	if s.mood() == unborn {
		return errors.New("connection refused")
	}
	s.Storage = &certmagic.FileStorage{Path: s.Root}
	return nil
}

func (s *moodyStorage) CertMagicStorage() (certmagic.Storage, error) { return s, nil }

func (s *moodyStorage) mood() string {
	content, _ := os.ReadFile(s.Root + ".mood")
	return string(content)
}

func (s *moodyStorage) Load(ctx context.Context, key string) ([]byte, error) {
	switch s.mood() {
	case absent:
		return nil, fs.ErrNotExist
	case hangs:
		time.Sleep(5 * time.Second)
	}
	return s.Storage.Load(ctx, key)
}

func (s *moodyStorage) Store(ctx context.Context, key string, value []byte) error {
	switch s.mood() {
	case absent:
		return errors.New("connection refused")
	case hangs:
		time.Sleep(5 * time.Second)
	}
	return s.Storage.Store(ctx, key, value)
}

// storageFleet makes a fleet that shares through a folder.
func storageFleet(t *testing.T, module, folder string, services ...string) *fleet {
	t.Helper()
	if testing.Short() {
		t.Skip("it runs processes")
	}
	return newFleet(t, 2, "storage "+module+" "+folder, services...)
}

// coldStarts are services that no replica has a token for.
var coldStarts = []string{"cold1", "cold2", "cold3", "cold4", "cold5", "cold6", "cold7", "cold8", "cold9", "cold10", "cold11", "cold12"}

// wantShared starts services cold until one of them costs one call. A storage decides nothing: on a busy machine a write can
// take longer than the replicas wait for it, and then both call.
func (f *fleet) wantShared(t *testing.T) {
	t.Helper()
	for _, name := range coldStarts {
		s := f.service(name)
		f.want(t, f.all(s), s, 1, 2)
		if s.endpoint.Calls() == 1 {
			return
		}
	}
	t.Error("no cold start costs one token call")
}

// TestFileStorage says that replicas share through a common folder, which shows nothing.
func TestFileStorage(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(t.TempDir(), "common")
	f := storageFleet(t, "file_system", folder, append(coldStarts, "dies")...)
	f.start()
	dies := f.service("dies")
	f.wantShared(t)

	dies.endpoint.SetFault(devserver.Fault{Latency: 8 * time.Second, Count: 1})
	f.killCaller(t, dies)
	f.want(t, f.all(dies), dies, 2, 3)

	var stored strings.Builder
	if err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			content, _ := os.ReadFile(path)
			stored.WriteString(path + string(content))
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	wantNoCanary(t, f, map[string]string{"the store": stored.String()})
}

// TestStorageInBadTimes says that no mood of a storage module costs a request, and that sharing begins when it is well.
func TestStorageInBadTimes(t *testing.T) {
	t.Parallel()
	for _, mood := range []string{unborn, absent, hangs} {
		t.Run(mood, func(t *testing.T) {
			t.Parallel()
			folder := filepath.Join(t.TempDir(), "common")
			write(t, folder+".mood", mood)
			f := storageFleet(t, "moody", folder, append(coldStarts, "before")...)
			f.start()
			before := f.service("before")
			f.want(t, f.all(before), before, 2, 2)
			f.await(storeDown, 1)
			write(t, folder+".mood", well)
			f.await(storeUp, 1)
			f.wantShared(t)
		})
	}
}
