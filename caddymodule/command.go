package caddymodule

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/status"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "tokens",
		Usage: "check|list|refresh|purge",
		Short: "Checks credentials, and manages the tokens of a running process",
		Long: `
Checks the credentials of a configuration against their token endpoints, and
lists, refreshes and purges the tokens of a running process.

No command shows a token, except 'check --print-header' on a terminal.`,
		CobraFunc: func(cmd *cobra.Command) {
			cmd.AddCommand(checkCommand(), listCommand(), refreshCommand(), purgeCommand())
			cmd.RunE = func(cmd *cobra.Command, args []string) error {
				if len(args) > 0 {
					return fmt.Errorf("unknown command %q: the commands are check, list, refresh and purge", args[0])
				}
				return cmd.Help()
			}
		},
	})
}

// addAdminFlags adds the flags that find the admin API of the running process.
func addAdminFlags(cmd *cobra.Command) {
	cmd.Flags().String("address", "", "Address of the admin API (default "+caddy.DefaultAdminListen+")")
	addConfigFlags(cmd)
}

func addConfigFlags(cmd *cobra.Command) {
	cmd.Flags().StringP("config", "c", "", "Configuration file")
	cmd.Flags().StringP("adapter", "a", "", "Name of the config adapter")
	cmd.Flags().Bool("json", false, "Print JSON")
}

func listCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list [--ready [<credentials...>] | --tenant [<tenants...>]] [--address <address>] [--config <path> [--adapter <name>]] [--json]",
		Short: "Lists the credentials or tenants of a running process and the state of their tokens",
		Long: `
Lists the credentials of a running process and the state of their tokens. The
exit status is 0 if the process answers.

With --ready, the exit status is 0 only if each of the named credentials, or of
all, has a valid token, and 1 if not. Like a readiness probe, --ready fetches a
missing token in the background, so the command succeeds a moment later. It does
not wait. Use it in health checks and scripts.

With --tenant, it lists the named tenants, or all, instead of the credentials.`,
		Args: namesOnlyWith("ready", "tenant"),
		RunE: func(cmd *cobra.Command, names []string) error {
			if isSet(cmd, "tenant") {
				return listTenants(cmd, names)
			}
			path := "credentials"
			ready := isSet(cmd, "ready")
			if ready {
				path += "?" + url.Values{"probe": {"true"}, "credential": names}.Encode()
			}
			var answer struct {
				Credentials []status.Report `json:"credentials"`
			}
			if err := askAdmin(cmd, http.MethodGet, path, &answer); err != nil {
				return err
			}
			if err := printReports(cmd, answer.Credentials); err != nil || !ready {
				return err
			}
			return notReady(answer.Credentials)
		},
	}
	cmd.Flags().Bool("ready", false, "Exit with 0 only if each of the credentials has a valid token")
	cmd.Flags().Bool("tenant", false, "List the named tenants, or all, instead of the credentials")
	cmd.MarkFlagsMutuallyExclusive("ready", "tenant")
	addAdminFlags(cmd)
	return cmd
}

// namesOnlyWith returns a check that refuses names unless one of these flags says what they name.
func namesOnlyWith(flags ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, names []string) error {
		if len(names) == 0 || slices.ContainsFunc(flags, func(flag string) bool { return isSet(cmd, flag) }) {
			return nil
		}
		return fmt.Errorf("%s takes names only with --%s", cmd.Name(), strings.Join(flags, " or --"))
	}
}

// isSet reports whether a flag without a value is set.
func isSet(cmd *cobra.Command, flag string) bool {
	yes, _ := cmd.Flags().GetBool(flag)
	return yes
}

// notReady returns an error that names the credentials without a valid token, or nil.
func notReady(reports []status.Report) error {
	var names []string
	for _, r := range reports {
		if !r.Ready {
			names = append(names, r.Name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	return fmt.Errorf("%d of %d credentials have no valid token: %s", len(names), len(reports), strings.Join(names, ", "))
}

func refreshCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "refresh <credentials...> [--tenant <tenant>] [--address <address>] [--config <path> [--adapter <name>]] [--json]",
		Short: "Fetches tokens in a running process now",
		RunE: func(cmd *cobra.Command, names []string) error {
			if len(names) == 0 {
				return errors.New("name the credentials to refresh")
			}
			return steer(cmd, names, "refresh")
		},
	}
	addTenantFlag(cmd, "Fetch the token of this tenant")
	addAdminFlags(cmd)
	return cmd
}

func purgeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "purge <credentials...>|--all [--tenant <tenant>] [--fleet] [--address <address>] [--config <path> [--adapter <name>]] [--json]",
		Short: "Forgets tokens in a running process, so that the next request fetches a new one",
		Long: `
Forgets tokens in a running process, so that the next request fetches a new
one. If replicas share the tokens, the command also deletes them from the store.

The other replicas keep their tokens. --fleet tells them to forget these, too.
Each replica does so when it looks into the store next, which is when its token
is due for a refresh or the API rejects it.`,
		RunE: func(cmd *cobra.Command, names []string) error {
			all, _ := cmd.Flags().GetBool("all")
			if all == (len(names) > 0) {
				return errors.New("name the credentials to purge or set --all, but not both")
			}
			if !all {
				return steer(cmd, names, purgeAction(cmd))
			}
			var answer purgedAll
			if err := askAdmin(cmd, http.MethodPost, purgeAction(cmd), &answer); err != nil {
				return err
			}
			if asJSON(cmd) {
				if err := printJSON(cmd.OutOrStdout(), answer); err != nil {
					return err
				}
				return notPurged(slices.Collect(maps.Values(answer.Shared)))
			}
			fmt.Fprintf(cmd.OutOrStdout(), "purged the tokens of %d credentials\n", answer.Purged)
			for _, name := range slices.Sorted(maps.Keys(answer.Shared)) {
				fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", name, printable(answer.Shared[name].Text))
			}
			return notPurged(slices.Collect(maps.Values(answer.Shared)))
		},
	}
	cmd.Flags().Bool("all", false, "Purge all credentials")
	addTenantFlag(cmd, "Purge the token of this tenant")
	cmd.MarkFlagsMutuallyExclusive("all", "tenant")
	cmd.Flags().Bool("fleet", false, "Tell the other replicas to forget their tokens, too")
	addAdminFlags(cmd)
	return cmd
}

// purgeAction returns the action of the admin API.
func purgeAction(cmd *cobra.Command) string {
	if fleet, _ := cmd.Flags().GetBool("fleet"); fleet {
		return "purge?fleet=true"
	}
	return "purge"
}

// steer requests an action for each credential. If it fails for one credential, it continues with the next.
func steer(cmd *cobra.Command, names []string, action string) error {
	if tenant := tenantFlag(cmd); tenant != "" {
		return steerTenant(cmd, names, tenant, action)
	}
	answers := []steered{} // an empty list, not null
	var failures []error
	for _, name := range names {
		var a steered
		if err := askAdmin(cmd, http.MethodPost, "credentials/"+url.PathEscape(name)+"/"+action, &a); err != nil {
			failures = append(failures, fmt.Errorf("%s: %w", name, err))
			continue
		}
		answers = append(answers, a)
	}
	if err := printAnswers(cmd, answers); err != nil {
		return err
	}
	var inStore []storePurge
	for _, a := range answers {
		if a.Purge != nil {
			inStore = append(inStore, *a.Purge)
		}
	}
	return errors.Join(append(failures, notPurged(inStore))...)
}

// printAnswers prints a table and what a purge did in the store, or JSON.
func printAnswers(cmd *cobra.Command, answers []steered) error {
	if asJSON(cmd) {
		return printJSON(cmd.OutOrStdout(), answers)
	}
	var reports []status.Report
	for _, a := range answers {
		reports = append(reports, a.Report)
	}
	if err := printReports(cmd, reports); err != nil {
		return err
	}
	for _, a := range answers {
		if a.Purge != nil {
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", a.Name, printable(a.Purge.Text))
		}
	}
	return nil
}

// askAdmin sends a request to the admin API of the running process, and decodes its answer into a value.
func askAdmin(cmd *cobra.Command, method, path string, into any) error {
	address, _ := cmd.Flags().GetString("address")
	config, _ := cmd.Flags().GetString("config")
	adapter, _ := cmd.Flags().GetString("adapter")
	var err error
	quietly(func() { address, err = caddycmd.DetermineAdminAPIAddress(address, nil, config, adapter) })
	if err != nil {
		return err
	}
	res, err := caddycmd.AdminAPIRequest(address, method, adminPath+path, nil, nil)
	if err != nil {
		return adminFailure(address, err)
	}
	defer res.Body.Close()
	return json.NewDecoder(res.Body).Decode(into)
}

// quietly runs f, and drops what Caddy logs in the meantime, such as that it has read the configuration. A command prints only
// what it was asked for. Errors are returned, not logged.
func quietly(f func()) {
	_, original, dropped := caddy.BufferedLog()
	defer func() {
		dropped.FlushTo(zap.NewNop())
		caddy.UnbufferDefaultLogger(original)
	}()
	f()
}

// adminFailure returns the error of the admin API, or what to check if it did not answer. Caddy's own error ends with the
// body of the answer.
func adminFailure(address string, err error) error {
	text := err.Error()
	if begin := strings.Index(text, "{"); begin >= 0 {
		var answer struct {
			Error string `json:"error"`
		}
		if json.Unmarshal([]byte(text[begin:]), &answer) == nil && answer.Error != "" {
			return errors.New(printable(answer.Error))
		}
	}
	return fmt.Errorf("the admin API at %s does not answer: check that the process is running, that its admin API has this address, and that neither `admin off` nor `token-proxy exec` has turned it off (%s)", address, printable(text))
}

// printReports prints a table, or JSON.
func printReports(cmd *cobra.Command, reports []status.Report) error {
	out := cmd.OutOrStdout()
	if asJSON(cmd) {
		return printJSON(out, reports)
	}
	if len(reports) == 0 {
		return nil
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	shared := slices.ContainsFunc(reports, func(r status.Report) bool { return r.Share != nil })
	columns := []string{"CREDENTIAL", "HEALTH", "CAUSE", "TOKEN", "EXPIRES", "FINGERPRINT"}
	if shared {
		columns = append(columns, "SHARE")
	}
	fmt.Fprintln(table, strings.Join(append(columns, "SUMMARY"), "\t"))
	for _, r := range reports {
		fields := []string{r.Name, string(r.Health), cmp.Or(string(r.Cause), "-"), string(r.State), expiry(r.State, r.Expires), cmp.Or(r.Fingerprint, "-")}
		if shared {
			fields = append(fields, shareWord(r.Share))
		}
		fmt.Fprintln(table, strings.Join(append(fields, printable(strings.TrimSpace(r.Summary+" "+r.Advice))), "\t"))
	}
	return table.Flush()
}

// shareWord returns where the token comes from, or why it is not shared.
func shareWord(s *status.Shared) string {
	switch {
	case s == nil || !s.On:
		return "off"
	case !s.Up && s.LastError != "":
		return "store down"
	default:
		return cmp.Or(s.From, "-")
	}
}

// asJSON reports whether the command has --json.
func asJSON(cmd *cobra.Command) bool {
	yes, _ := cmd.Flags().GetBool("json")
	return yes
}
