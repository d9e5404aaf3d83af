package dpop

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// prove returns the claims of the next proof of a request, and the proof.
func prove(t *testing.T, p *Prover, url string) (claims, Proof) {
	t.Helper()
	proof, err := p.Prove(request(t, http.MethodGet, url), "", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	c, _ := verify(t, proof.Field)
	return c, proof
}

func wantNonce(t *testing.T, p *Prover, url, nonce string) {
	t.Helper()
	if c, _ := prove(t, p, url); c.Nonce != nonce {
		t.Errorf("the nonce for %s is %q, want %q", url, c.Nonce, nonce)
	}
}

func nonce(value string) http.Header { return http.Header{"Dpop-Nonce": {value}} }

// Each origin has a nonce of its own, the same for all of its paths, and the latest answer counts.
func TestNonces(t *testing.T) {
	p := new(Client).ForAPI(newKey(t, "ES256"))
	const a, b = "https://a.example.com/", "https://a.example.com:8443/"
	wantNonce(t, p, a, "")
	_, proof := prove(t, p, a)
	if !p.Learn(&proof, nonce("n1"), false) {
		t.Error("the first nonce makes no difference")
	}
	wantNonce(t, p, "HTTPS://A.example.com:443/path?query", "n1")
	wantNonce(t, p, b, "")

	_, proof = prove(t, p, a)
	if p.Learn(&proof, nonce("n1"), false) || p.Learn(&proof, http.Header{}, false) {
		t.Error("an answer without a new nonce makes a difference")
	}
	wantNonce(t, p, a, "n1")
	if !p.Learn(&proof, nonce("n2"), false) {
		t.Error("the second nonce makes no difference")
	}
	wantNonce(t, p, a, "n2")
	if !p.Learn(&proof, http.Header{}, false) { // to a proof with n1, while another request has learned n2
		t.Error("a nonce that another request has learned makes no difference")
	}
	wantNonce(t, p, a, "n2")
}

// A request that is sent again has the nonce of its own answer. The one of another request may be older, or of another server
// behind the same address.
func TestNonceOfTheRefusal(t *testing.T) {
	p := new(Client).ForAPI(newKey(t, "ES256"))
	const url = "https://a.example.com/"
	_, refused := prove(t, p, url)
	_, accepted := prove(t, p, url)
	if !p.Learn(&refused, nonce("n2"), false) {
		t.Fatal("the nonce makes no difference")
	}
	p.Learn(&accepted, nonce("n1"), false)
	again, err := p.Prove(request(t, http.MethodGet, url), "", "", &refused)
	if err != nil {
		t.Fatal(err)
	}
	if c, _ := verify(t, again.Field); c.Nonce != "n2" {
		t.Errorf("the nonce of the second attempt is %q", c.Nonce)
	}
	if other, err := p.Prove(request(t, http.MethodGet, "https://b.example.com/"), "", "", &refused); err != nil || other.of.nonce != "" {
		t.Errorf("the nonce for another server is %q: %v", other.of.nonce, err)
	}
	wantNonce(t, p, url, "n1")
}

// Servers at two addresses may get the same Host.
func TestNoncesOfAddresses(t *testing.T) {
	p := new(Client).ForAPI(newKey(t, "ES256"))
	req := request(t, http.MethodGet, "https://a.example.com/")
	for _, address := range []string{"10.0.0.1:443", "10.0.0.2:443"} {
		for _, want := range []string{"", address} {
			proof, err := p.Prove(req, address, "", nil)
			if err != nil {
				t.Fatal(err)
			}
			if c, _ := verify(t, proof.Field); c.Nonce != want {
				t.Errorf("the nonce for %s is %q", address, c.Nonce)
			}
			p.Learn(&proof, nonce(address), false)
		}
	}
}

// A token endpoint and an API of the same origin have different nonces (RFC 9449 section 9).
func TestNoncesOfEndpointAndAPI(t *testing.T) {
	client, key := new(Client), newKey(t, "ES256")
	const url = "https://server.example.com/"
	_, proof := prove(t, client.ForEndpoint(key), url)
	client.ForEndpoint(key).Learn(&proof, nonce("endpoint"), false)
	wantNonce(t, client.ForAPI(key), url, "")
	_, proof = prove(t, client.ForAPI(key), url)
	client.ForAPI(key).Learn(&proof, nonce("api"), false)
	wantNonce(t, client.ForEndpoint(key), url, "endpoint")
	wantNonce(t, client.ForAPI(key), url, "api")
}

func TestNonceThatIsNoNonce(t *testing.T) {
	p := new(Client).ForAPI(newKey(t, "ES256"))
	const url = "https://a.example.com/"
	_, proof := prove(t, p, url)
	for _, value := range []string{"", "a b", `a"b`, `a\b`, "a\tb", "ä", strings.Repeat("x", maxNonce+1)} {
		if p.Learn(&proof, nonce(value), false) {
			t.Errorf("%q is taken for a nonce", value)
		}
	}
	wantNonce(t, p, url, "")
	for _, value := range []string{"!#$%&'()*+,-./:;<=>?@[]^_`{|}~", strings.Repeat("x", maxNonce)} {
		p.Learn(&proof, nonce(value), false)
		wantNonce(t, p, url, value)
	}
}

func TestServersAreBounded(t *testing.T) {
	p := new(Client).ForAPI(newKey(t, "EdDSA"))
	for i := range 3 * maxServers {
		url := fmt.Sprintf("https://api%d.example.com/", i)
		_, proof := prove(t, p, url)
		p.Learn(&proof, nonce(fmt.Sprint(i)), false)
		wantNonce(t, p, url, fmt.Sprint(i)) // the latest is never the one that is forgotten
	}
	if len(p.servers.known) != maxServers {
		t.Errorf("%d servers are known", len(p.servers.known))
	}
}

// The application can choose the host, so its length is no reason to remember it.
func TestLongNamesAreNotRemembered(t *testing.T) {
	p := new(Client).ForAPI(newKey(t, "EdDSA"))
	url := "https://" + strings.Repeat("a", maxName) + ".example.com/"
	_, proof := prove(t, p, url)
	if !p.Learn(&proof, nonce("n1"), false) || proof.told.nonce != "n1" {
		t.Error("the second attempt does not have the nonce")
	}
	wantNonce(t, p, url, "")
	if len(p.servers.known) != 0 {
		t.Error("the server is remembered")
	}
}

// The time of a proof is that of the server, as far as its Date shows that the clocks differ.
func TestClockOfTheServer(t *testing.T) {
	for _, tc := range []struct {
		name   string
		ahead  time.Duration // of the server
		took   time.Duration
		age    string
		off    time.Duration // of iat from our clock
		differ bool
	}{
		{"the same time", 0, 0, "", 0, false},
		{"a slow answer", -3 * time.Second, 4 * time.Second, "", 0, false},
		{"ahead by an hour", time.Hour, 0, "", time.Hour, true},
		{"behind by an hour", -time.Hour, 0, "", -time.Hour + time.Second, true},
		{"behind by an hour, slow", -time.Hour, 10 * time.Second, "", -time.Hour + 11*time.Second, true},
		{"from a cache", -time.Hour, 0, "3600", 0, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := new(Client).ForAPI(newKey(t, "ES256"))
				const url = "https://a.example.com/"
				_, proof := prove(t, p, url)
				time.Sleep(tc.took)
				answer := http.Header{"Date": {time.Now().Add(tc.ahead).UTC().Format(http.TimeFormat)}}
				if tc.age != "" {
					answer.Set("Age", tc.age)
				}
				if differ := p.Learn(&proof, answer, false); differ != tc.differ {
					t.Errorf("the clock makes a difference: %v", differ)
				}
				c, _ := prove(t, p, url)
				if off := time.Until(time.Unix(c.Time, 0)); off != tc.off {
					t.Errorf("iat is off by %v, want %v", off, tc.off)
				}
				time.Sleep(time.Hour)
				_, proof = prove(t, p, url)
				if !tc.differ {
					return
				}
				answer.Set("Date", time.Now().UTC().Format(http.TimeFormat))
				if !p.Learn(&proof, answer, false) {
					t.Error("the server's clock has been set, and that makes no difference")
				}
				if c, _ := prove(t, p, url); c.Time != time.Now().Unix() {
					t.Errorf("iat is %v", time.Unix(c.Time, 0))
				}
			})
		})
	}
}

// A proof that is accepted has the right time, whatever the Date of the answer. The nonce counts nevertheless.
func TestClockOfAcceptedProof(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := new(Client).ForAPI(newKey(t, "ES256"))
		const url = "https://a.example.com/"
		answer := nonce("n1")
		answer.Set("Date", time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat))
		_, proof := prove(t, p, url)
		p.Learn(&proof, answer, true)
		if c, _ := prove(t, p, url); c.Time != time.Now().Unix() || c.Nonce != "n1" {
			t.Errorf("the next proof is of %v with the nonce %q", time.Unix(c.Time, 0), c.Nonce)
		}
	})
}

// An API that has not answered yet has the clock of the token endpoint: most likely, it is ours that is wrong.
func TestClockOfTheEndpointCountsForTheAPI(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, key := new(Client), newKey(t, "ES256")
		date := func(ahead time.Duration) http.Header {
			return http.Header{"Date": {time.Now().Add(ahead).UTC().Format(http.TimeFormat)}}
		}
		iat := func(url string) time.Duration {
			c, _ := prove(t, client.ForAPI(key), url)
			return time.Until(time.Unix(c.Time, 0))
		}
		_, proof := prove(t, client.ForEndpoint(key), "https://login.example.com/")
		client.ForEndpoint(key).Learn(&proof, date(time.Hour), false)
		_, proof = prove(t, client.ForAPI(key), "https://a.example.com/")
		if client.ForAPI(key).Learn(&proof, nonce("n1"), false) != true || iat("https://a.example.com/") != time.Hour {
			t.Errorf("after an answer without Date: iat is off by %v", iat("https://a.example.com/"))
		}
		_, proof = prove(t, client.ForAPI(key), "https://a.example.com/")
		client.ForAPI(key).Learn(&proof, date(0), false)
		if iat("https://a.example.com/") != 0 || iat("https://b.example.com/") != time.Hour {
			t.Errorf("iat is off by %v and %v", iat("https://a.example.com/"), iat("https://b.example.com/"))
		}
	})
}

// A proof is risky before the first answer of a server, and if its nonce may be an old one by now.
func TestRiskyProofs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := new(Client).ForAPI(newKey(t, "ES256"))
		want := func(server string, risky bool) Proof {
			t.Helper()
			_, proof := prove(t, p, server)
			if proof.Risky() != risky {
				t.Errorf("risky: %t, want %t", proof.Risky(), risky)
			}
			return proof
		}
		const demanding, other = "https://demanding.example/", "https://other.example/"
		first, second := want(demanding, true), want(other, true)
		p.Learn(&first, http.Header{"Dpop-Nonce": {"a-nonce"}}, false)
		p.Learn(&second, http.Header{}, true)
		for range 2 {
			want(demanding, false)
			want(other, false)
			time.Sleep(freshNonce)
			latest := want(demanding, true)
			want(other, false) // it demands none
			p.Learn(&latest, http.Header{}, true)
		}
	})
}

// A client generates its key once for its algorithm.
func TestGeneratedKey(t *testing.T) {
	c := new(Client)
	first, err := c.Key("ES256")
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := c.Key("ES256"); again != first {
		t.Error("a second key is generated")
	}
	if again, _ := c.Key(""); again != first { // ES256 is the default
		t.Errorf("the key of no algorithm signs with %s", again.Alg())
	}
	if other, _ := c.Key("EdDSA"); other.Alg() != "EdDSA" {
		t.Errorf("the key of another algorithm signs with %s", other.Alg())
	}
	if other, _ := new(Client).Key("ES256"); other.Thumbprint() == first.Thumbprint() {
		t.Error("two clients have the same key")
	}
	if _, err := c.Key("none"); err == nil {
		t.Error("a key for no algorithm")
	}
}
