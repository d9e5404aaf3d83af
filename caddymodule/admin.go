package caddymodule

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/httpsproxy"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/status"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

func init() {
	caddy.RegisterModule(AdminAPI{})
}

// AdminAPI serves the credentials in force below /token_proxy/ of Caddy's admin API, under Caddy's rules of host and origin.
// In addition, it denies requests that a browser makes for a page of another site, whatever the option origins allows. It
// shows no secret and no token.
//
//	GET  /token_proxy/                            a page for people
//	GET  /token_proxy/credentials                 all credentials
//	GET  /token_proxy/credentials?probe=true      the same, and fetch missing tokens in the background, as a readiness probe does
//	GET  /token_proxy/credentials/<name>          one credential
//	POST /token_proxy/credentials/<name>/refresh  fetch a token now
//	POST /token_proxy/credentials/<name>/purge    forget the token, and delete it from the store of shared tokens
//	POST /token_proxy/purge                       the same for all tokens
//
// Of a credential with tenants:
//
//	GET  /token_proxy/credentials/<name>/tenants                   a page of them, sorted by name; it takes after, limit and state
//	GET  /token_proxy/credentials/<name>/tenants/<tenant>          one tenant
//	POST /token_proxy/credentials/<name>/tenants/<tenant>/refresh  fetch its token now
//	POST /token_proxy/credentials/<name>/tenants/<tenant>/purge    forget its token
//
// With ?fleet=true, the purge of a credential or of all tokens also tells the other replicas to forget their tokens. With
// ?credential=<name>, which can be repeated, the list has these credentials only.
type AdminAPI struct{}

// CaddyModule returns the Caddy module information.
func (AdminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.token_proxy",
		New: func() caddy.Module { return new(AdminAPI) },
	}
}

// Provision logs a warning if the home folder is on a read-only file system. Caddy makes a lock there and, in the examples, the
// socket of the admin API. Its own errors have no path.
func (AdminAPI) Provision(ctx caddy.Context) error {
	home, err := os.UserHomeDir()
	if err != nil {
		return nil // Caddy does without
	}
	file, err := os.CreateTemp(home, ".token-proxy-")
	if errors.Is(err, syscall.EROFS) {
		ctx.Logger().Warn("the file system of the home folder is read-only; mount a tmpfs there (docker run --tmpfs, tmpfs of Compose, an emptyDir of Kubernetes), or set HOME to another folder",
			zap.String("folder", home))
	}
	if err == nil {
		_ = file.Close()
		_ = os.Remove(file.Name())
	}
	return nil
}

const adminPath = "/token_proxy/"

//go:embed page.html
var page []byte

// pageHeader isolates the page. The page loads nothing, sends requests only to its own address, and cannot be framed.
var pageHeader = map[string]string{
	"Content-Type": "text/html; charset=utf-8",
	"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; " +
		"img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
	"X-Frame-Options":        "DENY",
	"X-Content-Type-Options": "nosniff",
	"Cache-Control":          "no-store",
	"Referrer-Policy":        "same-origin", // Caddy's check of the origin needs it
}

// Routes implements caddy.AdminRouter.
func (AdminAPI) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{{Pattern: adminPath, Handler: caddy.AdminHandlerFunc(serveAdmin)}}
}

func serveAdmin(w http.ResponseWriter, r *http.Request) error {
	if crossSite(r) {
		return adminError(http.StatusForbidden, "denied, because a browser sent this request for a page of another site; to open the page of token-proxy, type its address instead of following a link")
	}
	path := strings.TrimPrefix(r.URL.Path, adminPath)
	switch path {
	case "":
		return servePage(w, r)
	case "credentials":
		return serveCredentials(w, r)
	case "purge":
		return servePurgeAll(w, r)
	}
	rest, ok := strings.CutPrefix(path, "credentials/")
	if !ok {
		return adminError(http.StatusNotFound, "unknown path; the page is at "+adminPath+", and the credentials are at "+adminPath+"credentials")
	}
	name, action, _ := strings.Cut(rest, "/")
	c, err := findRunning(name)
	if err != nil {
		return err
	}
	if first, below, _ := strings.Cut(action, "/"); first == "tenants" {
		return serveTenants(w, r, c, below)
	}
	switch action {
	case "":
		return serveCredential(w, r, c)
	case "refresh":
		return serveRefresh(w, r, c)
	case "purge":
		return servePurge(w, r, c)
	default:
		return adminError(http.StatusNotFound, fmt.Sprintf("unknown action %q; the actions are refresh and purge", action))
	}
}

func servePage(w http.ResponseWriter, r *http.Request) error {
	if err := allow(w, r, http.MethodGet, http.MethodHead); err != nil {
		return err
	}
	for name, value := range pageHeader {
		w.Header().Set(name, value)
	}
	_, err := w.Write(page)
	return err
}

func serveCredentials(w http.ResponseWriter, r *http.Request) error {
	if err := allow(w, r, http.MethodGet, http.MethodHead); err != nil {
		return err
	}
	probe, err := flagOf(r, "probe")
	if err != nil {
		return err
	}
	named, err := namedClients(r.URL.Query()["credential"])
	if err != nil {
		return err
	}
	var store *status.Store
	if app := runningApp(); app != nil {
		store = app.Share.statusOrNil()
	}
	all := []status.Report{} // an empty list, not null
	for _, c := range named {
		if probe {
			c.ready()
		}
		all = append(all, c.status.Report())
	}
	return writeJSON(w, http.StatusOK, struct {
		Now         time.Time          `json:"now"`
		Store       *status.Store      `json:"store,omitempty"`
		HTTPSProxy  *httpsproxy.Status `json:"https_proxy,omitempty"`
		Credentials []status.Report    `json:"credentials"`
	}{time.Now(), store, httpsproxy.CurrentStatus(), all})
}

// namedClients returns the credentials with these names, or all.
func namedClients(names []string) (named []*client, err error) {
	if app := runningApp(); len(names) == 0 && app != nil {
		names = slices.Sorted(maps.Keys(app.clients))
	}
	for _, name := range names {
		c, err := findRunning(name)
		if err != nil {
			return nil, err
		}
		named = append(named, c)
	}
	return named, nil
}

func serveCredential(w http.ResponseWriter, r *http.Request, c *client) error {
	if err := allow(w, r, http.MethodGet, http.MethodHead); err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, c.status.Report())
}

func serveRefresh(w http.ResponseWriter, r *http.Request, c *client) error {
	if err := allow(w, r, http.MethodPost); err != nil {
		return err
	}
	if c.tenants != nil {
		return adminError(http.StatusBadRequest, fmt.Sprintf("credential %q has tenants, each with a token of its own; refresh the token of one tenant", c.name))
	}
	if err := c.source.Refresh(r.Context()); err != nil {
		return refreshFailure(c, err)
	}
	return writeJSON(w, http.StatusOK, c.status.Report())
}

// refreshFailure explains the failure of a refresh. It returns nil for a client that has left.
func refreshFailure(c *client, err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	if e, ok := errors.AsType[*token.Error](err); ok {
		code := http.StatusBadGateway
		if e.Kind == token.Unavailable {
			code = http.StatusServiceUnavailable
		}
		d := status.Explain(c.status.Service, e, time.Now())
		return adminError(code, strings.TrimSpace(d.Summary+" "+d.Advice))
	}
	return err
}

func servePurge(w http.ResponseWriter, r *http.Request, c *client) error {
	if err := allow(w, r, http.MethodPost); err != nil {
		return err
	}
	fleet, err := fleetOf(r)
	if err != nil {
		return err
	}
	if fleet && !c.isShared() {
		return adminError(http.StatusBadRequest, fmt.Sprintf("credential %q is not shared with other replicas; purge it without fleet", c.name))
	}
	inStore := c.purge(r.Context(), fleet)
	return writeJSON(w, http.StatusOK, steered{c.status.Report(), inStore})
}

// steered is a credential after an action.
type steered struct {
	status.Report
	Purge *storePurge `json:"purge,omitempty"` // only after a purge of a shared credential
}

// purgedAll is the answer to a purge of all credentials.
type purgedAll struct {
	Purged int                   `json:"purged"`
	Shared map[string]storePurge `json:"shared,omitempty"` // by the name of the credential
}

// fleetOf returns the query parameter fleet.
func fleetOf(r *http.Request) (bool, error) { return flagOf(r, "fleet") }

// flagOf returns a query parameter that is true or false. Default: false.
func flagOf(r *http.Request, name string) (bool, error) {
	switch r.URL.Query().Get(name) {
	case "", "false":
		return false, nil
	case "true":
		return true, nil
	default:
		return false, adminError(http.StatusBadRequest, "the parameter "+name+" must be true or false")
	}
}

func servePurgeAll(w http.ResponseWriter, r *http.Request) error {
	if err := allow(w, r, http.MethodPost); err != nil {
		return err
	}
	fleet, err := fleetOf(r)
	if err != nil {
		return err
	}
	app := runningApp()
	if fleet && (app == nil || app.Share == nil) {
		return adminError(http.StatusBadRequest, "no token is shared with other replicas; purge without fleet")
	}
	answer := purgedAll{Shared: make(map[string]storePurge)}
	if app != nil {
		for name, c := range app.clients {
			if inStore := c.purge(r.Context(), fleet); inStore != nil {
				answer.Shared[name] = *inStore
			}
			answer.Purged++
		}
	}
	return writeJSON(w, http.StatusOK, answer)
}

func findRunning(name string) (*client, error) {
	app := runningApp()
	if app == nil {
		return nil, adminError(http.StatusNotFound, "no credentials are configured")
	}
	c, err := app.client(name)
	if err != nil {
		return nil, adminError(http.StatusNotFound, err.Error())
	}
	return c, nil
}

// allow returns an error unless the request has one of the methods.
func allow(w http.ResponseWriter, r *http.Request, methods ...string) error {
	for _, method := range methods {
		if r.Method == method {
			return nil
		}
	}
	w.Header().Set("Allow", strings.Join(methods, ", "))
	return adminError(http.StatusMethodNotAllowed, "the method must be "+methods[0])
}

func adminError(status int, text string) error {
	return caddy.APIError{HTTPStatus: status, Err: errors.New(text)}
}

// Interface guards
var (
	_ caddy.AdminRouter = (*AdminAPI)(nil)
	_ caddy.Provisioner = (*AdminAPI)(nil)
)
