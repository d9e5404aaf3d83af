package caddymodule

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/devserver"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// tenantsAtWork are the tenants a and b of the credential "shops", which have a token, and c, which has none yet.
func tenantsAtWork(t *testing.T) (*operatedTenants, func(cmd *cobra.Command, args ...string) (string, error)) {
	t.Helper()
	o := startTenants(t, "a", "b", "c")
	o.serve(t, "b", "a")
	return o, func(cmd *cobra.Command, args ...string) (string, error) {
		t.Helper()
		out, err := runCommand(cmd, append(args, "--address", o.operatedServer.admin)...)
		if strings.Contains(out, "secret-of-") {
			t.Errorf("%s shows a secret: %s", cmd.Name(), out)
		}
		return out, err
	}
}

func TestListTenantsCommand(t *testing.T) {
	o, run := tenantsAtWork(t)
	out, err := run(listCommand(), "--tenant")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) != 3 || strings.Join(strings.Fields(lines[0]), " ") != "CREDENTIAL TENANT HEALTH CAUSE TOKEN EXPIRES FINGERPRINT SUMMARY" {
		t.Fatalf("it says\n%s", out)
	}
	for i, name := range []string{"a", "b"} {
		if f := strings.Fields(lines[i+1]); f[0] != "shops" || f[1] != name || f[2] != "ok" || f[4] != "fresh" {
			t.Errorf("it says %s", lines[i+1])
		}
	}
	if out, err = run(listCommand(), "--tenant", "b", "--json"); err != nil {
		t.Fatal(err)
	}
	var reports []contractTenant
	if decodeStrictly(t, out, &reports); len(reports) != 1 || reports[0].Name != "b" || reports[0].State != "fresh" {
		t.Errorf("it says %s", out)
	}
	out, err = run(listCommand(), "--tenant", "nobody", "b", "..")
	wantError(t, err, `shops, tenant nobody`, "first request", `tenant ".."`, "1 to 64")
	if wantText(t, out, "shops", "b", "fresh"); strings.Count(out, "\n") != 2 {
		t.Errorf("it says\n%s", out)
	}
	if out, err = run(listCommand()); err != nil { // the credentials
		t.Fatal(err)
	}
	wantText(t, out, "CREDENTIAL", "shops", "Tenants take 2 of 10000 places, 2 of them with a valid token.")
	if _, err := run(listCommand(), "a"); err == nil {
		t.Error("listing credentials takes names")
	}
	if o.calls() != 2 {
		t.Errorf("%d token calls", o.calls())
	}
}

// The command gets all pages, however many there are.
func TestListManyTenantsCommand(t *testing.T) {
	o, run := tenantsAtWork(t)
	ts := runningApp().clients["shops"].tenants
	for i := range 2 * mostTenantPage {
		if _, err := ts.Place(numberedTenant(i)); err != nil {
			t.Fatal(err)
		}
	}
	out, err := run(listCommand(), "--tenant")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "b", numberedTenant(0), numberedTenant(2*mostTenantPage - 1)} {
		if strings.Count(out, " "+name+" ") != 1 {
			t.Errorf("%s is there %d times", name, strings.Count(out, " "+name+" "))
		}
	}
	if n := strings.Count(out, "\n"); n != 2*mostTenantPage+3 {
		t.Errorf("%d lines", n)
	}
	if o.calls() != 2 {
		t.Errorf("%d token calls", o.calls())
	}
}

func TestSteerTenantCommands(t *testing.T) {
	o, run := tenantsAtWork(t)
	out, err := run(refreshCommand(), "shops", "--tenant", "a")
	if err != nil || o.calls() != 3 {
		t.Fatalf("%v, %d calls: %s", err, o.calls(), out)
	}
	wantText(t, out, "TENANT", "shops", "a", "ok", "fresh")
	out, err = run(refreshCommand(), "plain", "shops", "--tenant", "b", "--json")
	wantError(t, err, `plain, tenant b: credential "plain" has no tenants`)
	var reports []contractTenant
	if decodeStrictly(t, out, &reports); len(reports) != 1 || reports[0].Name != "b" || o.calls() != 4 {
		t.Errorf("%d calls: %s", o.calls(), out)
	}
	if out, err = run(purgeCommand(), "shops", "--tenant", "a", "--json"); err != nil {
		t.Fatal(err)
	}
	if decodeStrictly(t, out, &reports); len(reports) != 1 || reports[0].Name != "a" || reports[0].State != "none" {
		t.Errorf("it says %s", out)
	}
	if of, _ := runningApp().clients["shops"].tenants.Find("b"); of.Source.Status().State != token.StateFresh {
		t.Error("another tenant has lost its token")
	}
	out, err = run(purgeCommand(), "shops", "--tenant", "c", "--json")
	if wantError(t, err, "tenant c", "first request"); strings.TrimSpace(out) != "[]" {
		t.Errorf("it says %s", out)
	}
	for _, args := range [][]string{{"--all", "--tenant", "a"}, {"--tenant", "a"}, {"shops", "--tenant", "A"}, {"shops", "--tenant", "a/purge"}, {"shops", "--tenant", "a", "--fleet"}} {
		if out, err := run(purgeCommand(), args...); err == nil {
			t.Errorf("%q: %s", args, out)
		}
	}
	if of, _ := runningApp().clients["shops"].tenants.Find("b"); of.Source.Status().State != token.StateFresh || o.calls() != 4 {
		t.Errorf("one of them had an effect, or there was a call: %d", o.calls())
	}
}

func TestCheckTenantCommand(t *testing.T) {
	p, plain := newTenantPlatform(t, "a", "bad"), newTokenServer(t)
	p.clients[p.prefix+"bad"].SetFault(devserver.Fault{Error: "invalid_client"})
	config := writeConfig(t, "Caddyfile", globalOptions(p.credential("shops"), plain.credential("plain")))
	none := writeConfig(t, "Caddyfile", globalOptions(plain.credential("plain")))
	run := func(args ...string) (string, error) {
		t.Helper()
		out, err := runCommand(checkCommand(), args...)
		if strings.Contains(out, "secret-of-") {
			t.Errorf("it shows a secret: %s", out)
		}
		return out, err
	}
	for _, args := range [][]string{{"--tenant", "a"}, {"shops", "--tenant", "a"}} {
		out, err := run(append(args, "--config", config)...)
		if err != nil || strings.Count(out, "\n") != 1 {
			t.Errorf("%v: %s", err, out)
		}
		wantText(t, out, "✓ shops, tenant a (", "fingerprint ")
	}
	if p.calls() != 2 || plain.Calls() != 0 {
		t.Errorf("%d and %d calls", p.calls(), plain.Calls())
	}
	out, err := run("--tenant", "bad", "--config", config, "--json")
	wantError(t, err, "1 of 1 credentials do not work")
	type result struct {
		checkResult
		Tenant string `json:"tenant"`
	}
	var results []result
	if decodeStrictly(t, out, &results); len(results) != 1 || results[0].OK || results[0].Tenant != "bad" || results[0].Name != "shops" || results[0].Error.Code != "invalid_client" {
		t.Errorf("it says %s", out)
	}
	out, err = run("--tenant", "nobody", "--config", config)
	wantError(t, err, "1 of 1")
	wantText(t, out, "✗ shops, tenant nobody", "client_id", "nobody")
	if p.calls() != 3 {
		t.Errorf("%d calls, want none for a tenant without files", p.calls())
	}

	// without --tenant
	if out, err = run("--config", config); err != nil {
		t.Fatal(err)
	}
	wantText(t, out, "✓ plain (", "- shops: no token was fetched, because the tokens belong to the tenants: name one of them with --tenant\n")
	if out, err = run("--config", config, "--json"); err != nil {
		t.Fatal(err)
	}
	if decodeStrictly(t, out, &results); len(results) != 2 || !results[1].OK || results[1].Name != "shops" || results[1].Fingerprint != "" || results[1].Note == "" {
		t.Errorf("it says %s", out)
	}
	for want, args := range map[string][]string{
		"name one of them with --tenant":       {"shops", "--config", config},
		`credential "plain" has no tenants`:    {"plain", "--tenant", "a", "--config", config},
		"no credential has tenants":            {"--tenant", "a", "--config", none},
		"--tenant: the name of a tenant has":   {"--tenant", "../a", "--config", config},
		`unknown credential "nobody"`:          {"nobody", "--tenant", "a", "--config", config},
		"so that the token does not end up in": {"--print-header", "shops", "--tenant", "a", "--config", config},
	} {
		out, err := run(args...)
		if wantError(t, err, want); out != "" {
			t.Errorf("%q: it says %s", args, out)
		}
	}
	if p.calls() != 3 || plain.Calls() != 2 {
		t.Errorf("%d and %d calls", p.calls(), plain.Calls())
	}
}

func TestTenantCommandsWithoutTenants(t *testing.T) {
	s := startOperated(t, globalOptions(newTokenServer(t).credential("plain")), nil)
	_, err := runCommand(listCommand(), "--tenant", "--address", s.admin)
	wantError(t, err, "no credential has tenants: remove --tenant")
}
