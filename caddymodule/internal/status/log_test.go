package status

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// observed returns a credential without events, and the buffer that it logs to.
func observed(t *testing.T) (*Credential, *bytes.Buffer) {
	t.Helper()
	logger, log := caddytest.BufferedLogger()
	c := New("observed", nil, logger)
	t.Cleanup(c.Release)
	c.Provider, c.Endpoint = "optoro", "login.example.com:8443"
	return c, log
}

// wantLine checks all fields of a log line except its time.
func wantLine(t *testing.T, entry map[string]any, level, message string, fields map[string]any) {
	t.Helper()
	want := map[string]any{"level": level, "msg": message, "provider": "optoro", "endpoint": "login.example.com:8443"}
	maps.Copy(want, fields)
	got := maps.Clone(entry)
	delete(got, "ts")
	delete(got, "credential")
	if fmt.Sprint(got) != fmt.Sprint(want) || entry["credential"] == nil {
		t.Errorf("logged %v\nwant   %v", got, want)
	}
}

func TestLogLines(t *testing.T) {
	c, log := observed(t)
	value := token.NewSecret("a-token-that-no-log-may-show")
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	refused := &token.Error{Kind: token.Refused, Status: 401, Code: "invalid_client", Reason: "it is wrong", RetryAt: at}
	down := &token.Error{Kind: token.Unavailable, Status: 503, Reason: "it is down", RetryAt: at}

	c.Observe(token.Event{Token: value, Lifetime: time.Hour, Duration: time.Second})
	c.Observe(token.Event{Token: value, Lifetime: time.Hour, Duration: time.Second, Unchanged: true, Note: "it is odd"})
	c.Observe(token.Event{Rejected: true, Token: value})
	c.Observe(token.Event{Err: refused, Duration: 2 * time.Second})
	c.Observe(token.Event{Err: refused, Duration: 2 * time.Second}) // identical, so not logged
	c.Observe(token.Event{Err: down, Duration: 3 * time.Second})
	c.Observe(token.Event{Token: value, Lifetime: time.Hour, Recovered: true})
	c.Observe(token.Event{Token: value, Lifetime: time.Hour})
	c.Observe(token.Event{Rejected: true, Demanded: true, Token: value})
	text := log.String()
	lines := caddytest.LogLines(t, log)
	if len(lines) != 8 {
		t.Fatalf("%d lines:\n%s", len(lines), text)
	}
	obtained := map[string]any{"duration": 1.0, "lifetime": 3600.0, "fingerprint": value.Fingerprint(), "unchanged": false}
	with := func(fields map[string]any, more ...any) map[string]any {
		fields = maps.Clone(fields)
		for i := 0; i+1 < len(more); i += 2 {
			fields[more[i].(string)] = more[i+1]
		}
		return fields
	}
	wantLine(t, lines[0], "info", "token obtained", obtained)
	wantLine(t, lines[1], "warn", "token obtained, but it is odd", with(obtained, "unchanged", true))
	wantLine(t, lines[2], "warn", "token rejected by the API", map[string]any{"fingerprint": value.Fingerprint()})
	wantLine(t, lines[3], "error", "no token", map[string]any{"duration": 2.0, "kind": "refused", "error_code": "invalid_client",
		"cause": "", "error": "it is wrong (status 401) (error code invalid_client)",
		"advice": "Compare client_id and client_secret with the service's console. The proxy reads a changed file within moments. Any other change needs a reload.", "next_try": float64(at.Unix())})
	wantLine(t, lines[4], "warn", "no token", map[string]any{"duration": 3.0, "kind": "unavailable", "error_code": "",
		"cause": "", "error": "it is down (status 503)", "advice": "The proxy calls again by itself. Check the service's status page.", "next_try": float64(at.Unix()), "repeated": 1.0})
	wantLine(t, lines[5], "info", "token obtained", with(obtained, "duration", 0.0, "recovered", true, "failures", 3.0))
	wantLine(t, lines[6], "info", "token obtained", with(obtained, "duration", 0.0))
	wantLine(t, lines[7], "warn", "token rejected by the API", map[string]any{"fingerprint": value.Fingerprint(), "error_code": "insufficient_claims"})
	if strings.Contains(text, value.Reveal()) {
		t.Error("the token is in the log")
	}
}

// A note that every token has is logged once.
func TestNoteIsLoggedOnce(t *testing.T) {
	c, log := observed(t)
	value := token.NewSecret("a-token-that-nobody-may-see")
	for _, note := range []string{"it is odd", "it is odd", "it is odd", "it is odd in another way", "it is odd", "", "it is odd"} {
		c.Observe(token.Event{Token: value, Lifetime: time.Hour, Note: note})
	}
	var messages []string
	for _, line := range caddytest.LogLines(t, log) {
		messages = append(messages, line["level"].(string)+" "+line["msg"].(string))
	}
	want := []string{
		"warn token obtained, but it is odd", "info token obtained", "info token obtained", "warn token obtained, but it is odd in another way",
		"warn token obtained, but it is odd", "info token obtained", "warn token obtained, but it is odd",
	}
	if !slices.Equal(messages, want) {
		t.Errorf("got %q, want %q", messages, want)
	}
	history, _ := c.record.snapshot()
	if last := history.recent[len(history.recent)-1]; last.Outcome != Obtained || last.Reason != "it is odd" {
		t.Errorf("the history shows %+v", last)
	}
}

func TestFailureLog(t *testing.T) {
	now := time.Now()
	at := func(code string, retryAt time.Time) *token.Error {
		return &token.Error{Kind: token.Refused, Code: code, RetryAt: retryAt}
	}
	var l failureLog
	steps := []struct {
		err      *token.Error
		after    time.Duration
		admitted bool
		silenced uint64
	}{
		{at("a", time.Time{}), 0, false, 0}, // a quick attempt, which is not the last
		{at("a", time.Time{}), 0, false, 0},
		{at("a", now), 0, true, 2},
		{at("a", now.Add(time.Hour)), summaryInterval - 1, false, 0}, // only its times differ
		{at("a", now), 1, true, 1},
		{at("b", now), 0, true, 0},
		{at("a", now), 0, true, 0},
		{at("a", now), 0, false, 0},
	}
	for i, step := range steps {
		now = now.Add(step.after)
		if silenced, admitted := l.admit(step.err, now); admitted != step.admitted || silenced != step.silenced {
			t.Errorf("step %d: admitted %t, silenced %d; want %t, %d", i, admitted, silenced, step.admitted, step.silenced)
		}
	}
	if n := l.recover(); n != uint64(len(steps)) {
		t.Errorf("%d failures, want %d", n, len(steps))
	}
	if n := l.recover(); n != 0 {
		t.Errorf("%d failures after a recovery", n)
	}
	if _, admitted := l.admit(at("a", now), now); !admitted {
		t.Error("the first failure after a recovery is not logged")
	}
}

func TestServerAttributes(t *testing.T) {
	for host, want := range map[string]string{
		"a.example": "a.example", "a.example:1": "a.example 1", "[::1]:8443": "::1 8443", "[::1]": "::1",
	} {
		var got []string
		for _, kv := range serverAttributes(host) {
			got = append(got, kv.Value.String())
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: got %v, want %s", host, got, want)
		}
	}
}
