package caddytest

import (
	"runtime/debug"
	"slices"
	"testing"
)

// SkipRaceOfCertificates skips a test in which Caddy issues certificates itself, if the race detector is on. Caddy's app http can
// begin to issue them before its app tls starts: (*caddytls.TLS).Start writes a field of the struct that the event of a new
// certificate copies (Caddy 2.11.9). Without the race detector, the test runs.
func SkipRaceOfCertificates(t testing.TB) {
	t.Helper()
	info, _ := debug.ReadBuildInfo()
	if slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		t.Skip("SKIPPED: the race detector finds a race of Caddy's own")
	}
}
