package systemtest

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// pageCredential is a credential as the admin API shows it.
type pageCredential struct {
	Name        string         `json:"name"`
	Provider    string         `json:"provider"`
	Endpoint    string         `json:"endpoint"`
	State       string         `json:"state"`
	Health      string         `json:"health"`
	Summary     string         `json:"summary"`
	Advice      string         `json:"advice"`
	Fetching    bool           `json:"fetching"`
	Fingerprint string         `json:"fingerprint,omitempty"`
	Issued      *time.Time     `json:"issued,omitempty"`
	Refresh     *time.Time     `json:"refresh,omitempty"`
	Expires     *time.Time     `json:"expires,omitempty"`
	NextTry     *time.Time     `json:"next_try,omitempty"`
	LastSuccess *time.Time     `json:"last_success,omitempty"`
	LastError   *pageError     `json:"last_error,omitempty"`
	Share       *pageShare     `json:"share,omitempty"`
	Purge       *pagePurge     `json:"purge,omitempty"`
	Tenants     *pageTenants   `json:"tenants,omitempty"`
	Counters    map[string]any `json:"counters"`
	Recent      []pageFetch    `json:"recent"`
}

type pageShare struct {
	On        bool    `json:"on"`
	Up        bool    `json:"up"`
	LastError string  `json:"last_error,omitempty"`
	From      string  `json:"from,omitempty"`
	Unopened  string  `json:"unopened,omitempty"`
	Skew      float64 `json:"skew,omitempty"`
}

type pagePurge struct {
	Store string `json:"store"`
	Text  string `json:"text"`
}

type pageError struct {
	At     time.Time `json:"at"`
	Kind   string    `json:"kind"`
	Status int       `json:"status,omitempty"`
	Code   string    `json:"code,omitempty"`
	Reason string    `json:"reason"`
}

type pageFetch struct {
	At          time.Time `json:"at"`
	Outcome     string    `json:"outcome"`
	Tenant      string    `json:"tenant,omitempty"`
	Over        bool      `json:"over,omitempty"`
	Duration    float64   `json:"duration"`
	Lifetime    float64   `json:"lifetime,omitempty"`
	Status      int       `json:"status,omitempty"`
	Code        string    `json:"code,omitempty"`
	Reason      string    `json:"reason,omitempty"`
	Fingerprint string    `json:"fingerprint,omitempty"`
}

func inTime(d time.Duration) *time.Time { t := time.Now().Add(d); return &t }

// pageDelay is how long the page may take to show a time that it rounds down to minutes.
const pageDelay = 20 * time.Second

// healthy is a credential whose token has 42 of 60 minutes left and is due for refresh 12 minutes before its end.
func healthy(name string) pageCredential {
	c := pageCredential{
		Name: name, Provider: "optoro", Endpoint: "auth.example.com", State: "fresh", Health: "ok", Summary: "The token is fresh.",
		Fingerprint: "929998b5", Issued: inTime(-18*time.Minute + pageDelay), Refresh: inTime(30*time.Minute + pageDelay),
		Expires: inTime(42*time.Minute + pageDelay), LastSuccess: inTime(-18 * time.Minute),
		Counters: map[string]any{
			"requests": map[string]int{"fresh": 18234, "stale": 3, "waited": 2, "failed": 0},
			"calls":    map[string]int{"obtained": 16, "unavailable": 0, "refused": 0, "unreadable": 0},
			"refusals": map[string]int{"destination": 0, "client": 0}, "unauthorized": 0, "invalidations": 0, "replays": 0,
		},
	}
	for i := range 16 {
		c.Recent = append(c.Recent, pageFetch{At: time.Now().Add(-18*time.Minute - time.Duration(15-i)*48*time.Minute), Outcome: "obtained",
			Duration: 0.112 + 0.013*float64(i%5), Lifetime: 3600, Fingerprint: fmt.Sprintf("%08x", 0x929998b5-uint32(15-i)*7919)})
	}
	return c
}

// failed adds a failure that began 3 minutes ago and goes on.
func (c pageCredential) failed(outcome string, status int, code, reason string, took float64) pageCredential {
	for _, ago := range []time.Duration{180, 178, 171, 150, 96, 31} {
		c.Recent = append(c.Recent, pageFetch{At: time.Now().Add(-ago * time.Second), Outcome: outcome, Duration: took, Code: code, Reason: reason})
	}
	if outcome != "rejected" && outcome != "demanded" && outcome != "destination" {
		c.LastError = &pageError{At: time.Now().Add(-31 * time.Second), Kind: outcome, Status: status, Code: code, Reason: reason}
	}
	return c
}

func (c pageCredential) without() pageCredential {
	c.State, c.Fingerprint, c.Issued, c.Refresh, c.Expires = "none", "", nil, nil, nil
	return c
}

func endpointDown(name string) pageCredential {
	c := healthy(name).failed("unavailable", 0, "", "the token endpoint cannot be reached: connection refused", 0.003)
	c.State, c.Health, c.NextTry = "expired", "failing", inTime(42*time.Second)
	c.Issued, c.Refresh, c.Expires = inTime(-62*time.Minute), inTime(-14*time.Minute), inTime(-2*time.Minute)
	c.Summary = "The token endpoint auth.example.com cannot be reached, and the last token has expired: requests get 503."
	c.Advice = "Check that auth.example.com is up and that this host can connect to it; calls resume by themselves."
	return c
}

func rateLimited(name string) pageCredential {
	c := healthy(name).failed("unavailable", 429, "", "the token endpoint asks to try again later", 0.084)
	c.State, c.Health, c.NextTry = "stale", "degraded", inTime(58*time.Second)
	c.Refresh, c.Expires = inTime(-3*time.Minute), inTime(9*time.Minute)
	c.Summary = "The token endpoint limits the rate of calls (429); requests are served with the present token, which is valid for 9 more minutes."
	c.Advice = "Wait; if it stays so, look for other processes that use the same client id."
	return c
}

func wrongSecret(name string) pageCredential {
	c := healthy(name).without().failed("refused", 401, "invalid_client", "the token endpoint refused the request", 0.131)
	c.Health, c.NextTry = "failing", inTime(4*time.Minute)
	c.Recent = c.Recent[16:]
	c.LastSuccess = nil
	c.Summary = "The token endpoint does not accept this client id and secret (invalid_client): requests get 502."
	c.Advice = "Correct client_id or client_secret; a changed secret file is noticed by itself."
	return c
}

func revoked(name string) pageCredential {
	c := healthy(name).failed("rejected", 0, "", "the API answered 401 to a token that should be valid", 0)
	c.State, c.Health = "rejected", "degraded"
	c.Counters["unauthorized"], c.Counters["invalidations"], c.Counters["replays"] = 14, 6, 12
	c.Summary = "The API answers 401 to tokens that should be valid; each is replaced and the request sent again."
	c.Advice = "Ask the API's operator whether tokens of this client are revoked, and check scope and audience."
	return c
}

func destinationRefused(name string) pageCredential {
	c := healthy(name).failed("destination", 0, "", "api.other.example is not among api_hosts", 0)
	c.Health = "degraded"
	c.Counters["refusals"] = map[string]int{"destination": 27, "client": 0}
	c.Summary = "27 requests were to go to api.other.example, which is not among api_hosts: they got 502, and the token stayed here."
	c.Advice = "Add the host to api_hosts if the token may go there; else correct the upstream of the site."
	return c
}

func demanding(name string) pageCredential {
	c := healthy(name).failed("demanded", 0, "insufficient_scope", `the API demands a scope that the token does not have ("orders:write")`, 0)
	c.Health = "degraded"
	c.Summary = "The API demands a scope that the token does not have (\"orders:write\"): requests get its answer as it is."
	c.Advice = "If the client may have this scope, allow it in the service's console and add it to the option scope of provider oauth2."
	return c
}

func slowEndpoint(name string) pageCredential {
	c := healthy(name).failed("unavailable", 0, "", "the token endpoint did not answer in time", 10.0)
	c.Health, c.State, c.Fetching = "degraded", "stale", true
	c.Refresh, c.Expires = inTime(-3*time.Minute), inTime(4*time.Minute)
	c.Summary = "The token endpoint takes longer than fetch_timeout (10 s); requests are served with the present token for 4 more minutes."
	c.Advice = "Ask the endpoint's operator; raise fetch_timeout if such times are normal."
	return c
}

var pageFailures = []struct {
	name string
	make func(string) pageCredential
}{
	{"endpoint-down", endpointDown}, {"rate-limited", rateLimited}, {"wrong-secret", wrongSecret},
	{"revoked-token", revoked}, {"demanding-api", demanding}, {"refused-destination", destinationRefused}, {"slow-endpoint", slowEndpoint},
}

func everyCondition() []pageCredential {
	idle := healthy("nightly").without()
	idle.Health, idle.Recent, idle.LastSuccess, idle.Summary = "idle", nil, nil, "There is no token: no request has asked for one yet."
	return []pageCredential{
		wrongSecret("billing"), endpointDown("warehouse"), rateLimited("catalog"), revoked("storefront"),
		demanding("orders"), destinationRefused("partners"), slowEndpoint("search"), idle, healthy("reports"), platform("shops"),
	}
}

func manyCredentials(n int) []pageCredential {
	cs := make([]pageCredential, n)
	for i := range cs {
		cs[i] = healthy(fmt.Sprintf("tenant-%03d", i))
		left := time.Duration(13+i*7%46) * time.Minute
		cs[i].Issued, cs[i].Refresh, cs[i].Expires = inTime(left-time.Hour), inTime(left-12*time.Minute), inTime(left)
		if i%9 == 8 {
			cs[i] = cs[i].without()
			cs[i].Health, cs[i].Summary = "idle", "The token was not used and has expired."
		}
	}
	return cs
}

// pageAPI is an admin API with credentials that a test makes up, which counts its calls.
type pageAPI struct {
	*httptest.Server
	refresh func(*pageCredential) error
	ahead   time.Duration // of its clock
	purge   *pagePurge    // what a purge did in the store
	proxy   any           // what it shows of https_proxy

	mu          sync.Mutex
	credentials map[string]pageCredential
	calls       map[string]int
	mode        string // "" works; else "down", "html" or "forbidden"
}

// adminAPI is the real one, which the page comes from.
func adminAPI(t *testing.T) caddy.AdminHandler {
	t.Helper()
	info, err := caddy.GetModule("admin.api.token_proxy")
	if err != nil {
		t.Fatal(err)
	}
	return info.New().(caddy.AdminRouter).Routes()[0].Handler
}

func newPageAPI(t *testing.T, cs ...pageCredential) *pageAPI {
	a := &pageAPI{credentials: map[string]pageCredential{}, calls: map[string]int{}}
	for _, c := range cs {
		a.credentials[c.Name] = c
	}
	page := adminAPI(t)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /token_proxy/{$}", func(w http.ResponseWriter, r *http.Request) {
		if err := page.ServeHTTP(w, r); err != nil {
			t.Log(err) // the browser went away
		}
	})
	mux.HandleFunc("GET /token_proxy/credentials", a.works(func(w http.ResponseWriter, _ *http.Request) {
		a.mu.Lock()
		defer a.mu.Unlock()
		cs := make([]pageCredential, 0, len(a.credentials))
		for _, c := range a.credentials {
			cs = append(cs, c)
		}
		slices.SortFunc(cs, func(x, y pageCredential) int { return cmp.Compare(x.Name, y.Name) })
		answer := map[string]any{"now": time.Now().Add(a.ahead), "credentials": cs}
		if a.proxy != nil {
			answer["https_proxy"] = a.proxy
		}
		writePageJSON(w, http.StatusOK, answer)
	}))
	mux.HandleFunc("POST /token_proxy/credentials/{name}/{verb}", a.works(func(w http.ResponseWriter, r *http.Request) {
		c := a.get(r.PathValue("name"))
		if r.PathValue("verb") == "purge" {
			c = c.without()
			c.Health, c.Purge = "idle", a.purge
		} else if a.refresh != nil {
			if err := a.refresh(&c); err != nil {
				writePageJSON(w, http.StatusBadGateway, map[string]string{"error": err.Error()})
				return
			}
		}
		a.set(c)
		writePageJSON(w, http.StatusOK, c)
	}))
	mux.HandleFunc("POST /token_proxy/purge", a.works(func(w http.ResponseWriter, _ *http.Request) {
		answer := map[string]any{"purged": len(a.credentials)}
		if a.purge != nil {
			answer["shared"] = map[string]pagePurge{"one": *a.purge, "two": {Store: "deleted"}}
		}
		writePageJSON(w, http.StatusOK, answer)
	}))
	a.Server = httptest.NewServer(mux)
	t.Cleanup(a.Close)
	return a
}

func (a *pageAPI) works(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		a.calls[r.Method+" "+strings.TrimPrefix(r.URL.Path, "/token_proxy/")]++
		mode := a.mode
		a.mu.Unlock()
		switch mode {
		case "down":
			panic(http.ErrAbortHandler) // closes the connection without an answer
		case "html":
			_, _ = w.Write([]byte("<h1>It works!</h1>"))
		case "forbidden":
			writePageJSON(w, http.StatusForbidden, map[string]string{"error": "client is not allowed to access from origin ''"})
		default:
			next(w, r)
		}
	}
}

func writePageJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

func (a *pageAPI) get(name string) pageCredential {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.credentials[name]
}

func (a *pageAPI) set(c pageCredential) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.credentials[c.Name] = c
}

func (a *pageAPI) remove(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.credentials, name)
}

func (a *pageAPI) setMode(mode string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.mode = mode
}

func (a *pageAPI) count(call string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.calls[call]
}

// pageTenants are the tenants of a credential in numbers.
type pageTenants struct {
	Count     int            `json:"count"`
	Max       int            `json:"max"`
	States    map[string]int `json:"states"`
	Failing   int            `json:"failing"`
	Evictions int            `json:"evictions"`
	Refusals  map[string]int `json:"refusals"`
	Failures  []pageFetch    `json:"failures"`
}

// platform is a credential with tenants, the newest of which cannot get a token.
func platform(name string) pageCredential {
	c := healthy(name).without()
	c.Health, c.Summary, c.Advice = "degraded", "The last token call of tenant acme failed.", "Compare client_id and client_secret."
	failure := func(tenant string, ago time.Duration) pageFetch {
		return pageFetch{At: time.Now().Add(-ago), Outcome: "refused", Tenant: tenant, Status: 401, Code: "invalid_client", Reason: "the token endpoint refused the request"}
	}
	over := failure("globex", 5*time.Minute)
	over.Over = true
	c.Tenants = &pageTenants{Count: 4203, Max: 10_000, States: map[string]int{"none": 12, "fresh": 4100, "stale": 90, "rejected": 0, "expired": 1}, Failing: 3,
		Evictions: 7, Refusals: map[string]int{"invalid": 0, "unknown": 1250, "limited": 2, "full": 0}, Failures: []pageFetch{failure("acme", time.Minute), over}}
	c.Recent = append(c.Recent, failure("acme", time.Minute))
	c.LastError = &pageError{At: time.Now().Add(-time.Minute), Kind: "refused", Status: 401, Code: "invalid_client", Reason: "the token endpoint refused the request"}
	return c
}
