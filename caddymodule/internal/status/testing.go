package status

import (
	"strings"
	"time"

	"go.uber.org/zap"
)

// What follows is for the tests of other packages.

// ForgetAfter sets how long records are kept once no configuration names their credential.
func ForgetAfter(d time.Duration) (restore func()) {
	records.mu.Lock()
	defer records.mu.Unlock()
	before := records.after
	records.after = d
	return func() { ForgetAfter(before) }
}

// Known returns the names, with that prefix, of which something is kept.
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

// LogTo makes the credential log there.
func (c *Credential) LogTo(logger *zap.Logger) { c.logger = logger }

// CountServed returns how many requests have been served so.
func (c *Credential) CountServed(how Served) uint64 { return c.record.served[how].Load() }

// CountDenied returns how many requests have been denied for that.
func (c *Credential) CountDenied(why Denied) uint64 { return c.record.denied[why].Load() }
