//go:build unix

package caddymodule

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// A secret file that other users can change causes a warning with the name of its option, whatever the option. One that they can
// read does so only if it holds a private key, because orchestrators mount secrets like that.
func TestSecretFilesOfOthersWarn(t *testing.T) {
	certificate := newTestCertificate(t, signingKeyOf("P-256"), time.Hour)
	contents := map[string]string{
		"key of share": strings.Repeat("k", 32), "password": "CANARY", "sentinel_password": "CANARY", "client_secret": "CANARY",
		"ca": certificate.certificate, "proxy": "http://a:CANARY@127.0.0.1:1", "param extra": "CANARY", "header X-Extra": "CANARY",
		"client_assertion_file": "CANARY", "ca of redis": certificate.certificate,
	}
	keys := map[string]string{"signing_key": certificate.key, "dpop_key": certificate.key, "client_certificate_key": certificate.key,
		"client_certificate_key of redis": certificate.key}
	paths := make(map[string]string)
	for option, content := range contents {
		paths[option] = secretPath(t, content)
	}
	for option, key := range keys {
		paths[option] = secretPath(t, key)
	}
	of := func(option string) string { return inFile(paths[option]) }
	credential := func(name, provider, rest string) string {
		return fmt.Sprintf("credential %s {\n provider oauth2 {\n token_url https://login.example/token\n %s\n }\n client_id a\n %s\n}\n", name, provider, rest)
	}
	config := "{\n admin off\n token_proxy {\n share {\n store redis {\n address 127.0.0.1:1\n master_name m\n password " + of("password") +
		"\n sentinel_password " + of("sentinel_password") + "\n tls {\n ca " + of("ca of redis") + "\n client_certificate `" + certificate.certificate +
		"`\n client_certificate_key " + of("client_certificate_key of redis") + "\n }\n }\n key " + of("key of share") + "\n }\n" +
		credential("secret", "param extra "+of("param extra")+"\n header X-Extra "+of("header X-Extra"),
			"client_secret "+of("client_secret")+"\n transport {\n ca "+of("ca")+"\n proxy "+of("proxy")+"\n }") +
		credential("key", "client_auth private_key_jwt\n signing_key "+of("signing_key")+"\n dpop on\n dpop_key "+of("dpop_key"), "") +
		credential("file", "client_auth private_key_jwt\n client_assertion_file "+paths["client_assertion_file"], "") +
		credential("certificate", "client_auth tls_client_auth\n client_certificate `"+certificate.certificate+"`\n client_certificate_key "+of("client_certificate_key"), "") +
		"}\n}\n"

	all := append(slices.Collect(maps.Keys(contents)), slices.Collect(maps.Keys(keys))...)
	for mode, want := range map[os.FileMode][]string{
		0o600: nil, 0o400: nil,
		0o640: slices.Collect(maps.Keys(keys)), 0o444: slices.Collect(maps.Keys(keys)), 0o644: slices.Collect(maps.Keys(keys)),
		0o620: all, 0o602: all, 0o664: all, 0o666: all,
	} {
		t.Run(mode.String(), func(t *testing.T) {
			for _, path := range paths {
				fileMode(t, path, mode)
			}
			s := startCaddy(t, config)
			var warned []string
			for option, path := range paths {
				found := 0
				name, _, _ := strings.Cut(option, " of redis")
				for _, entry := range logEntries(t, s) {
					if strings.HasPrefix(fmt.Sprint(entry["msg"]), name+": users other than the owner can") && entry["file"] == path && entry["level"] == "warn" {
						found++
					}
				}
				if found > 1 {
					t.Errorf("%s: %d warnings", option, found)
				}
				if found > 0 {
					warned = append(warned, option)
				}
			}
			slices.Sort(warned)
			if want := slices.Sorted(slices.Values(want)); !slices.Equal(warned, want) {
				t.Errorf("warned of %q, want %q", warned, want)
			}
			if strings.Contains(s.logs(), "CANARY") {
				t.Error("the log holds a secret")
			}
		})
	}
}

// A secret file that has gone is reported with the file, its option and what to do.
func TestMissingSecretFileIsReported(t *testing.T) {
	tokens := newTokenServer(t)
	name, file := newClientID(), secretPath(t, "CANARY")
	s := startOperated(t, globalOptions(fmt.Sprintf("credential %s {\n provider optoro {\n token_url %s\n }\n client_id %s\n client_secret %s\n}\n", name, tokens.url, name, inFile(file))), nil)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	_, err := runCommand(refreshCommand(), name, "--address", s.admin)
	wantError(t, err, file, "Create the file, or correct its path in client_secret.")
	if tokens.Calls() != 0 {
		t.Errorf("there were %d token calls", tokens.Calls())
	}
}
