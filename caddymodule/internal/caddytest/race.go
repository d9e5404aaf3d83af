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
	if RaceDetector() {
		t.Skip("SKIPPED: the race detector finds a race of Caddy's own")
	}
}

// SkipRaceOfPools skips a test that measures what sync.Pool saves, if the race detector is on, because a sync.Pool then drops
// some of its content at random. Without the race detector, the test runs.
func SkipRaceOfPools(t testing.TB) {
	t.Helper()
	if RaceDetector() {
		t.Skip("SKIPPED: with the race detector, pools drop some of their content")
	}
}

// RaceDetector reports whether the race detector is on.
func RaceDetector() bool {
	info, _ := debug.ReadBuildInfo()
	return slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}
