package caddymodule

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest"
)

// aShareKey is long enough for a key. It may be nowhere in an error.
const aShareKey = "CANARY-CANARY-CANARY-CANARY-CANARY"

// tryProvisionShare provisions a configuration in which replicas share a credential.
func tryProvisionShare(t *testing.T, share, more string) (*App, error) {
	t.Helper()
	return tryProvisionApp(t, `"share": `+share+`, "credentials": {"test": `+credentialJSON("optoro", "id", "secret")+`}`, more)
}

func storesInUse() (n int) {
	stores.Range(func(_, _ any) bool {
		n++
		return true
	})
	return n
}

// TestShareMistakes says which configurations fail to load, and that their errors name the option and show no key.
func TestShareMistakes(t *testing.T) {
	t.Setenv("TOKEN_PROXY_TEST_SHORT", "CANARY")
	folder := `{"name": "storage", "storage": {"module": "file_system", "root": ` + quote(t.TempDir()) + `}}`
	with := func(store, keys string) string { return `{"store": ` + store + `, "keys": ` + keys + `}` }
	key := `["` + aShareKey + `"]`
	for name, tc := range map[string]struct {
		share string
		wants []string
	}{
		"no key":                            {share: `{"store": ` + folder + `}`, wants: []string{"share", "key is missing", "openssl"}},
		"no keys":                           {share: with(folder, `[]`), wants: []string{"key is missing"}},
		"a short key":                       {share: with(folder, `["CANARY"]`), wants: []string{"key 1", "32 bytes"}},
		"a short second key":                {share: with(folder, `["`+aShareKey+`", "{env.TOKEN_PROXY_TEST_SHORT}"]`), wants: []string{"key 2", "32 bytes"}},
		"the same key twice":                {share: with(folder, `["`+aShareKey+`", "`+aShareKey+`"]`), wants: []string{"key 2", "the same"}},
		"an empty key":                      {share: with(folder, `[""]`), wants: []string{"key 1", "empty"}},
		"a key that is not set":             {share: with(folder, `["{env.TOKEN_PROXY_TEST_UNSET}"]`), wants: []string{"key 1", "TOKEN_PROXY_TEST_UNSET"}},
		"a key in a file that is not there": {share: with(folder, `["{file./does/not/exist}"]`), wants: []string{"key 1", "/does/not/exist"}},
		"a key with a placeholder":          {share: with(folder, `["CANARY{env.HOME}"]`), wants: []string{"key 1", "whole value"}},
		"no store":                          {share: `{"keys": ` + key + `}`, wants: []string{"store is missing"}},
		"a store without a name":            {share: with(`{}`, key), wants: []string{"store"}},
		"an unknown store":                  {share: with(`{"name": "memcached"}`, key), wants: []string{"store", "memcached"}},
		"an unknown option of a store":      {share: with(`{"name": "storage", "path": "/srv"}`, key), wants: []string{"store", "path"}},
		"redis without an address":          {share: with(`{"name": "redis"}`, key), wants: []string{"store", "address"}},
		"storage without a storage":         {share: with(`{"name": "storage"}`, key), wants: []string{"storage", "name a storage module"}},
		"storage with an unknown module":    {share: with(`{"name": "storage", "storage": {"module": "memory"}}`, key), wants: []string{"unknown storage module", "memory"}},
		"storage without a module's name":   {share: with(`{"name": "storage", "storage": {"root": "/srv"}}`, key), wants: []string{"names no module"}},
		"storage with a module's mistake":   {share: with(`{"name": "storage", "storage": {"module": "file_system", "path": "/srv"}}`, key), wants: []string{"file_system", "path"}},
	} {
		t.Run(name, func(t *testing.T) {
			before := storesInUse()
			_, err := tryProvisionShare(t, tc.share, "")
			if err == nil {
				t.Fatal("it loads")
			}
			for _, want := range append(tc.wants, "share") {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got error %q, want %q in it", err, want)
				}
			}
			wantNowhere(t, "a key", "CANARY", map[string]string{"the error": err.Error()})
			if n := storesInUse(); n != before {
				t.Errorf("%d stores more are in use", n-before)
			}
		})
	}
}

// TestShareStores says that Caddy's own storage is used if it is not the local default, that loaded configurations have a
// store in common if they configure it alike, and that a literal key is nowhere in an app in use.
func TestShareStores(t *testing.T) {
	root := quote(t.TempDir())
	global := `"storage": {"module": "file_system", "root": ` + root + `},`
	named := `{"store": {"name": "storage", "storage": {"module": "file_system", "root": ` + root + `}}, "keys": ["` + aShareKey + `"]}`
	before := storesInUse()
	provision := func(share, more string, want int) *App {
		t.Helper()
		app, err := tryProvisionShare(t, share, more)
		if err != nil {
			t.Fatal(err)
		}
		if n := storesInUse() - before; n != want {
			t.Errorf("%d stores are in use, want %d", n, want)
		}
		return app
	}
	app := provision(named, "", 1)
	provision(named, "", 1)
	provision(strings.Replace(named, aShareKey, "another-"+aShareKey, 1), "", 1)
	provision(`{"store": {"name": "storage"}, "keys": ["`+aShareKey+`"]}`, global, 2)
	provision(`{"store": {"name": "storage"}, "keys": ["`+aShareKey+`"]}`, global, 3) // its storage ends with the configuration
	redis := provision(`{"store": {"name": "redis", "addresses": ["127.0.0.1:1"], "password": "PASSWORD-CANARY"}, "keys": ["`+aShareKey+`"]}`, "", 4)

	for _, app := range []*App{app, redis} {
		printed := printed(t, app) + printed(t, app.Share.opener) + printed(t, app.Share.store)
		wantNowhere(t, "a key", aShareKey, map[string]string{"the app": printed})
		wantNowhere(t, "a password", "PASSWORD-CANARY", map[string]string{"the app": printed})
	}
	if app.clients["test"].sharing == nil {
		t.Error("the credential is not shared")
	}
}

// printed is all that a mistake could print of a value.
func printed(t *testing.T, value any) string {
	t.Helper()
	marshaled, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%s %+v %#v", marshaled, value, value)
}

// TestShareOff says that a credential that is left out has tokens of its own.
func TestShareOff(t *testing.T) {
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte(aShareKey), 0o600); err != nil {
		t.Fatal(err)
	}
	tokens := newTokenServer(t)
	folder := t.TempDir()
	share := "share {\n store storage file_system " + folder + "\n key {file." + key + "}\n}"
	_, base := startProxy(t, share+"\n"+tokens.credential("api", "share off"), "token_proxy api "+serveHTTP(t, tokens.api()).URL)
	get(t, base).wantStatus(t, 200)
	for name := range filesBelow(t, folder) {
		if strings.Contains(name, "/token-") || strings.Contains(name, "/claim") {
			t.Errorf("%s is in the store", name)
		}
	}
	tokens = newTokenServer(t) // the token of the other is fresh
	_, base = startProxy(t, share+"\n"+tokens.credential("api"), "token_proxy api "+serveHTTP(t, tokens.api()).URL)
	get(t, base).wantStatus(t, 200)
	caddytest.Eventually(t, "a record in the store", func() bool {
		for name := range filesBelow(t, folder) {
			if strings.Contains(name, "/token-") {
				return true
			}
		}
		return false
	})
}

// TestShareOffBesideOn says that a credential that is left out has a token of its own, even if another with the same client
// is shared.
func TestShareOffBesideOn(t *testing.T) {
	base := credentialJSON("optoro", "id", "secret")
	off := strings.TrimSuffix(base, "}") + `, "share": false}`
	if keyOf(t, off) == keyOf(t, base) {
		t.Error("the two have one source")
	}
}
