package caddymodule

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/provider"
)

// A certificate of somebody else's provider may come without its parsed form, which is needed to tell it from others.
func TestCertificateWithoutLeaf(t *testing.T) {
	made := newTestCertificate(t, signingKeyOf("P-256"), time.Hour)
	pair, err := tls.X509KeyPair([]byte(made.certificate), []byte(made.key))
	if err != nil {
		t.Fatal(err)
	}
	bare := tls.Certificate{Certificate: pair.Certificate, PrivateKey: pair.PrivateKey}
	if err := withLeaf(&bare); err != nil || !bare.Leaf.Equal(pair.Leaf) {
		t.Errorf("got %v, %v", bare.Leaf, err)
	}
	if err := withLeaf(nil); err != nil {
		t.Errorf("no certificate: %v", err)
	}
	for name, broken := range map[string]*tls.Certificate{"empty": {}, "damaged": {Certificate: [][]byte{{1}}}} {
		if withLeaf(broken) == nil {
			t.Errorf("%s: it is accepted", name)
		}
	}
}

// A kept value that is left out is missed later, where nobody would look for the cause.
func TestKeptValueThatIsLeftOutIsTold(t *testing.T) {
	endpoint := serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, secret, _ := r.BasicAuth()
		fmt.Fprintf(w, `{"access_token": "a-token", "token_type": "Bearer", "expires_in": 60, "echo": %q, "plain": "value"}`, secret)
	}))
	_, c, _ := provisionCredential(t, `{"provider": {"name": "oauth2", "token_url": "`+endpoint.URL+`",
		"response": {"keep": {"echoed": "echo", "other": "plain"}}}, "client_id": "id", "client_secret": "correct-horse-battery"}`)
	issued, err := fetchOnce(t, c)
	if err != nil {
		t.Fatal(err)
	}
	if len(issued.Kept) != 1 || issued.Kept["other"] != "value" {
		t.Errorf("kept is %q", issued.Kept)
	}
	if !strings.Contains(issued.Note, "echoed") || strings.Contains(issued.Note, "other") || strings.Contains(issued.Note, "horse") {
		t.Errorf("the note is %q", issued.Note)
	}
}

// learning is a provider that is told of failed token requests.
type learning struct {
	provider.Provider
	told []error
}

func (l *learning) Doubt(err error)           { l.told = append(l.told, err) }
func (l *learning) Inherit(provider.Provider) {}

func TestProviderIsToldOfFailedRequests(t *testing.T) {
	endpoint := serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "missing") {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		fmt.Fprint(w, `{"access_token": "a-token", "token_type": "Bearer", "expires_in": 60}`)
	}))
	for url, told := range map[string]int{endpoint.URL + "/missing": 1, "http://127.0.0.1:1/token": 1, endpoint.URL + "/token": 0} {
		_, c, _ := provisionCredential(t, credentialJSON("oauth2", "id", "secret", "token_url", url))
		l := &learning{Provider: c.provider}
		c.provider = l
		if _, err := fetchOnce(t, c); len(l.told) != told || told == 1 && l.told[0].Error() != err.Error() {
			t.Errorf("%s: told of %v, want %d failures; it ended with %v", url, l.told, told, err)
		}
	}
}

// rotating is a provider whose secret is another one each time that it is read.
type rotating struct {
	provider.Provider
	reads int
	sent  []string
}

func (r *rotating) Secrets() (provider.Secrets, error) {
	r.reads++
	return provider.Secrets{"key": token.NewSecret(fmt.Sprintf("key-number-%d", r.reads))}, nil
}

func (r *rotating) NewRequest(ctx context.Context, client provider.Client) (*http.Request, error) {
	r.sent = append(r.sent, client.Secrets["key"].Reveal())
	return r.Provider.NewRequest(ctx, client)
}

// What a request is made with, what tells whether it has changed, and what may not be seen come from one reading: a file that
// is replaced meanwhile cannot make them disagree.
func TestSecretsOfACallAgree(t *testing.T) {
	endpoint := serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(w, `{"error": "key-number-3"}`)
	}))
	_, c, _ := provisionCredential(t, credentialJSON("oauth2", "id", "secret", "token_url", endpoint.URL+"/token"))
	r := &rotating{Provider: c.provider}
	c.provider = r
	call := (&fetcher{caller: &c.caller}).Prepare()
	if r.reads != 3 {
		t.Errorf("read %d times, want 3, because no two rounds agree", r.reads)
	}
	for range 2 {
		if _, err := call.Make(t.Context()); err == nil || strings.Contains(err.Error(), "key-number") {
			t.Errorf("got error %v", err)
		}
	}
	if r.reads != 3 || r.sent[0] != "key-number-3" || r.sent[1] != "key-number-3" {
		t.Errorf("read %d times, sent %q", r.reads, r.sent)
	}
	if next := (&fetcher{caller: &c.caller}).Prepare(); next.Proof.Equal(call.Proof) {
		t.Error("a new secret has the proof of the old one")
	}
}
