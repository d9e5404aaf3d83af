package caddymodule

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/launch"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/trust"
)

const (
	// defaultExecWait is how long exec waits for the first tokens.
	defaultExecWait = 30 * time.Second

	// execGrace is how long the sidecar and the application may take to end, which is as long as containers and services get.
	execGrace = 10 * time.Second
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "exec",
		Usage: "[--config <path> [--adapter <name>]] [--wait <duration>] -- <command...>",
		Short: "Runs the sidecar and an application that uses it",
		Long: `
Runs the sidecar, waits until each credential has its first token, and runs the
application. The exit status is that of the application, or 128 and the number
of the signal that ended it. The sidecar ends after the application. If the
sidecar ends first, the command ends the application.

The application gets the signals that the command gets, and its environment
with these changes:

If a listener has the wrapper https_proxy, HTTPS_PROXY and HTTP_PROXY lead to
it, in upper and lower case. NO_PROXY keeps its entries, except those for hosts
of the sidecar, and gets those of this machine. The command fails if the
Caddyfile has the wrapper, and Caddy gives it to no listener.

If the configuration uses Caddy's own certificate authority, SSL_CERT_FILE,
REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE, NODE_EXTRA_CA_CERTS and GIT_SSL_CAINFO name
a file with this authority and those of the system.

The variables that the configuration names as {env.NAME} or {$NAME} are taken
out, and so are those that have the path of a secret's file.

Caddy's admin API is off, unless the configuration puts it on a unix socket
that not every user may write to.

The exit status is 125 if the command itself fails, 126 if the application
cannot be executed, and 127 if it is not found.`,
		CobraFunc: func(cmd *cobra.Command) {
			cmd.Flags().StringP("config", "c", "", "Configuration file")
			cmd.Flags().StringP("adapter", "a", "", "Name of the config adapter")
			cmd.Flags().Duration("wait", defaultExecWait, "How long the first tokens may take")
			cmd.Flags().SetInterspersed(false) // the options of the application are its own
			cmd.RunE = func(cmd *cobra.Command, command []string) error {
				status, err := execute(cmd, command)
				if err != nil {
					fmt.Fprintln(cmd.ErrOrStderr(), "token-proxy exec:", err)
				}
				os.Exit(status) // Caddy's main has no way to end with the status of another program
				return nil
			}
		},
	})
	caddycmd.RegisterCommand(sidecarCommand())
}

// execute returns the status to exit with.
func execute(cmd *cobra.Command, command []string) (int, error) {
	if len(command) == 0 {
		return launch.StatusFailed, errors.New("name the application: token-proxy exec --config <path> -- <command...>")
	}
	file, _ := cmd.Flags().GetString("config")
	adapter, _ := cmd.Flags().GetString("adapter")
	wait, _ := cmd.Flags().GetDuration("wait")
	if file == "-" {
		return launch.StatusFailed, errors.New("the configuration cannot come from the standard input, because that belongs to the application")
	}
	config, err := loadExecConfig(file, adapter)
	if err != nil {
		return launch.StatusFailed, err
	}
	settings := config.settings
	if config.usesOwnAuthority {
		folder, err := bundleFolder(config.raw)
		if err != nil {
			return launch.StatusFailed, err
		}
		defer os.RemoveAll(folder)
		settings.Bundle = filepath.Join(folder, bundleName)
	}
	self, err := os.Executable()
	if err != nil {
		return launch.StatusFailed, err
	}
	environment, removed := settings.Environment(os.Environ())
	if len(removed) > 0 {
		fmt.Fprintln(cmd.ErrOrStderr(), "token-proxy exec: variables that the application does not get:", strings.Join(removed, " "))
	}
	if err := launch.Conceal(); err != nil {
		return launch.StatusFailed, fmt.Errorf("keeping the environment from the application: %w", err)
	}
	return launch.Program{
		Sidecar:     []string{self, sidecarCommandName, "--config", config.file, "--adapter", config.adapter},
		Application: command,
		Environment: environment,
		Wait:        wait,
		Grace:       execGrace,
	}.Run()
}

// bundleName is the name of the trust bundle in the folder that exec makes for it.
const bundleName = "bundle.pem"

// bundleFolder makes a folder with the trust bundle. All users may read it, because the application may run as another one.
func bundleFolder(config []byte) (folder string, err error) {
	bundle, err := makeBundle(config, "")
	if err != nil {
		return "", err
	}
	folder, err = os.MkdirTemp("", "token-proxy-")
	if err != nil {
		return "", fmt.Errorf("the trust bundle needs a folder: %w; set TMPDIR to one that exec may write to", err)
	}
	if err = os.Chmod(folder, 0o755); err == nil {
		err = trust.WriteFile(filepath.Join(folder, bundleName), bundle.pem)
	}
	if err != nil {
		_ = os.RemoveAll(folder)
		return "", err
	}
	return folder, nil
}
