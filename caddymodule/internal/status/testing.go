package status

import (
	"strings"
	"time"

	"go.uber.org/zap"
)

// The functions in this file are for the tests of other packages.

// ForgetAfter sets how long records are kept after the last configuration that names their credential. The function that it
// returns restores the old value.
func ForgetAfter(d time.Duration) (restore func()) {
	records.mu.Lock()
	defer records.mu.Unlock()
	before := records.after
	records.after = d
	return func() { ForgetAfter(before) }
}

// Known returns the names with this prefix that have a record.
func Known(prefix string) (names []string) {
	records.mu.Lock()
	defer records.mu.Unlock()
	for name := range records.byName {
		if strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
	}
	return names
}

// LogTo sets the logger of the credential.
func (c *Credential) LogTo(logger *zap.Logger) { c.logger = logger }

// CountServed returns how many requests came by a token in this way.
func (c *Credential) CountServed(how Served) uint64 { return c.record.served[how].Load() }

// CountDenied returns how many requests the proxy has denied for this reason.
func (c *Credential) CountDenied(why Denied) uint64 { return c.record.denied[why].Load() }

// CountTenantsEvicted returns how many tenants have made room for others.
func (c *Credential) CountTenantsEvicted() uint64 { return c.record.tenants.evicted.Load() }

// CountTenantsDenied returns how many requests had a tenant that was denied for this reason.
func (c *Credential) CountTenantsDenied(why TenantDenied) uint64 {
	return c.record.tenants.denied[why].Load()
}
