package oauth

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

func TestLifetimeUnits(t *testing.T) {
	for _, tc := range []struct {
		unit  Unit
		value string
		want  time.Duration
	}{
		{"", `60`, time.Minute}, {Seconds, `60`, time.Minute}, {Seconds, `"60"`, time.Minute}, {Milliseconds, `60000`, time.Minute},
		{Milliseconds, `"1500"`, 1500 * time.Millisecond}, {Minutes, `60`, time.Hour}, {Minutes, `"30"`, 30 * time.Minute},
		{Minutes, `0.5`, 30 * time.Second}, {Minutes, `0`, 0}, {Minutes, `-5`, 0}, {Minutes, `1e400`, maxSeconds * time.Second},
		{Hours, `24`, 24 * time.Hour}, {Hours, `"1.5"`, 90 * time.Minute}, {Hours, `-1e400`, 0},
	} {
		l := Layout{Token: []string{"access_token"}, ExpiresIn: []string{"lifetime"}, ExpiresInUnit: tc.unit}
		issued, err := jsonAnswer(`{"access_token":"T","lifetime":` + tc.value + `}`).Read(l)
		if err != nil || issued.Lifetime != tc.want {
			t.Errorf("%s in %q: got %s, %v, want %s", tc.value, tc.unit, issued.Lifetime, err, tc.want)
		}
	}
}

// A lifetime that is there and cannot be read is worth a note. A lifetime that is not there, or that another field replaces, is
// not.
func TestLifetimeNote(t *testing.T) {
	const (
		in = "its lifetime cannot be read, because expires_in is not a number of seconds, so the default lifetime applies"
		at = "its lifetime cannot be read, because expires_at is not a time with its zone, as in RFC 3339, so the default lifetime applies"
	)
	for members, want := range map[string]string{
		``:                                                         "",
		`,"expires_in":3600`:                                       "",
		`,"expires_in":"3600"`:                                     "",
		`,"expires_in":null`:                                       "",
		`,"expires_in":""`:                                         "",
		`,"expires_in":"  "`:                                       "",
		`,"expires_in":"3600s"`:                                    in,
		`,"expires_in":"1h"`:                                       in,
		`,"expires_in":"PT1H"`:                                     in,
		`,"expires_in":"60 minutes"`:                               in,
		`,"expires_in":"01:00:00"`:                                 in,
		`,"expires_in":"3.600,5"`:                                  in,
		`,"expires_in":"c4n4ry"`:                                   in,
		`,"expires_in":true`:                                       in,
		`,"expires_in":[3600]`:                                     in,
		`,"expires_in":{"seconds":3600}`:                           in,
		`,"expires_in":"2023-11-14T23:13:20Z"`:                     in,
		`,"expires_at":"2023-11-14T23:13:20Z"`:                     "",
		`,"expires_at":" 2023-11-14T23:13:20+00:00 "`:              "",
		`,"expires_at":"2023-11-14T23:13:20"`:                      at,
		`,"expires_at":"2023-11-14 23:13:20"`:                      at,
		`,"expires_at":"2023-11-14"`:                               at,
		`,"expires_at":"Tue, 14 Nov 2023 23:13:20 GMT"`:            at,
		`,"expires_at":"14/11/2023 23:13:20"`:                      at,
		`,"expires_at":1700003600`:                                 at,
		`,"expires_at":{}`:                                         at,
		`,"expires_at":"2023-11-14T23:13:20","expires_in":60`:      "",
		`,"expires_at":"2023-11-14T23:13:20Z","expires_in":"soon"`: "",
		`,"expires_at":"tomorrow","expires_in":"soon"`:             in,
		`,"expires_at":null,"expires_in":"soon"`:                   in,
		`,"expires_at":"` + strings.Repeat("c4n4ry", 1000) + `"`:   at,
		`,"expires_in":1700003600`:                                 "its lifetime looks like a time of expiry, for which response has the option expires_at",
		`,"expires_in":"1700003600000"`:                            "its lifetime looks like a time of expiry, for which response has the option expires_at",
		`,"expires_in":315360000`:                                  "", // ten years
	} {
		issued, err := jsonAnswer(`{"access_token":"T"` + members + `}`).Read(full)
		if err != nil || issued.Token.Reveal() != "T" || issued.Note != want {
			t.Errorf("%s: got %v, note %q, want %q", members, err, issued.Note, want)
		}
		if unread := strings.Contains(want, "default lifetime"); unread && issued.Lifetime != full.DefaultLifetime {
			t.Errorf("%s: got lifetime %s", members, issued.Lifetime)
		}
	}
	// a readable expiry in the token replaces the default
	issued, err := jsonAnswer(`{"access_token":"` + jwtWith(`{"exp":1700003600}`) + `","expires_in":"soon"}`).Read(full)
	if err != nil || issued.Lifetime != time.Hour || issued.Note != "" {
		t.Errorf("got %s, note %q, %v", issued.Lifetime, issued.Note, err)
	}
	// two notes
	issued, _ = jsonAnswer(`{"access_token":"T","expires_in":"soon","scope":"read"}`).Read(full)
	if want := `with a narrower scope: requested "read write", granted without "write"; ` + in; issued.Note != want {
		t.Errorf("got note %q, want %q", issued.Note, want)
	}
}

// The option expires_at takes precedence over the default of expires_in.
func TestExpiresAtFirst(t *testing.T) {
	l := Layout{Token: []string{"access_token"}, ExpiresIn: []string{"expires_in"}, ExpiresAt: []string{"until"}}
	body := func(in, at string) string { return `{"access_token":"T","expires_in":` + in + `,"until":` + at + `}` }
	epoch := strconv.FormatInt(sentAt.Add(time.Hour).Unix(), 10)
	for _, tc := range []struct {
		first  bool
		in, at string
		want   time.Duration
	}{
		{false, "60", epoch, time.Minute},
		{true, "60", epoch, time.Hour},
		{true, epoch, epoch, time.Hour},
		{true, "60", "null", time.Minute},
		{true, "60", `"soon"`, time.Minute},
		{true, "null", epoch, time.Hour},
		{true, "null", "null", token.UnknownLifetime},
		{false, "null", epoch, time.Hour},
		{false, `"soon"`, epoch, time.Hour},
		{true, "0", epoch, time.Hour},
	} {
		l.ExpiresAtFirst = tc.first
		issued, err := jsonAnswer(body(tc.in, tc.at)).Read(l)
		if err != nil || issued.Lifetime != tc.want {
			t.Errorf("%+v: got %s, %v", tc, issued.Lifetime, err)
		}
	}
}

// The clock of the token endpoint, which Date shows, decides about an absolute expiry. A fresh token that seems over gets a
// note with the difference.
func TestExpiryByTheServersClock(t *testing.T) {
	date := func(d time.Duration) string { return sentAt.Add(d).UTC().Format(http.TimeFormat) }
	const (
		here  = "so check the clocks of this machine and of the token endpoint"
		there = "by the token endpoint's own clock"
	)
	for name, tc := range map[string]struct {
		date   string
		expiry time.Duration // from sentAt
		want   time.Duration
		note   string
	}{
		"no Date":                       {"", time.Hour, time.Hour, ""},
		"equal clocks":                  {date(0), time.Hour, time.Hour, ""},
		"a second late":                 {date(time.Second), time.Hour, time.Hour, ""},
		"an answer after 10 s":          {date(10 * time.Second), time.Hour, time.Hour - 10*time.Second, ""},
		"5 min behind":                  {date(-5 * time.Minute), 55 * time.Minute, time.Hour, ""},
		"5 min ahead":                   {date(5 * time.Minute), 65 * time.Minute, time.Hour, ""},
		"an hour behind, short-lived":   {date(-time.Hour), -50 * time.Minute, 10 * time.Minute, ""},
		"an hour ahead, short-lived":    {date(time.Hour), 70 * time.Minute, 10 * time.Minute, ""},
		"a wrong zone":                  {date(9 * time.Hour), 10 * time.Hour, time.Hour, ""},
		"a Date of 1970":                {"Thu, 01 Jan 1970 00:00:00 GMT", time.Hour, time.Hour, ""},
		"a Date in 2 days":              {date(48 * time.Hour), time.Hour, time.Hour, ""},
		"a Date that is none":           {"soon", time.Hour, time.Hour, ""},
		"a Date in the form of RFC 850": {sentAt.Add(-5 * time.Minute).UTC().Format(time.RFC850), 55 * time.Minute, time.Hour, ""},
		"over, no Date":                 {"", -5 * time.Minute, 0, "it seems to have expired 5m ago, " + here},
		"over, by equal clocks":         {date(0), -2 * time.Hour, 0, "it seems to have expired 2h0m ago, " + here},
		"over by seconds":               {"", -10 * time.Second, 0, "it seems to have expired less than a minute ago, " + here},
		"over now":                      {"", 0, 0, "it seems to have expired less than a minute ago, " + here},
		"over by its own clock":         {date(-5 * time.Minute), -8 * time.Minute, 0, "it seems to have expired 3m ago, " + there},
		"over by a clock ahead":         {date(time.Hour), 30 * time.Minute, 0, "it seems to have expired 30m ago, " + there},
	} {
		t.Run(name, func(t *testing.T) {
			expiry := strconv.FormatInt(sentAt.Add(tc.expiry).Unix(), 10)
			for kind, body := range map[string]string{
				"expires": `{"access_token":"T","expires":` + expiry + `}`,
				"exp":     `{"access_token":"` + jwtWith(`{"exp":`+expiry+`}`) + `"}`,
			} {
				a := jsonAnswer(body)
				if tc.date != "" {
					a.Header.Set("Date", tc.date)
				}
				want := tc.want
				if kind == "exp" && want == 0 {
					want = token.UnknownLifetime // the claim is not meant for the client
				}
				issued, err := a.Read(both)
				if err != nil || issued.Lifetime != want || issued.Note != tc.note {
					t.Errorf("%s: got %s, note %q, %v, want %s, note %q", kind, issued.Lifetime, issued.Note, err, want, tc.note)
				}
			}
			a := jsonAnswer(`{"access_token":"T","expires_in":60,"expires":` + expiry + `}`)
			a.Header.Set("Date", tc.date)
			if issued, _ := a.Read(both); issued.Lifetime != time.Minute || issued.Note != "" {
				t.Errorf("a clock matters although expires_in is there: got %s, note %q", issued.Lifetime, issued.Note)
			}
		})
	}
}
