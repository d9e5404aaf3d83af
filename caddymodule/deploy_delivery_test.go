package caddymodule

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/devserver"
)

// deliveries are the ways in which the platforms of examples/kubernetes/delivery put the files of a credential into a
// folder, and replace them. nested is the folder of the files in the volume.
var deliveries = []struct {
	name, nested    string
	deliver, rotate func(folder string, files map[string]string) error
}{
	{
		// Also that of the External Secrets Operator and of sealed secrets, which make Secrets, and that of the Secrets Store
		// CSI Driver, which makes the same links.
		name: "a Secret", deliver: writeVolume, rotate: writeVolume,
	},
	{
		name: "a projected volume of several Secrets", nested: "catalog", deliver: writeVolume, rotate: writeVolume,
	},
	{
		// The driver removes the files that a former version has written, before it makes links in their place.
		name: "Secrets Store CSI Driver, updated", deliver: eachFile(writeInPlace),
		rotate: func(folder string, files map[string]string) error {
			return errors.Join(eachFile(func(file, _ string) error { return os.Remove(file) })(folder, files), writeVolume(folder, files))
		},
	},
	{
		name: "a CSI driver that writes in place", deliver: eachFile(writeInPlace), rotate: eachFile(writeInPlace),
	},
	{
		name: "Vault Agent", deliver: eachFile(renameOnto), rotate: eachFile(renameOnto),
	},
}

func eachFile(write func(file, content string) error) func(string, map[string]string) error {
	return func(folder string, files map[string]string) (err error) {
		for name, content := range files {
			file := filepath.Join(folder, name)
			err = errors.Join(err, os.MkdirAll(filepath.Dir(file), 0o755), write(file, content))
		}
		return err
	}
}

func writeInPlace(file, content string) error { return os.WriteFile(file, []byte(content), 0o644) }

// renameOnto writes a file as the templates of a Vault Agent do.
func renameOnto(file, content string) error {
	temporary, err := os.CreateTemp(filepath.Dir(file), "")
	if err != nil {
		return err
	}
	_, err = temporary.WriteString(content)
	return errors.Join(err, temporary.Sync(), temporary.Close(), os.Chmod(temporary.Name(), 0o400), os.Rename(temporary.Name(), file))
}

// TestKubernetesDeliveries replaces a secret as each platform does. The next token call uses the new secret, with and without a
// newline at its end.
func TestKubernetesDeliveries(t *testing.T) {
	for _, d := range deliveries {
		for what, end := range map[string]string{"": "", ", with a newline": "\n"} {
			t.Run(d.name+what, func(t *testing.T) {
				tokens := newTokenServer(t)
				tokens.ClientSecret = "the old secret"
				files := func() map[string]string {
					return map[string]string{
						filepath.Join(d.nested, "client-id"):     tokens.ClientID + end,
						filepath.Join(d.nested, "client-secret"): tokens.ClientSecret + end,
					}
				}
				volume, proxy := t.TempDir(), freeAddr(t)
				if err := d.deliver(volume, files()); err != nil {
					t.Fatal(err)
				}
				startCaddy(t, strings.NewReplacer(
					"{file./run/secrets/token-proxy", "{file."+filepath.Join(volume, d.nested),
					":8080", ":"+portNumber(proxy), ":8082", ":"+portNumber(freeAddr(t)),
					"provider optoro sandbox", "provider optoro {\n token_url "+tokens.url+"\n}",
					"https://catalogs.sandbox.optiturn.com", serveHTTP(t, tokens.api()).URL, "*.optiturn.com", "127.0.0.1",
				).Replace(readExample(t, "../examples/kubernetes/secret/token-proxy.caddyfile")))
				if echo := getEcho(t, "http://"+proxy+"/orders"); echo.Client != tokens.ClientID {
					t.Errorf("the API saw %+v", echo)
				}

				tokens.ClientSecret = "the new secret"
				if err := d.rotate(volume, files()); err != nil {
					t.Fatal(err)
				}
				runningApp().clients["catalog"].source.Purge()
				getEcho(t, "http://"+proxy+"/orders")
				if n := tokens.Calls(); n != 2 {
					t.Errorf("%d token calls, want one with the old secret and one with the new", n)
				}
			})
		}
	}
}

// TestKubernetesDeliveryOfJSON puts a whole entry of a secret store into the file, in place of its value. The token endpoint
// refuses it, and neither an answer nor the log shows it.
func TestKubernetesDeliveryOfJSON(t *testing.T) {
	tokens := newTokenServer(t)
	entry := `{"client-id":"` + tokens.ClientID + `","client-secret":"` + devserver.DefaultClientSecret + `"}`
	file := filepath.Join(t.TempDir(), "client-secret")
	if err := writeInPlace(file, entry); err != nil {
		t.Fatal(err)
	}
	s := newSite(t, tokens.url, tokens.ClientID, serveHTTP(t, tokens.api()).URL)
	s.secret = "{file." + file + "}"
	s.start(t)
	answer := get(t, s.url())
	answer.wantProblem(t, 502, "proxy_configuration_error")
	if strings.Contains(answer.body+s.logs(), devserver.DefaultClientSecret) {
		t.Error("the answer or the log shows the entry")
	}
}
