package caddymodule

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// forgetSoon makes credentials be forgotten soon for the rest of the test.
func forgetSoon(t *testing.T, after time.Duration) {
	set := func(after time.Duration) {
		observations.mu.Lock()
		defer observations.mu.Unlock()
		observations.after = after
	}
	set(after)
	t.Cleanup(func() { set(forgetAfter) })
}

// observed returns the names, with that prefix, of which something is kept.
func observed(prefix string) []string {
	observations.mu.Lock()
	defer observations.mu.Unlock()
	var names []string
	for name := range observations.byName {
		if strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
	}
	return names
}

// countSeries counts the series of credentials with that prefix.
func countSeries(e exposition, prefix string) (n int) {
	for series := range e.series {
		if strings.Contains(series, `credential="`+prefix) {
			n++
		}
	}
	return n
}

// newObservations is a set of its own, and what it forgets.
func newObservations() (s *observationSet, forgotten func() []string) {
	var names []string
	s = newObservationSet(time.Hour, func(name string) { names = append(names, name) })
	return s, func() []string {
		synctest.Wait()
		s.mu.Lock()
		defer s.mu.Unlock()
		return slices.Clone(names)
	}
}

func TestObservationsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, forgotten := newObservations()
		first := s.acquire("a")
		first.begin("identity")
		if s.acquire("a") != first {
			t.Error("two configurations have not the same observation")
		}
		s.release(first)
		<-time.After(2 * time.Hour)
		if len(forgotten()) > 0 {
			t.Fatal("forgotten while a configuration names it")
		}
		s.release(first)
		<-time.After(time.Hour - 1)
		if len(forgotten()) > 0 {
			t.Fatal("forgotten before the hour was over")
		}
		<-time.After(2)
		if !slices.Equal(forgotten(), []string{"a"}) || len(s.byName) > 0 {
			t.Errorf("after an hour: forgotten are %q, kept are %v", forgotten(), s.byName)
		}
		first.whileKept(func() { t.Error("something is added to what has been forgotten") })
		if again := s.acquire("a"); again == first {
			t.Error("what has been forgotten is back")
		}
	})
}

func TestObservationThatComesBackInTimeGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, forgotten := newObservations()
		o := s.acquire("a")
		o.begin("identity")
		for range 5 { // each time, the hour begins anew
			s.release(o)
			<-time.After(50 * time.Minute)
			if s.acquire("a") != o {
				t.Fatal("forgotten too early")
			}
		}
		<-time.After(2 * time.Hour)
		if len(forgotten()) > 0 {
			t.Error("forgotten while a configuration names it")
		}
		kept := false
		o.whileKept(func() { kept = true })
		if !kept {
			t.Error("nothing is counted any more")
		}
		s.release(o)
		<-time.After(2 * time.Hour)
	})
}

// The hour is over, but before the timer's function gets hold of the set, a configuration comes and goes.
func TestObservationThatComesBackAtTheLastMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, forgotten := newObservations()
		o := s.acquire("a")
		o.begin("identity")
		s.release(o)
		s.mu.Lock()
		timer := o.timer
		s.mu.Unlock()
		s.acquire("a")
		s.release(o)
		timer.Reset(0) // late
		synctest.Wait()
		<-time.After(30 * time.Minute)
		if len(forgotten()) > 0 {
			t.Error("forgotten too early")
		}
		<-time.After(time.Hour)
	})
}

// A configuration that was never in force leaves nothing behind.
func TestObservationOfARefusedConfiguration(t *testing.T) {
	name := "refused-" + newClientID()
	refused := appsJSON(fmt.Sprintf(`"token_proxy": {"credentials": {%q: %s}}`, name, goodCredential),
		siteJSON(nowhere, `{"handler": "token_proxy", "credential": "nobody"}`))
	wantRefused(t, validateJSON(refused), "nobody")
	if names := observed(name); len(names) > 0 {
		t.Errorf("kept are %q", names)
	}
}

// Names that come and go with each deployment: after a while only those of the configuration in force are left, even
// though requests and token calls of earlier ones go on.
func TestForgottenCredentials(t *testing.T) {
	const reloads = 100
	forgetSoon(t, 100*time.Millisecond)
	prefix := "deployed-" + newClientID() + "-"
	tokens := newTokenServer(t)
	api := serveHTTP(t, tokens.api())
	addr := freeAddr(t)
	config := func(n int) string {
		name := fmt.Sprint(prefix, n)
		return globalOptions(tokens.credential(name)) + siteConfig(addr, "token_proxy "+name+" "+api.URL)
	}
	s := startOperated(t, config(0), nil)
	get(t, "http://"+addr).wantStatus(t, 200)
	first := runningApp().Credentials[fmt.Sprint(prefix, 0)]
	for n := range reloads {
		if err := s.load(config(n + 1)); err != nil {
			t.Fatal(err)
		}
		get(t, "http://"+addr).wantStatus(t, 200)
	}
	last := fmt.Sprint(prefix, reloads)
	eventually(t, "all but the last to be forgotten", func() bool { return slices.Equal(observed(prefix), []string{last}) })

	first.observe(token.Event{Token: token.NewSecret("late"), Lifetime: time.Hour})
	first.observe(token.Event{Token: token.NewSecret("late"), Rejected: true})
	first.counted().served["fresh"].Inc()
	first.counted().wait.Observe(1)
	e := s.readMetrics()
	if all, want := countSeries(e, prefix), countSeries(e, last); want == 0 || all != want {
		t.Errorf("%d series are left, want the %d of the last credential", all, want)
	}
	if n := s.credential(last).Counters.Calls.Obtained; n != 0 { // one source: its token is still good
		t.Errorf("%d calls", n)
	}

	// It comes back after all: from zero, as after a start.
	if err := s.load(config(0)); err != nil {
		t.Fatal(err)
	}
	get(t, "http://"+addr).wantStatus(t, 200)
	s.readMetrics().want(t, 1, "requests_total", "credential", prefix+"0", "served", "fresh")
}
