package caddymodule

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/status"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/tenants"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

const (
	// defaultTenantPage is the number of tenants in an answer without the parameter limit.
	defaultTenantPage = 100

	// mostTenantPage is the largest value of that parameter.
	mostTenantPage = 1000
)

// tenantPage is one page of the list of tenants.
type tenantPage struct {
	Now     time.Time             `json:"now"`
	Tenants []status.TenantReport `json:"tenants"`
	Next    string                `json:"next,omitempty"` // the parameter after of the next page; missing on the last page
}

// serveTenants serves the path below credentials/<name>/tenants.
func serveTenants(w http.ResponseWriter, r *http.Request, c *client, path string) error {
	if c.tenants == nil {
		return adminError(http.StatusNotFound, fmt.Sprintf("credential %q has no tenants", c.name))
	}
	if path == "" {
		return serveTenantList(w, r, c)
	}
	name, action, _ := strings.Cut(path, "/")
	t, err := c.findTenant(name)
	if err != nil {
		return err
	}
	switch action {
	case "":
		return serveTenant(w, r, c, t)
	case "refresh":
		return serveTenantRefresh(w, r, c, t)
	case "purge":
		return serveTenantPurge(w, r, c, t)
	default:
		return adminError(http.StatusNotFound, fmt.Sprintf("unknown action %q; the actions are refresh and purge", action))
	}
}

// tenantNameRule is the rule for names, for errors about a name that is not valid.
const tenantNameRule = "the name of a tenant has 1 to 64 of the characters a-z, 0-9, '-', '_' and '.', begins and ends with a letter or a digit, and has no two dots in a row"

// findTenant returns the tenant that has a place under this name.
func (c *client) findTenant(name string) (*tenants.Tenant, error) {
	if !tenants.ValidName(name) {
		return nil, adminError(http.StatusBadRequest, "the name in the path is not valid; "+tenantNameRule)
	}
	t, ok := c.tenants.Find(name)
	if !ok {
		return nil, adminError(http.StatusNotFound, fmt.Sprintf("credential %q has no tenant %q in this process; a tenant is here from its first request on, unless it has made room for another", c.name, name))
	}
	return t, nil
}

func serveTenantList(w http.ResponseWriter, r *http.Request, c *client) error {
	if err := allow(w, r, http.MethodGet, http.MethodHead); err != nil {
		return err
	}
	after, limit, state, err := tenantPageOf(r)
	if err != nil {
		return err
	}
	page := tenantPage{Now: time.Now(), Tenants: []status.TenantReport{}} // an empty list, not null
	for _, t := range c.tenants.After(after, math.MaxInt) {
		s := t.Source.Status()
		if state != "" && s.State != state {
			continue
		}
		if len(page.Tenants) == limit {
			page.Next = page.Tenants[limit-1].Name
			break
		}
		page.Tenants = append(page.Tenants, c.status.ReportTenant(t.Name, s, page.Now))
	}
	return writeJSON(w, http.StatusOK, page)
}

// tenantPageOf returns the parameters of a list of tenants. An empty state means all states.
func tenantPageOf(r *http.Request) (after string, limit int, state token.State, err error) {
	query := r.URL.Query()
	after, state, limit = query.Get("after"), token.State(query.Get("state")), defaultTenantPage
	if after != "" && !tenants.ValidName(after) {
		return "", 0, "", adminError(http.StatusBadRequest, "the parameter after is not valid; "+tenantNameRule)
	}
	if state != "" && !slices.Contains(status.States, state) {
		return "", 0, "", adminError(http.StatusBadRequest, fmt.Sprintf("the parameter state must be one of %q", status.States))
	}
	if text := query.Get("limit"); text != "" {
		if limit, err = strconv.Atoi(text); err != nil || limit < 1 || limit > mostTenantPage {
			return "", 0, "", adminError(http.StatusBadRequest, fmt.Sprintf("the parameter limit must be between 1 and %d tenants", mostTenantPage))
		}
	}
	return after, limit, state, nil
}

func serveTenant(w http.ResponseWriter, r *http.Request, c *client, t *tenants.Tenant) error {
	if err := allow(w, r, http.MethodGet, http.MethodHead); err != nil {
		return err
	}
	return writeTenant(w, c, t)
}

func serveTenantRefresh(w http.ResponseWriter, r *http.Request, c *client, t *tenants.Tenant) error {
	if err := allow(w, r, http.MethodPost); err != nil {
		return err
	}
	err := t.Failed(t.Current().Source.Refresh(r.Context()))
	if errors.Is(err, tenants.ErrUnknown) {
		return adminError(http.StatusNotFound, fmt.Sprintf("tenant %q of credential %q has no files any more, so the proxy denies its requests", t.Name, c.name))
	}
	if err != nil {
		return refreshFailure(c, err)
	}
	return writeTenant(w, c, t)
}

func serveTenantPurge(w http.ResponseWriter, r *http.Request, c *client, t *tenants.Tenant) error {
	if err := allow(w, r, http.MethodPost); err != nil {
		return err
	}
	fleet, err := fleetOf(r)
	if err != nil {
		return err
	}
	if fleet && !c.isShared() {
		return adminError(http.StatusBadRequest, fmt.Sprintf("credential %q is not shared with other replicas; purge the tenant without fleet", c.name))
	}
	done := t.Purge(r.Context(), fleet)
	answer := steeredTenant{TenantReport: c.status.ReportTenant(t.Name, t.Source.Status(), time.Now())}
	if c.isShared() {
		inStore := purgedOne(done, fleet)
		answer.Purge = &inStore
	}
	return writeJSON(w, http.StatusOK, answer)
}

// steeredTenant is a tenant after an action.
type steeredTenant struct {
	status.TenantReport
	Purge *storePurge `json:"purge,omitempty"` // only after a purge of a shared tenant
}

func writeTenant(w http.ResponseWriter, c *client, t *tenants.Tenant) error {
	return writeJSON(w, http.StatusOK, c.status.ReportTenant(t.Name, t.Source.Status(), time.Now()))
}
