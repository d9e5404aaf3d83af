package caddymodule

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/hostpattern"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/option"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/peer"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/provider"
)

func init() {
	httpcaddyfile.RegisterGlobalOption(appName, parseGlobalOption)
	httpcaddyfile.RegisterHandlerDirective("token_proxy", parseDirective)
	httpcaddyfile.RegisterDirectiveOrder("token_proxy", httpcaddyfile.Before, "reverse_proxy")
}

// parseGlobalOption parses the global option. A Caddyfile may have it more than once, with different credentials.
func parseGlobalOption(d *caddyfile.Dispenser, existing any) (any, error) {
	app := new(App)
	if earlier, ok := existing.(httpcaddyfile.App); ok {
		if err := json.Unmarshal(earlier.Value, app); err != nil {
			return nil, d.WrapErr(err)
		}
	}
	if err := app.UnmarshalCaddyfile(d); err != nil {
		return nil, err
	}
	return httpcaddyfile.App{Name: appName, Value: caddyconfig.JSON(app, nil)}, nil
}

// UnmarshalCaddyfile sets up the app from Caddyfile tokens. Syntax:
//
//	token_proxy {
//	    replay_memory <size>
//	    share {
//	        store <name> [<args...>] {
//	            ...
//	        }
//	        key   {file./path}|{env.NAME}...
//	        group <name>
//	    }
//	    credential <name> {
//	        provider         <name> [<args...>] {
//	            ...
//	        }
//	        client_id        <id>|{env.NAME}|{file./path}
//	        client_secret    {env.NAME}|{file./path}|<secret>
//	        api_hosts        <host patterns, ranges, unix/<path>...>
//	        allow_plaintext
//	        refresh_margin   <duration>
//	        fetch_timeout    <duration>
//	        max_wait         <duration>
//	        default_lifetime <duration>
//	        header           <name>|query:<name> [<format with {token}>]
//	        prefetch         on|off
//	        share            off
//	        tenant           <placeholder>|basic {
//	            max      <tenants>
//	            new_rate <token calls a second>
//	            keep
//	        }
//	        transport {
//	            ca                {file./path}|{env.NAME}
//	            server_name       <name>
//	            proxy             <url>|none
//	            dial_timeout      <duration>
//	            tls_renegotiation never|once|freely
//	        }
//	    }
//	}
func (a *App) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume the option's name
	if d.NextArg() {
		return d.Err("token_proxy takes no value: define the credentials in its block")
	}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if err := a.unmarshalOption(d); err != nil {
			return err
		}
	}
	return nil
}

func (a *App) unmarshalOption(d *caddyfile.Dispenser) error {
	switch d.Val() {
	case "credential":
		return a.unmarshalCredential(d)
	case "share":
		if a.Share != nil {
			return d.Err("share is already specified")
		}
		a.Share = new(Share)
		return a.Share.unmarshalCaddyfile(d)
	case "replay_memory":
		if a.ReplayMemory != nil {
			return d.Err("replay_memory is already specified")
		}
		return option.Size(d, &a.ReplayMemory, maxReplayMemory)
	default:
		return option.Unrecognized(d, option.OfGlobal)
	}
}

func (a *App) unmarshalCredential(d *caddyfile.Dispenser) error {
	var name string
	if !d.AllArgs(&name) {
		return d.Err("credential takes a name, and nothing else on its line")
	}
	if !validCredentialName(name) {
		return d.Errf("credential: %v", errCredentialName)
	}
	if _, ok := a.Credentials[name]; ok {
		return d.Errf("credential %q is already defined", name)
	}
	c := new(Credential)
	if err := c.unmarshalCaddyfile(d); err != nil {
		return err
	}
	if a.Credentials == nil {
		a.Credentials = make(map[string]*Credential)
	}
	a.Credentials[name] = c
	return nil
}

func (c *Credential) unmarshalCaddyfile(d *caddyfile.Dispenser) error {
	lines := tenantLinesOf(d)
	seen, err := option.Block(d, c.unmarshalOption)
	if err != nil {
		return err
	}
	for _, required := range []string{"provider", "client_id"} {
		if !seen[required] && !(required == "client_id" && c.Tenant.basic()) {
			return d.Errf("%s is missing", required)
		}
	}
	return lines.check(d, c)
}

func (c *Credential) unmarshalOption(d *caddyfile.Dispenser) error {
	switch d.Val() {
	case "provider":
		return c.unmarshalProvider(d)
	case "client_id":
		return option.Secret(d, &c.ClientID)
	case "client_secret":
		return option.Secret(d, (*string)(&c.ClientSecret))
	case "api_hosts":
		return c.unmarshalHosts(d)
	case "allow_plaintext":
		c.AllowPlaintext = true
		return option.NoValue(d)
	case "refresh_margin":
		return option.Duration(d, &c.RefreshMargin)
	case "fetch_timeout":
		return option.Duration(d, &c.FetchTimeout)
	case "max_wait":
		return option.Duration(d, &c.MaxWait)
	case "default_lifetime":
		return option.Duration(d, &c.DefaultLifetime)
	case "header":
		return c.unmarshalHeader(d)
	case "transport":
		return c.unmarshalTransport(d)
	case "tenant":
		return c.unmarshalTenant(d)
	case "share":
		var choice string
		if err := option.String(d, &choice); err != nil {
			return err
		}
		if choice != "off" {
			return d.Err("share: the only value is off; without it, the credential is shared if the app has a share block")
		}
		c.Share = new(bool)
		return nil
	case "prefetch":
		var choice string
		err := option.Choice(d, &choice, "on", "off")
		c.Prefetch = choice == "on"
		return err
	default:
		return option.Unrecognized(d, option.OfCredential)
	}
}

func (c *Credential) unmarshalProvider(d *caddyfile.Dispenser) error {
	if !d.NextArg() {
		return d.Err("provider needs the name of a provider")
	}
	name := d.Val()
	mod, err := option.Module(d, providerNamespace, "unknown provider: the providers are")
	if err != nil {
		return err
	}
	provider, ok := mod.(provider.Provider)
	if !ok {
		return d.Errf("provider %s (%T) is not a provider", name, mod)
	}
	c.ProviderRaw = caddyconfig.JSONModuleObject(provider, "name", name, nil)
	return nil
}

func (c *Credential) unmarshalHosts(d *caddyfile.Dispenser) error {
	var err error
	if c.APIHosts, err = option.Values(d); err != nil {
		return err
	}
	for i, host := range c.APIHosts {
		if strings.Contains(host, "{") {
			continue // known only when the configuration is loaded
		}
		if _, err := hostpattern.ParseOne(host); err != nil {
			return d.Errf("api_hosts: host %d: %v", i+1, err)
		}
	}
	return nil
}

func (c *Credential) unmarshalHeader(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) != 1 && len(args) != 2 {
		return d.Err("header takes a field name and, in quotes, a format")
	}
	if slices.Contains(args, "") {
		return d.Err("header: the field name or the format is empty")
	}
	c.Header = &TokenHeader{Name: args[0]}
	if len(args) == 2 {
		c.Header.Format = args[1]
	}
	check := *c.Header
	if err := check.provision(); err != nil {
		return d.Errf("header: %v", err)
	}
	return nil
}

func (c *Credential) unmarshalTransport(d *caddyfile.Dispenser) error {
	if err := option.NoValue(d); err != nil {
		return err
	}
	c.Transport = new(TokenTransport)
	_, err := option.Block(d, c.Transport.unmarshalOption)
	return err
}

// parseDirective parses the directive into a Handler.
func parseDirective(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	h.Next() // consume the directive's name
	d := h.NewFromNextSegment()
	handler := new(Handler)
	if err := handler.UnmarshalCaddyfile(d); err != nil {
		return nil, err
	}
	h.Reset()
	h.Next() // back to the line that names the credential
	if err := checkCredential(h, handler.Credential); err != nil {
		return nil, err
	}
	if err := handler.FinalizeUnmarshalCaddyfile(h.WithDispenser(d)); err != nil {
		return nil, err
	}
	return handler, nil
}

// checkCredential returns an error for an unknown credential. It runs while the Caddyfile is parsed, so that the error has
// the file and the line.
func checkCredential(h httpcaddyfile.Helper, name string) error {
	option, ok := h.Option(appName).(httpcaddyfile.App)
	if !ok {
		return h.Errf("credential %q is not defined: add the global option token_proxy, which defines the credentials", name)
	}
	app := new(App)
	if err := json.Unmarshal(option.Value, app); err != nil {
		return h.WrapErr(err)
	}
	if _, ok := app.Credentials[name]; !ok {
		return h.WrapErr(unknownCredential(name, slices.Collect(maps.Keys(app.Credentials))))
	}
	return nil
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. All of reverse_proxy's subdirectives work here.
// Syntax:
//
//	token_proxy [<matcher>] <credential> [<upstreams...>] {
//	    client_authorization replace|keep|reject
//	    on_unauthorized      replay|pass
//	    rejected_status      <statuses...>
//	    replay_buffer        <size>
//	    clients              any|<loopback, private_ranges, IP addresses and CIDR ranges...>
//	    cross_site           deny|allow
//	    forwarded            on|off
//	    token_stub           [<paths...>]
//
//	    <reverse_proxy's subdirectives...>
//	}
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume the directive's name
	if !d.NextArg() {
		return d.Err("token_proxy needs the name of a credential")
	}
	h.Credential = d.Val()
	d.Delete()
	if !validCredentialName(h.Credential) {
		return d.Err("token_proxy needs the name of a credential before the upstreams")
	}
	d.RemainingArgs() // upstreams, which reverse_proxy parses

	seen := make(option.Set)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		parse := h.option(d.Val())
		if parse == nil {
			d.NextSegment() // a subdirective of reverse_proxy
			continue
		}
		if err := seen.Add(d); err != nil {
			return err
		}
		args := d.CountRemainingArgs()
		if err := parse(d); err != nil {
			return err
		}
		d.DeleteN(1 + args)
	}
	d.Reset()
	return option.HideSubdirective(h.Handler.UnmarshalCaddyfile(d))
}

// option returns the parser of a subdirective of token_proxy, or nil for one of reverse_proxy.
func (h *Handler) option(name string) func(*caddyfile.Dispenser) error {
	switch name {
	case "client_authorization":
		return func(d *caddyfile.Dispenser) error {
			return option.Choice(d, &h.ClientAuthorization, authorizationReplace, authorizationKeep, authorizationReject)
		}
	case "on_unauthorized":
		return func(d *caddyfile.Dispenser) error {
			return option.Choice(d, &h.OnUnauthorized, unauthorizedReplay, unauthorizedPass)
		}
	case "rejected_status":
		return h.unmarshalRejectedStatus
	case "replay_buffer":
		return func(d *caddyfile.Dispenser) error { return option.Size(d, &h.ReplayBuffer, maxReplayBuffer) }
	case "clients":
		return h.unmarshalClients
	case "cross_site":
		return func(d *caddyfile.Dispenser) error {
			return option.Choice(d, &h.CrossSite, crossSiteDeny, crossSiteAllow)
		}
	case "forwarded":
		return func(d *caddyfile.Dispenser) error {
			var choice string
			err := option.Choice(d, &choice, "on", "off")
			h.Forwarded = choice == "on"
			return err
		}
	case "token_stub":
		return h.unmarshalTokenStub
	default:
		return nil
	}
}

func (h *Handler) unmarshalClients(d *caddyfile.Dispenser) error {
	var err error
	if h.Clients, err = option.Values(d); err != nil {
		return err
	}
	if _, err = peer.ParseClients(h.Clients); err != nil {
		return d.Errf("clients: %v", err)
	}
	return nil
}

func (h *Handler) unmarshalTokenStub(d *caddyfile.Dispenser) error {
	h.TokenStub = d.RemainingArgs()
	if len(h.TokenStub) == 0 {
		h.TokenStub = []string{stubDefault}
	}
	for _, path := range h.TokenStub {
		if err := checkStubPath(path); err != nil {
			return d.Errf("token_stub: %v", err)
		}
	}
	return nil
}

// Interface guards
var (
	_ caddyfile.Unmarshaler = (*App)(nil)
	_ caddyfile.Unmarshaler = (*Handler)(nil)
)

func (h *Handler) unmarshalRejectedStatus(d *caddyfile.Dispenser) error {
	args, err := option.Values(d)
	if err != nil {
		return err
	}
	for _, arg := range args {
		status, _ := strconv.Atoi(arg) // 0 is no status
		h.RejectedStatus = append(h.RejectedStatus, status)
	}
	if err := checkRejectedStatus(h.RejectedStatus); err != nil {
		return d.Errf("rejected_status: %v", err)
	}
	return nil
}
