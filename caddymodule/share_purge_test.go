package caddymodule

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"
)

// sharedServer is a server with one shared credential, which has a token, and its store.
func sharedServer(t *testing.T) (s *operatedServer, tokens *tokenServer, name, site string, m memory) {
	t.Helper()
	tokens, m = newTokenServer(t), newMemory(t)
	name, addr := "purged-"+newClientID(), freeAddr(t)
	s = startOperated(t, globalOptions(sharedThrough(t, m), tokens.credential(name))+
		siteConfig(addr, "token_proxy "+name+" "+serveHTTP(t, tokens.api()).URL), nil)
	get(t, "http://"+addr).wantStatus(t, 200)
	return s, tokens, name, "http://" + addr, m
}

// records returns the names of the records in the store.
func (m memory) records() (names []string) {
	for name := range m.Values() {
		if strings.Contains(name, "/token-") {
			names = append(names, name)
		}
	}
	return names
}

// A purge deletes the record, so that this replica does not get the same token from there again.
func TestPurgeDeletesTheRecord(t *testing.T) {
	s, tokens, name, site, m := sharedServer(t)
	if len(m.records()) != 1 {
		t.Fatalf("the store has %q", m.records())
	}
	a := s.ask(http.MethodPost, "/token_proxy/credentials/"+name+"/purge")
	a.wantStatus(t, 200)
	c := readCredential(t, a.body)
	if c.State != "none" || c.Share.From != "" || c.Purge == nil || c.Purge.Store != "deleted" || len(m.records()) != 0 {
		t.Errorf("the answer is %s; the store has %q", a.body, m.records())
	}
	wantText(t, c.Purge.Text, "Other replicas keep their token")
	get(t, site).wantStatus(t, 200)
	if tokens.Calls() != 2 {
		t.Errorf("%d calls, want 2", tokens.Calls())
	}
	out, err := runCommand(purgeCommand(), "--all", "--address", s.admin)
	if err != nil || len(m.records()) != 0 {
		t.Errorf("%v; the store has %q", err, m.records())
	}
	wantText(t, out, "purged the tokens of 1 credentials\n", name+": The record in the store is deleted.")
}

// The tombstone makes another replica forget its token when it looks next, and not before.
func TestPurgeOfTheFleet(t *testing.T) {
	s, _, name, _, m := sharedServer(t)
	other := otherReplica(t, name)
	before, ok := other.Load(t.Context())
	asked := time.Now().Add(-before.Age)
	if !ok || before.Purged {
		t.Fatal("the other replica finds no token")
	}
	out, err := runCommand(purgeCommand(), name, "--fleet", "--address", s.admin)
	if err != nil {
		t.Fatal(err)
	}
	wantText(t, out, name+": The record in the store tells all replicas to forget their token.", "looks into the store next")
	after, ok := other.Load(t.Context())
	if purged := time.Now().Add(-after.Age); !ok || !after.Purged || purged.Before(asked.Add(-time.Second)) {
		t.Errorf("the other replica finds %+v, %t", after, ok)
	}
	if len(m.records()) != 1 {
		t.Errorf("the store has %q", m.records())
	}
	a := s.ask(http.MethodPost, "/token_proxy/purge?fleet=true")
	a.wantStatus(t, 200)
	wantText(t, a.body, `"purged":1`, `"store":"marked"`)
	s.ask(http.MethodPost, "/token_proxy/purge?fleet=perhaps").wantAdminError(t, 400, "true or false")
}

// What did not happen is not claimed.
func TestPurgeWhileTheStoreIsDown(t *testing.T) {
	s, _, name, _, m := sharedServer(t)
	m.fail(errors.New(canary))
	for _, fleet := range []string{"--fleet=false", "--fleet"} {
		out, err := runCommand(purgeCommand(), name, fleet, "--address", s.admin)
		wantError(t, err, "1 of 1 shared tokens are purged in this process only")
		wantText(t, out, "Purge again when the store works.")
		out, err = runCommand(purgeCommand(), "--all", "--json", fleet, "--address", s.admin)
		wantError(t, err, "in this process only")
		wantText(t, out, `"store": "failed"`)
	}
	if c := s.credential(name); c.State != "none" {
		t.Errorf("the token is %s", c.State)
	}
}

func TestPurgeOfTheFleetWithoutSharing(t *testing.T) {
	tokens := newTokenServer(t)
	name := "alone-" + newClientID()
	s := startOperated(t, globalOptions(tokens.credential(name)), nil)
	s.ask(http.MethodPost, "/token_proxy/credentials/"+name+"/purge?fleet=true").wantAdminError(t, 400, "not shared", name)
	s.ask(http.MethodPost, "/token_proxy/purge?fleet=true").wantAdminError(t, 400, "no token is shared")
}
