package oauth

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// lifetime returns the lifetime of the token and a note on what is odd about it, or "". It prefers the relative lifetime,
// because an absolute expiry depends on two clocks. The claims of the token come last, because they are not meant for the
// client.
func (a *Answer) lifetime(f fields, l Layout, value string) (time.Duration, string) {
	in := func() (time.Duration, string, bool) {
		n, ok := f.number(l.ExpiresIn...)
		seconds := l.ExpiresInUnit.seconds(n)
		if seconds >= earliestEpoch {
			return fromSeconds(seconds), "its lifetime looks like a time of expiry, for which response has the option expires_at", ok
		}
		return fromSeconds(seconds), "", ok
	}
	at := func() (time.Duration, string, bool) {
		expiry, ok := f.time(l.ExpiresAtUnit, l.ExpiresAt...)
		left := a.until(expiry)
		if ok && left <= 0 {
			return 0, a.over(left), true
		}
		return fromSeconds(left), "", ok
	}
	first, second := in, at
	if l.ExpiresAtFirst {
		first, second = at, in
	}
	if lifetime, note, ok := first(); ok {
		return lifetime, note
	}
	if lifetime, note, ok := second(); ok {
		return lifetime, note
	}
	note := unreadableLifetime(f, l)
	if expiry, ok := jwtExpiry(value); ok {
		left := a.until(expiry)
		if left > 0 {
			return fromSeconds(left), ""
		}
		note = a.over(left)
	}
	if l.DefaultLifetime > 0 {
		return l.DefaultLifetime, note
	}
	return token.UnknownLifetime, note
}

// earliestEpoch is a lifetime in seconds that is probably a time since the Unix epoch, in the year 2001 or later.
const earliestEpoch = 1_000_000_000

// unreadableLifetime returns a note if the answer has a lifetime that is in another format than the layout expects, or else
// "". The note quotes only the configuration, because the answer is untrusted.
func unreadableLifetime(f fields, l Layout) string {
	path, format := f.present(l.ExpiresIn), "a number of "+l.ExpiresInUnit.name()
	if path == "" {
		path, format = f.present(l.ExpiresAt), "a number of "+l.ExpiresAtUnit.name()+" since 1970"
		if l.ExpiresAtUnit == RFC3339 {
			format = "a time with its zone, as in RFC 3339"
		}
	}
	if path == "" {
		return ""
	}
	return fmt.Sprintf("its lifetime cannot be read, because %s is not %s, so the default lifetime applies", path, format)
}

const (
	// clockTolerance is a difference of two clocks that does not matter. Date has whole seconds.
	clockTolerance = 2 * time.Second

	// maxClockDifference is a difference above which Date is probably no time at all.
	maxClockDifference = 24 * time.Hour
)

// now returns the time of the token request by the clock of the token endpoint, and whether that clock differs. The header
// field Date shows that clock. It is slightly late, so that lifetimes err on the short side.
func (a *Answer) now() (time.Time, bool) {
	date, err := http.ParseTime(a.Header.Get("Date"))
	difference := date.Sub(a.Sent).Abs()
	if err != nil || difference < clockTolerance || difference > maxClockDifference {
		return a.Sent, false
	}
	return date, true
}

// until returns the seconds from the token request to epoch, in seconds since the Unix epoch, by the clock of the token
// endpoint.
func (a *Answer) until(epoch float64) float64 {
	now, _ := a.now()
	return epoch - float64(now.UnixMilli())/1000
}

// over returns the note for a token that seems to have expired before it was issued. The difference is in minutes, so that
// the note stays the same from one token to the next.
func (a *Answer) over(left float64) string {
	ago := fromSeconds(-left).Round(time.Minute)
	difference := strings.TrimSuffix(ago.String(), "0s")
	if ago == 0 {
		difference = "less than a minute"
	}
	if _, differs := a.now(); differs {
		return "it seems to have expired " + difference + " ago, by the token endpoint's own clock"
	}
	return "it seems to have expired " + difference + " ago, so check the clocks of this machine and of the token endpoint"
}

// jwtExpiry returns the claim exp of a token that happens to be a JWT (RFC 7519 section 4.1.4). Only the API can verify the
// claim. An unverified expiry suffices to decide how long to use the token.
func jwtExpiry(value string) (float64, bool) {
	parts := strings.Split(value, ".")
	if len(parts) != 3 {
		return 0, false
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(parts[1], "="))
	if err != nil {
		return 0, false
	}
	claims, ok := parseJSON(payload)
	if !ok {
		return 0, false
	}
	return claims.number("exp")
}
