package caddymodule

import (
	"errors"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddypki"
)

func init() { caddy.RegisterModule(machineWitness{}) }

// machineWitness is an app that notes what the other apps of its configuration would do to the machine.
type machineWitness struct{}

// witnessed is what the last configuration with a machineWitness would do. Automatic HTTPS has added its part.
var witnessed struct {
	privileged []string // the addresses below port 1024 on which it would listen
	installs   []string // the authorities that it would add to the trust store of the system
}

func (machineWitness) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "machine_witness", New: func() caddy.Module { return new(machineWitness) }}
}

// Provision implements caddy.Provisioner.
func (machineWitness) Provision(ctx caddy.Context) error {
	witnessed.privileged, witnessed.installs = nil, nil
	app, err := ctx.AppIfConfigured("http")
	if err != nil {
		return ignoreNotConfigured(err)
	}
	for _, server := range app.(*caddyhttp.App).Servers {
		for _, listen := range server.Listen {
			address, err := caddy.ParseNetworkAddress(listen)
			if err != nil {
				return err
			}
			if !address.IsUnixNetwork() && !address.IsFdNetwork() && address.StartPort < 1024 {
				witnessed.privileged = append(witnessed.privileged, listen)
			}
		}
	}
	slices.Sort(witnessed.privileged)
	app, err = ctx.AppIfConfigured("pki") // the app http has loaded it if it needs an authority
	if err != nil {
		return ignoreNotConfigured(err)
	}
	for id, authority := range app.(*caddypki.PKI).CAs {
		if authority.InstallTrust == nil || *authority.InstallTrust {
			witnessed.installs = append(witnessed.installs, id)
		}
	}
	return nil
}

func ignoreNotConfigured(err error) error {
	if errors.Is(err, caddy.ErrNotConfigured) {
		return nil
	}
	return err
}

func (machineWitness) Start() error { return nil }
func (machineWitness) Stop() error  { return nil }
