package caddymodule

import (
	"cmp"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/caddyserver/caddy/v2/modules/caddypki"
	"github.com/spf13/cobra"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/trust"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "trust-bundle",
		Usage: "[--config <path> [--adapter <name>]] [--output <path>]",
		Short: "Writes the authorities of the system and Caddy's own into one file",
		Long: `
Writes one PEM file for applications that read their certificate authorities
from a file: the root of Caddy's own authority, and the authorities of the
system. Set SSL_CERT_FILE, REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE,
NODE_EXTRA_CA_CERTS or GIT_SSL_CAINFO to its path.

The command creates the root if Caddy has not done so yet. The root is in the
storage of the configuration, so run the command as the user of the sidecar.
Another user has another storage by default, and thereby another root.

Without --output, the command prints the file.`,
		CobraFunc: func(cmd *cobra.Command) {
			cmd.Args = cobra.NoArgs
			cmd.Flags().StringP("config", "c", "", "Configuration file")
			cmd.Flags().StringP("adapter", "a", "", "Name of the config adapter")
			cmd.Flags().StringP("output", "o", "", "File to write, in one step and readable for all users")
			cmd.RunE = trustBundle
		},
	})
}

func trustBundle(cmd *cobra.Command, _ []string) error {
	file, _ := cmd.Flags().GetString("config")
	adapter, _ := cmd.Flags().GetString("adapter")
	output, _ := cmd.Flags().GetString("output")
	var raw []byte
	var err error
	quietly(func() { raw, _, _, err = caddycmd.LoadConfig(file, adapter) })
	if err != nil {
		return err
	}
	bundle, err := makeBundle(raw, output)
	if err != nil {
		return err
	}
	if output == "" {
		_, err := cmd.OutOrStdout().Write(bundle.pem)
		return err
	}
	if err := trust.WriteFile(output, bundle.pem); err != nil {
		return err
	}
	for _, root := range bundle.roots {
		fmt.Fprintf(cmd.OutOrStdout(), "Caddy's own: %s, until %s\n", root.Subject.CommonName, root.NotAfter.Format("2006-01-02"))
	}
	fmt.Fprintf(cmd.OutOrStdout(), "the system's: %d authorities from %s\n", len(bundle.system.Certificates), bundle.system.From)
	return nil
}

// trustedFile is the content of a trust bundle.
type trustedFile struct {
	pem    []byte
	roots  []*x509.Certificate // of Caddy's own authorities
	system trust.Authorities
}

// makeBundle returns a bundle for a configuration, which will be written to output.
func makeBundle(config []byte, output string) (trustedFile, error) {
	roots, err := ownRoots(config)
	if errors.Is(err, fs.ErrPermission) {
		return trustedFile{}, fmt.Errorf("loading Caddy's own authority: %w; run the command as the user of the sidecar", err)
	}
	if err != nil {
		return trustedFile{}, fmt.Errorf("loading Caddy's own authority: %w", err)
	}
	system, err := trust.System(output)
	if err != nil {
		return trustedFile{}, fmt.Errorf("the authorities of the system: %w", err)
	}
	return trustedFile{trust.Bundle(slices.Concat(roots, system.Certificates)...), roots, system}, nil
}

// ownRoots returns the roots of Caddy's own authorities that the configuration uses. It loads the app pki, which creates what
// its storage lacks, as it does when the sidecar starts. It starts no app.
func ownRoots(config []byte) ([]*x509.Certificate, error) {
	var c struct {
		Storage json.RawMessage `json:"storage"`
		Apps    struct {
			PKI json.RawMessage `json:"pki"`
		} `json:"apps"`
	}
	if len(config) > 0 {
		if err := json.Unmarshal(config, &c); err != nil {
			return nil, err
		}
	}
	if c.Apps.PKI == nil {
		c.Apps.PKI = json.RawMessage(`{}`)
	}
	var ctx caddy.Context
	var err error
	quietly(func() {
		ctx, err = caddy.ProvisionContext(&caddy.Config{
			Logging:    discardLogs(),
			StorageRaw: c.Storage,
			AppsRaw:    caddy.ModuleMap{"pki": c.Apps.PKI},
		})
	})
	if err != nil {
		return nil, err
	}
	app, err := ctx.App("pki")
	if err != nil {
		return nil, err
	}
	var roots []*x509.Certificate
	for _, id := range ownAuthorities(config) {
		authority, err := app.(*caddypki.PKI).GetCA(ctx, id)
		if err != nil {
			return nil, err
		}
		roots = append(roots, authority.RootCertificate())
	}
	return roots, nil
}

// ownAuthorities returns the ids of the authorities that issue certificates for the configuration. This is Caddy's default
// authority, unless the configuration names others alone.
func ownAuthorities(config []byte) []string {
	var ids []string
	for _, issuer := range internalIssuers(config) {
		ids = append(ids, cmp.Or(issuer.CA, caddypki.DefaultCAID))
	}
	if len(ids) == 0 {
		return []string{caddypki.DefaultCAID}
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// internalIssuer is an issuer `internal` in the configuration. `tls internal` adds one.
type internalIssuer struct {
	Module string `json:"module"`
	CA     string `json:"ca"`
}

func internalIssuers(config []byte) (found []internalIssuer) {
	var c struct {
		Apps struct {
			TLS struct {
				Automation struct {
					Policies []struct {
						Issuers []internalIssuer `json:"issuers"`
					} `json:"policies"`
				} `json:"automation"`
			} `json:"tls"`
		} `json:"apps"`
	}
	if json.Unmarshal(config, &c) != nil {
		return nil // other issuers may use these names for something else; Caddy reports what is wrong
	}
	for _, policy := range c.Apps.TLS.Automation.Policies {
		for _, issuer := range policy.Issuers {
			if issuer.Module == "internal" {
				found = append(found, issuer)
			}
		}
	}
	return found
}
