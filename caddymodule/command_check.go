package caddymodule

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/status"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/tenants"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

func checkCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check [<credentials...>] [--tenant <tenant>] [--config <path> [--adapter <name>]] [--api <url>] [--json] [--print-header <credential>]",
		Short: "Fetches one token for each credential of a configuration, without starting a server",
		Long: `
Fetches one token for each named credential of a configuration, or for all of
its credentials, without starting a server. If replicas share one of these
tokens, the command also tests the store. It saves, loads and deletes a value,
and compares the keys with those of the replicas that made this check in the
last 5 minutes. The exit status is 0 if all credentials work, even if the store
does not, because replicas get their tokens without it.

The tokens of a credential with tenants belong to its tenants. --tenant fetches
one for the named tenant, of all credentials with tenants or of the named ones.
Without --tenant, the command fetches no token for these credentials.

--api also sends a request without a token to this URL of an API, and prints
what the API demands of tokens: the scope and the URL of its metadata
(resource_metadata, RFC 9728) in the challenge. The command does not request
that metadata.

--print-header also prints the header field that an API would get, with the
token in it. It works on a terminal only, so that the token does not end up in
a file or a log.`,
		RunE: check,
	}
	addConfigFlags(cmd)
	addTenantFlag(cmd, "Fetch the token of this tenant")
	cmd.Flags().String("api", "", "Print what the API at this URL demands of tokens")
	cmd.Flags().String("print-header", "", "Print the header field with the token of this credential, on a terminal")
	return cmd
}

// checked is the result for one credential.
type checked struct {
	Name        string                `json:"name"`
	Tenant      string                `json:"tenant,omitempty"`
	OK          bool                  `json:"ok"`
	Duration    float64               `json:"duration"`           // seconds
	Lifetime    float64               `json:"lifetime,omitempty"` // seconds
	Fingerprint string                `json:"fingerprint,omitempty"`
	Bound       string                `json:"bound,omitempty"` // "DPoP" if the token is bound to a key
	Note        string                `json:"note,omitempty"`
	Error       *status.ReportedError `json:"error,omitempty"`
	Summary     string                `json:"summary,omitempty"`
	Advice      string                `json:"advice,omitempty"`

	header  string
	skipped bool // no token was fetched
}

func check(cmd *cobra.Command, names []string) error {
	app, release, err := loadApp(cmd)
	if err != nil {
		return err
	}
	defer release()
	shown, err := headerToShow(cmd, app)
	if err != nil {
		return err
	}
	if shown != "" && !slices.Contains(names, shown) {
		names = append(names, shown)
	}
	tenant := tenantFlag(cmd)
	if names, err = app.namesToCheck(names, tenant); err != nil { // before any call
		return err
	}
	api, err := apiFlag(cmd)
	if err != nil {
		return err
	}
	results := []any{}
	failed := 0
	if app.sharesAny(names) {
		result := app.Share.check(cmd.Context())
		results = append(results, result)
		if !asJSON(cmd) {
			result.print(cmd)
		}
	}
	for _, name := range names {
		result := app.clients[name].checkFor(cmd.Context(), tenant)
		if !result.OK {
			failed++
		}
		results = append(results, result)
		if !asJSON(cmd) {
			result.print(cmd)
		}
		if name == shown && result.OK {
			fmt.Fprintln(cmd.OutOrStdout(), result.header)
		}
	}
	if api != "" {
		result := checkAPI(cmd.Context(), api)
		results = append(results, result)
		if !asJSON(cmd) {
			result.print(cmd)
		}
	}
	if asJSON(cmd) {
		if err := printJSON(cmd.OutOrStdout(), results); err != nil {
			return err
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d credentials do not work", failed, len(names))
	}
	return nil
}

// headerToShow returns the name of the credential whose header the command prints, or "". It returns an error if the output is
// not a terminal.
func headerToShow(cmd *cobra.Command, app *App) (string, error) {
	name, _ := cmd.Flags().GetString("print-header")
	if name == "" {
		return "", nil
	}
	if _, err := app.client(name); err != nil {
		return "", err
	}
	if out, ok := cmd.OutOrStdout().(*os.File); !ok || !term.IsTerminal(int(out.Fd())) {
		return "", errors.New("--print-header needs a terminal, so that the token does not end up in a file or a log")
	}
	return name, nil
}

// loadApp provisions the credentials of the configuration, and nothing else of it.
func loadApp(cmd *cobra.Command) (*App, func(), error) {
	file, _ := cmd.Flags().GetString("config")
	adapter, _ := cmd.Flags().GetString("adapter")
	var raw []byte
	var used string
	var err error
	quietly(func() { raw, used, _, err = caddycmd.LoadConfig(file, adapter) })
	if err != nil {
		return nil, nil, err
	}
	if used == "" {
		return nil, nil, errors.New("no configuration found: set --config, or run the command in a folder with a Caddyfile")
	}
	var config struct {
		Apps    map[string]json.RawMessage `json:"apps"`
		Storage json.RawMessage            `json:"storage"` // the store storage may use it
	}
	if err := json.Unmarshal(raw, &config); err != nil {
		return nil, nil, err
	}
	if config.Apps[appName] == nil {
		return nil, nil, fmt.Errorf("%s defines no credentials: add the global option %s", used, appName)
	}
	var ctx caddy.Context
	quietly(func() {
		ctx, err = caddy.ProvisionContext(&caddy.Config{
			Logging:    discardLogs(),
			AppsRaw:    caddy.ModuleMap{appName: config.Apps[appName]},
			StorageRaw: config.Storage,
		})
	})
	if err != nil {
		return nil, nil, err
	}
	app, err := ctx.App(appName)
	if err != nil {
		return nil, nil, err
	}
	loaded := app.(*App)
	return loaded, func() { _ = loaded.Cleanup() }, nil
}

// namesToCheck returns the named credentials or, without names, those that the command is about.
func (a *App) namesToCheck(names []string, tenant string) ([]string, error) {
	if tenant != "" && !tenants.ValidName(tenant) {
		return nil, errors.New("--tenant: " + tenantNameRule)
	}
	for _, name := range names {
		c, err := a.client(name)
		switch {
		case err != nil:
			return nil, err
		case tenant != "" && c.tenants == nil:
			return nil, fmt.Errorf("credential %q has no tenants: remove --tenant", name)
		case c.Tenant.basic():
			return nil, fmt.Errorf("credential %q: %s", name, noteBasic)
		case tenant == "" && c.tenants != nil:
			return nil, fmt.Errorf("the tokens of credential %q belong to its tenants: name one of them with --tenant", name)
		}
	}
	if len(names) > 0 {
		return names, nil
	}
	for _, name := range slices.Sorted(maps.Keys(a.clients)) {
		if c := a.clients[name]; tenant == "" || c.tenants != nil && !c.Tenant.basic() {
			names = append(names, name)
		}
	}
	if tenant != "" && len(names) == 0 {
		return nil, errNoTenants
	}
	return names, nil
}

// noteBasic is why the clients of `tenant basic` cannot be checked.
const noteBasic = "no token was fetched, because requests bring their clients with them (tenant basic)"

// checkFor makes one token call, for the tenant if there is one. Without it, a credential with tenants makes no call.
func (c *client) checkFor(ctx context.Context, name string) checked {
	if c.tenants == nil {
		return c.check(ctx, c.fetcher())
	}
	if name == "" {
		note := "no token was fetched, because the tokens belong to the tenants: name one of them with --tenant"
		if c.Tenant.basic() {
			note = noteBasic
		}
		return checked{Name: c.name, OK: true, skipped: true, Note: note}
	}
	result := c.check(ctx, c.tenants.Unplaced(name))
	result.Tenant = name
	return result
}

// discardLogs keeps the log of what a command loads out of its output.
func discardLogs() *caddy.Logging {
	return &caddy.Logging{Logs: map[string]*caddy.CustomLog{caddy.DefaultLoggerName: {
		BaseLog: caddy.BaseLog{WriterRaw: json.RawMessage(`{"output": "discard"}`)},
	}}}
}

// check makes one token call.
func (c *client) check(ctx context.Context, f token.Fetcher) checked {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(time.Duration(c.FetchTimeout), token.DefaultFetchTimeout))
	defer cancel()
	began := time.Now()
	issued, e := f.Prepare().Make(ctx)
	result := checked{Name: c.name, Duration: time.Since(began).Seconds()}
	if e != nil {
		d := status.Explain(c.status.Service, e, time.Now())
		result.Error = status.Reported(time.Now(), e)
		result.Summary, result.Advice = d.Summary, d.Advice
		return result
	}
	result.OK = true
	result.Fingerprint = issued.Token.Fingerprint()
	result.Note = issued.Note
	result.Lifetime = max(0, c.policy().Trusted(issued.Lifetime).Seconds())
	header := &c.header
	if issued.DPoP {
		header, result.Bound = &dpopHeader, "DPoP"
	}
	result.header = header.Name + ": " + header.value(issued.Token)
	if why := c.unopened(ctx); why != "" {
		result.Note = "what other replicas share of it cannot be opened. " + status.AdviceUnopened(why)
	}
	return result
}

func (r checked) print(cmd *cobra.Command) {
	out := cmd.OutOrStdout()
	name := r.Name
	if r.Tenant != "" {
		name += ", tenant " + r.Tenant
	}
	if r.skipped {
		fmt.Fprintf(out, "- %s: %s\n", name, r.Note)
		return
	}
	if !r.OK {
		fmt.Fprintf(out, "✗ %s (%.2f s): %s\n  %s\n", name, r.Duration, printable(r.Summary), printable(r.Advice))
		return
	}
	binding := ""
	if r.Bound != "" {
		binding = ", bound to a key by " + r.Bound
	}
	fmt.Fprintf(out, "✓ %s (%.2f s): a token valid for %s%s, fingerprint %s\n", name, r.Duration,
		status.Lasting(time.Duration(r.Lifetime*float64(time.Second))), binding, r.Fingerprint)
	if r.Note != "" {
		fmt.Fprintf(out, "  but %s\n", printable(r.Note))
	}
}
