package caddymodule

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/status"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/tenants"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// addTenantFlag adds the flag that names one tenant.
func addTenantFlag(cmd *cobra.Command, usage string) {
	cmd.Flags().String("tenant", "", usage+", of credentials with tenants")
}

// tenantFlag returns the tenant that the flag names, or "".
func tenantFlag(cmd *cobra.Command) string {
	name, _ := cmd.Flags().GetString("tenant")
	return name
}

// listTenants prints the named tenants, or all, of the credentials that have tenants.
func listTenants(cmd *cobra.Command, names []string) error {
	credentials, err := credentialsWithTenants(cmd)
	if err != nil {
		return err
	}
	var found []steeredTenant
	if len(names) == 0 {
		found, err = allTenants(cmd, credentials)
	} else {
		found, err = namedTenants(cmd, credentials, names)
	}
	return errors.Join(printTenants(cmd, found), err)
}

// credentialsWithTenants returns the credentials of the running process that have tenants.
func credentialsWithTenants(cmd *cobra.Command) (names []string, _ error) {
	var answer struct {
		Credentials []status.Report `json:"credentials"`
	}
	if err := askAdmin(cmd, http.MethodGet, "credentials", &answer); err != nil {
		return nil, err
	}
	for _, c := range answer.Credentials {
		if c.Tenants != nil {
			names = append(names, c.Name)
		}
	}
	if len(names) == 0 {
		return nil, errNoTenants
	}
	return names, nil
}

// errNoTenants is the error of a command that is about tenants.
var errNoTenants = errors.New("no credential has tenants: remove --tenant")

// allTenants returns all tenants of the credentials, which it gets page by page.
func allTenants(cmd *cobra.Command, credentials []string) ([]steeredTenant, error) {
	found := []steeredTenant{} // an empty list, not null
	for _, credential := range credentials {
		query := url.Values{"limit": {strconv.Itoa(mostTenantPage)}}
		for {
			var page tenantPage
			if err := askAdmin(cmd, http.MethodGet, "credentials/"+url.PathEscape(credential)+"/tenants?"+query.Encode(), &page); err != nil {
				return found, fmt.Errorf("%s: %w", credential, err)
			}
			for _, of := range page.Tenants {
				found = append(found, steeredTenant{TenantReport: of})
			}
			if page.Next == "" {
				break
			}
			query.Set("after", page.Next)
		}
	}
	return found, nil
}

// namedTenants returns the tenants with these names. It fails for a name that no credential has a tenant for.
func namedTenants(cmd *cobra.Command, credentials, names []string) ([]steeredTenant, error) {
	found := []steeredTenant{} // an empty list, not null
	var failures []error
	for _, name := range names {
		one, err := askTenant(cmd, http.MethodGet, credentials, name, "")
		if found = append(found, one...); len(one) == 0 {
			failures = append(failures, err)
		}
	}
	return found, errors.Join(failures...)
}

// steerTenant requests an action for the tenant of each credential. If it fails for one credential, it continues with the
// next.
func steerTenant(cmd *cobra.Command, credentials []string, tenant, action string) error {
	answers, failures := askTenant(cmd, http.MethodPost, credentials, tenant, "/"+action)
	var inStore []storePurge
	for _, a := range answers {
		if a.Purge != nil {
			inStore = append(inStore, *a.Purge)
		}
	}
	return errors.Join(printTenants(cmd, answers), failures, notPurged(inStore))
}

// askTenant sends a request about the tenant of each credential to the admin API.
func askTenant(cmd *cobra.Command, method string, credentials []string, tenant, action string) ([]steeredTenant, error) {
	answers := []steeredTenant{} // an empty list, not null
	if !tenants.ValidName(tenant) {
		return answers, fmt.Errorf("tenant %q: %s", tenant, tenantNameRule)
	}
	var failures []error
	for _, credential := range credentials {
		var one steeredTenant
		path := "credentials/" + url.PathEscape(credential) + "/tenants/" + url.PathEscape(tenant) + action
		if err := askAdmin(cmd, method, path, &one); err != nil {
			failures = append(failures, fmt.Errorf("%s, tenant %s: %w", credential, tenant, err))
			continue
		}
		answers = append(answers, one)
	}
	return answers, errors.Join(failures...)
}

// printTenants prints a table, or JSON.
func printTenants(cmd *cobra.Command, reports []steeredTenant) error {
	out := cmd.OutOrStdout()
	if asJSON(cmd) {
		return printJSON(out, reports)
	}
	if len(reports) == 0 {
		return nil
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "CREDENTIAL\tTENANT\tHEALTH\tCAUSE\tTOKEN\tEXPIRES\tFINGERPRINT\tSUMMARY")
	for _, r := range reports {
		fmt.Fprintln(table, strings.Join([]string{r.Credential, r.Name, string(r.Health), cmp.Or(string(r.Cause), "-"), string(r.State),
			expiry(r.State, r.Expires), cmp.Or(r.Fingerprint, "-"), printable(strings.TrimSpace(r.Summary + " " + r.Advice))}, "\t"))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, r := range reports {
		if r.Purge != nil {
			fmt.Fprintf(out, "%s, tenant %s: %s\n", r.Credential, r.Name, printable(r.Purge.Text))
		}
	}
	return nil
}

// expiry returns when a token expires in words, or "-".
func expiry(state token.State, expires *time.Time) string {
	if expires == nil || state == token.StateExpired {
		return "-"
	}
	return status.In(*expires, time.Now())
}
