//go:build unix

package launch

import (
	"path/filepath"
	"slices"
	"testing"
)

// TestEnvironmentHasNothingOfTheCredential takes out what the configuration names, in JSON and in the Caddyfile.
func TestEnvironmentHasNothingOfTheCredential(t *testing.T) {
	t.Setenv("TOKEN_FILE", "/var/run/tokens/cluster")
	abs, err := filepath.Abs("relative.key")
	if err != nil {
		t.Fatal(err)
	}
	named, err := FindNamed([]byte(`{
		"apps": {"token_proxy": {"credentials": {"a": {
			"client_id": "{env.CLIENT_ID}",
			"client_secret": "{file./run/secrets/optoro}",
			"provider": {"signing_key": "{file.relative.key}", "client_assertion_file": "{env.TOKEN_FILE}",
				"params": {"x": ["before {env.IN_A_LIST} after {env.SECOND}"], "{env.IN_A_NAME}": 1}}
		}}}},
		"home": "{env.HOME}/data"
	}`), "{$DOLLAR} {$WITH_DEFAULT:x} {$ SPACE}\n# {env.IN_CADDYFILE} {file./run/secrets/imported}")
	if err != nil {
		t.Fatal(err)
	}
	gone := []string{
		"CLIENT_ID=1", "IN_A_LIST=1", "SECOND=1", "IN_A_NAME=1", "DOLLAR=1", "WITH_DEFAULT=1", "IN_CADDYFILE=1", "TOKEN_FILE=x",
		"SECRET_FILE=/run/secrets/optoro", "CLEAN=/run//secrets/./optoro", "OPTIONS=-Dsecret=/run/secrets/optoro -Dx=1",
		"URL=file:///run/secrets/optoro", "LIST=/a:/run/secrets/imported", "REL=relative.key", "KEY=" + abs, "OTHER=/var/run/tokens/cluster",
		"EMPTY_BUT_NAMED=",
	}
	named.variables = append(named.variables, "EMPTY_BUT_NAMED")
	stays := []string{
		"HOME=/root", "PATH=/bin", "CLIENT_ID_2=1", "XCLIENT_ID=1", "EMPTY=", "A=/run/secrets/optoro2", "B=/run/secrets/optoro/x",
		"C=/srv/run/secrets/optoro", "D=/run/secrets/optoro.bak", "E=my relative.key", "F=/run/secrets", "=C:=C:\\x",
	}
	env, removed := Settings{Named: named}.Environment(append(slices.Clone(gone), stays...))
	if !slices.Equal(env, stays) {
		t.Errorf("the application has %q, want %q", env, stays)
	}
	if len(removed) != len(gone) || !slices.IsSorted(removed) {
		t.Errorf("removed are %q", removed)
	}
	if _, err := FindNamed([]byte("no JSON")); err == nil {
		t.Error("a configuration that is no JSON is no error")
	}
}
