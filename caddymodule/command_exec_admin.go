package caddymodule

import (
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
)

// sealedAdapter adapts the configuration of a sidecar beside an application, also when the sidecar reloads on SIGUSR1.
type sealedAdapter struct {
	operators string // the name of the operator's adapter, or empty for JSON
}

// Adapt implements caddyconfig.Adapter.
func (a sealedAdapter) Adapt(body []byte, options map[string]any) (config []byte, warnings []caddyconfig.Warning, err error) {
	config = body
	if a.operators != "" {
		adapter := caddyconfig.GetAdapter(a.operators)
		if adapter == nil {
			return nil, nil, fmt.Errorf("unknown config adapter %s", a.operators)
		}
		if config, warnings, err = adapter.Adapt(body, options); err != nil {
			return nil, warnings, err
		}
	}
	config, warning, err := sealAdmin(config)
	if warning != "" {
		file, _ := options["filename"].(string)
		warnings = append(warnings, caddyconfig.Warning{File: file, Directive: "admin", Message: warning})
	}
	return config, warnings, err
}

// sealAdmin returns the configuration without the ways to the credentials that Caddy offers to an application on the same
// machine. Through the admin API, the application could load a configuration that answers with the variables and files of the
// sidecar. So the API is off, unless it is on a unix socket with permissions. In autosave.json, an application of the same user
// could read the values of {$NAME}.
func sealAdmin(config []byte) (sealed []byte, warning string, err error) {
	var c struct {
		Admin caddy.AdminConfig `json:"admin"`
	}
	if err := json.Unmarshal(config, &c); err != nil {
		return nil, "", err
	}
	if c.Admin.Config != nil && c.Admin.Config.LoadRaw != nil {
		return nil, "", errors.New("admin.config.load pulls another configuration, which exec cannot read: name that configuration in --config")
	}
	off := c.Admin.Disabled || !hasPermissions(c.Admin.Listen)
	switch {
	case !off:
		warning = fmt.Sprintf("the admin API at %s stays on: run the application as another user, because one of this user could load a configuration there that shows the credentials", c.Admin.Listen)
	case !c.Admin.Disabled && c.Admin.Listen != "":
		warning = fmt.Sprintf("the admin API at %s is off, because the application could load a configuration there that shows the credentials; "+
			"to use the API, set admin unix//<path>, and run the application as another user", c.Admin.Listen)
	}
	root := membersOf(config)
	admin := membersOf(root["admin"])
	settings := membersOf(admin["config"])
	settings["persist"] = json.RawMessage("false")
	admin["config"] = caddyconfig.JSON(settings, nil)
	if off {
		admin["disabled"] = json.RawMessage("true")
	}
	root["admin"] = caddyconfig.JSON(admin, nil)
	sealed, err = json.Marshal(root)
	return sealed, warning, err
}

// hasPermissions reports whether an address of the admin API is a unix socket that not every user may write to.
func hasPermissions(address string) bool {
	address, err := caddy.NewReplacer().ReplaceOrErr(address, true, true)
	if err != nil {
		return false // Caddy reports it
	}
	a, err := caddy.ParseNetworkAddress(address)
	if err != nil || !a.IsUnixNetwork() || strings.HasPrefix(a.Host, "@") || runtime.GOOS == "windows" { // abstract sockets and those of Windows have none
		return false
	}
	_, bits, _ := strings.Cut(a.Host, "|")
	mode, _ := strconv.ParseUint(bits, 8, 32) // without bits, only the user of the sidecar may write
	return mode&0o002 == 0
}

// membersOf returns the members of a JSON object, which none and null do not have.
func membersOf(object json.RawMessage) map[string]json.RawMessage {
	var members map[string]json.RawMessage
	if json.Unmarshal(object, &members) != nil || members == nil {
		return make(map[string]json.RawMessage)
	}
	return members
}
