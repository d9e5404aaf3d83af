package caddymodule

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/caddyserver/certmagic"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/launch"
)

// sidecarCommandName is the command that exec starts. It is Caddy's run, with a line to exec.
const sidecarCommandName = "exec-sidecar"

// readyInterval is the pause between two looks at the tokens, or at the certificates. A look at the tokens also fetches a
// missing one, at the pace of its source.
const readyInterval = 20 * time.Millisecond

func sidecarCommand() caddycmd.Command {
	return caddycmd.Command{
		Name:  sidecarCommandName,
		Usage: "--config <path> --adapter <name> <address>",
		Short: "Runs the sidecar for exec",
		CobraFunc: func(cmd *cobra.Command) {
			cmd.Hidden = true
			cmd.Args = cobra.ExactArgs(1)
			cmd.Flags().String("config", "", "Configuration file")
			cmd.Flags().String("adapter", "", "Name of the config adapter")
			cmd.RunE = runSidecar
		},
	}
}

func runSidecar(cmd *cobra.Command, args []string) error {
	parent, err := launch.Attach(os.Stdin, args[0])
	if err != nil {
		return err
	}
	if err := launch.Conceal(); err != nil {
		return err
	}
	go announceReadiness(parent)
	go endWith(parent)

	file, _ := cmd.Flags().GetString("config")
	adapter, _ := cmd.Flags().GetString("adapter")
	caddyconfig.RegisterAdapter(sidecarCommandName, sealedAdapter{adapter})
	run := &cobra.Command{Use: "run", SilenceErrors: true, SilenceUsage: true}
	caddycmd.Commands()["run"].CobraFunc(run)
	run.SetArgs([]string{"--config", file, "--adapter", sidecarCommandName})
	cmd.SilenceErrors = true // run logs its error
	return run.Execute()
}

// certificateWait is how long the certificates of Caddy's own authority may take after the tokens. Then the application
// starts without them, because some configurations never get them, such as one with a name that no policy manages.
const certificateWait = 10 * time.Second

// announceReadiness tells the parent once each credential has a token, and the sites have their certificates. From then on, the
// parent alone ends the sidecar. A service manager such as systemd sends its signal to all processes at once, and an
// application that is ending may still need the API.
func announceReadiness(parent *launch.Parent) {
	for !allReady() {
		time.Sleep(readyInterval)
	}
	for begin := time.Now(); !allCertified(caddy.ActiveContext()) && time.Since(begin) < certificateWait; {
		time.Sleep(readyInterval)
	}
	signal.Ignore(os.Interrupt, syscall.SIGTERM, syscall.SIGQUIT) // which Caddy has trapped before it loaded the configuration
	if err := parent.Ready(); err != nil {
		caddy.Log().Error("exec: reporting readiness", zap.Error(err)) // exec waits no longer than --wait
	}
}

// allReady reports whether the configuration is in force, and each of its credentials has a token.
func allReady() bool {
	if caddy.ActiveContext().Context == nil {
		return false // the configuration is being loaded
	}
	app := runningApp()
	if app == nil {
		return true // the configuration has no credentials
	}
	ready := true
	for name := range app.Credentials { // all of them, because a look fetches a missing token
		c, ok := app.clients[name]
		if !ok {
			return false // a reload is under way
		}
		one, _ := c.ready()
		ready = ready && one
	}
	return ready
}

// endWith ends this process in an orderly way when the parent closes the line or has ended.
func endWith(parent *launch.Parent) {
	parent.Wait()
	logWhatIsMissing()
	status := caddy.ExitCodeSuccess
	if err := caddy.Stop(); err != nil {
		caddy.Log().Error("exec: stopping the sidecar", zap.Error(err))
		status = caddy.ExitCodeFailedQuit
	}
	certmagic.CleanUpOwnLocks(context.Background(), caddy.Log())
	os.Exit(status)
}

// logWhatIsMissing logs why credentials have no token.
func logWhatIsMissing() {
	app := runningApp()
	if app == nil {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(app.clients)) {
		if one := readinessOf(app.clients[name].ready()); !one.Ready {
			caddy.Log().Error(fmt.Sprintf("exec: the credential %s has no token", name), zap.String("reason", one.Reason))
		}
	}
}
