package token

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// demands returns an answer that writes down what each call is to ask for.
func demands(of *[]string, then answer) answer {
	return func(ctx context.Context, e *endpoint) (Issued, error) {
		*of = append(*of, Demanded(ctx))
		return then(ctx, e)
	}
}

// The claims that the API demands are part of the next call, and end with the token that comes of it.
func TestDemand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked []string
		e := newEndpoint(demands(&asked, grants(time.Hour)))
		s := NewSource(Config{Fetcher: e})
		l := mustAcquire(t, s)
		l.Demand(`{"nbf":1}`)
		other, ok := l.Reject(t.Context(), Certain)
		if !ok || other.Value().Equal(l.Value()) {
			t.Fatal("the API gets no other token")
		}
		late := l // a request that was under way with the first token
		late.Demand(`{"nbf":1}`)
		if again, ok := late.Reject(t.Context(), Certain); !ok || !again.Value().Equal(other.Value()) {
			t.Error("the late request does not get the second token")
		}
		time.Sleep(10 * time.Second)
		if _, ok := other.Reject(t.Context(), Certain); !ok {
			t.Error("the API gets no third token")
		}
		wantAsked(t, asked, "", `{"nbf":1}`, "")
	})
}

// An observer learns which rejections are demands.
func TestDemandIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEndpoint(grants(time.Hour))
		s := NewSource(e.config(Policy{}))
		l := mustAcquire(t, s)
		for _, claims := range []string{`{"nbf":1}`, ""} {
			if claims != "" {
				l.Demand(claims)
			}
			before := len(e.told())
			l, _ = l.Reject(t.Context(), Certain)
			if event := e.told()[before]; !event.Rejected || event.Demanded != (claims != "") {
				t.Errorf("with the claims %q, the event is %+v", claims, event)
			}
			advance(10 * time.Second)
		}
	})
}

// Requests with the old token repeat the demand while the call for it is under way. It ends with the new token all the same.
func TestDemandIsRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked []string
		e := newEndpoint(demands(&asked, grants(time.Hour)))
		s := NewSource(Config{Fetcher: e})
		l := mustAcquire(t, s)
		e.set(demands(&asked, func(ctx context.Context, e *endpoint) (Issued, error) {
			l.Demand("c")
			return grants(time.Hour)(ctx, e)
		}))
		l.Demand("c")
		if _, ok := l.Reject(t.Context(), Certain); !ok {
			t.Fatal("the API gets no other token")
		}
		if err := s.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		wantAsked(t, asked, "", "c", "")
	})
}

// The token endpoint does not issue tokens with the claims that one path of an API demands. All other paths need a token
// nevertheless. A client that the token endpoint does not know gets none, and is not sent again.
func TestDemandIsRefused(t *testing.T) {
	for code, want := range map[string][]string{"invalid_request": {"", "c", ""}, "invalid_client": {"", "c"}} {
		t.Run(code, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var asked []string
				e := newEndpoint(demands(&asked, grants(time.Hour)))
				s := NewSource(e.config(Policy{}))
				l := mustAcquire(t, s)
				e.set(demands(&asked, func(ctx context.Context, e *endpoint) (Issued, error) {
					if Demanded(ctx) != "" {
						return Issued{}, &Error{Kind: Refused, Status: 400, Code: code}
					}
					return grants(time.Hour)(ctx, e)
				}))
				l.Demand("c")
				if _, ok := l.Reject(t.Context(), Certain); ok != (code == "invalid_request") {
					t.Errorf("the API gets another token: %v", ok)
				}
				wantAsked(t, asked, want...)
				if told := e.told(); len(told) != 3+len(want)-2 || told[2].Err == nil || told[2].Err.Code != code {
					t.Errorf("operators learn of %+v", told)
				}
			})
		})
	}
}

// A demand does not outlive the flight that fails with it, because the failure may be because of it. The API repeats a demand
// that still stands.
func TestDemandAfterFailure(t *testing.T) {
	for _, tc := range []struct {
		name string
		kind Kind
		want []string
	}{
		{"unavailable", Unavailable, []string{"", "c", "c", "", ""}},
		{"unreadable", Unreadable, []string{"", "c", "c", "", ""}},
		{"refused", Refused, []string{"", "c", "", ""}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var asked []string
				e := newEndpoint(demands(&asked, grants(time.Hour)))
				s := NewSource(Config{Fetcher: e})
				l := mustAcquire(t, s)
				e.set(demands(&asked, func(context.Context, *endpoint) (Issued, error) {
					return Issued{}, &Error{Kind: tc.kind, Status: 503}
				}))
				l.Demand("c")
				if _, ok := l.Reject(t.Context(), Certain); ok {
					t.Error("the API gets another token")
				}
				s.Rest() // no calls but those of the test
				e.set(demands(&asked, grants(time.Hour)))
				time.Sleep(time.Minute)
				l.Demand("c") // a request with the old token
				if err := s.Refresh(t.Context()); err != nil {
					t.Fatal(err)
				}
				wantAsked(t, asked, tc.want...)
				l = mustAcquire(t, s)
				l.Demand("c")
				if err := s.Refresh(t.Context()); err != nil {
					t.Fatal(err)
				}
				wantAsked(t, asked, append(tc.want, "c")...)
			})
		})
	}
}

// One call that fails by chance does not keep the API from what it demands.
func TestDemandAfterOneFailure(t *testing.T) {
	for name, first := range map[string]answer{"unavailable": fails(errDown), "old secret": func(_ context.Context, e *endpoint) (Issued, error) {
		e.rotate("new")
		return Issued{}, errRefused
	}} {
		inBubble(t, name, func(t *testing.T) {
			var asked []string
			e := newEndpoint(demands(&asked, grants(time.Hour)))
			s := e.source(t, Policy{})
			l := mustAcquire(t, s)
			e.set(demands(&asked, script(first, grants(time.Hour))))
			l.Demand("c")
			if _, ok := l.Reject(t.Context(), Certain); !ok {
				t.Error("the API gets no other token")
			}
			wantAsked(t, asked, "", "c", "c")
		})
	}
}

// The token endpoint fails whenever a call asks for the claims that one path of the API demands, in whatever way. All other
// paths keep their token, and have a new one in time.
func TestDemandThatTheEndpointCannotMeet(t *testing.T) {
	ways := outages()
	ways["429 with Retry-After"] = fails(&Error{Kind: Unavailable, Status: 429, RetryAfter: time.Minute})
	ways["403 of a firewall"] = fails(&Error{Kind: Refused, Status: 403})
	for name, fail := range ways {
		inBubble(t, name, func(t *testing.T) {
			with, without := 0, 0
			e := newEndpoint(func(ctx context.Context, e *endpoint) (Issued, error) {
				if Demanded(ctx) == "" {
					without++
					return slow(latency, grants(time.Hour))(ctx, e)
				}
				with++
				return fail(ctx, e)
			})
			f := &traffic{e: e, s: e.source(t, Policy{})}
			_, _ = f.once()
			for i := range 3 * 60 { // both paths each minute
				l, err := f.once()
				if err != nil {
					t.Fatalf("after %d minutes: %v", i, err)
				}
				l.Demand("c")
				if l, ok := l.Reject(t.Context(), Certain); ok {
					l.RejectedAgain()
				}
				if l, err = f.once(); err == nil {
					l.Accepted()
				}
				advance(time.Minute)
			}
			f.check(t)
			if with == 0 || with > 2*without {
				t.Errorf("%d calls with the claims, and %d without them", with, without)
			}
		})
	}
}

// A demand makes an outage no more expensive for the token endpoint: a source that has one calls as often as another.
func TestDemandInAnOutage(t *testing.T) {
	for name, down := range map[string]answer{"503": fails(errDown), "404": fails(errMissing)} {
		inBubble(t, name, func(t *testing.T) {
			e := newEndpoint(grants(time.Hour))
			s := e.source(t, Policy{})
			mustAcquire(t, s)
			e.set(down)
			for range 30 * 60 { // the API demands the claims from each request with the rejected token
				if l, err := s.Acquire(t.Context()); err == nil {
					l.Demand("c")
					go l.Reject(t.Context(), Certain)
				}
				advance(time.Second)
			}
			if n := e.count(); n > 30*6+10 {
				t.Errorf("%d calls in half an hour, want one every %v", n, maxColdWait)
			}
		})
	}
}

func wantAsked(t *testing.T, got []string, want ...string) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("the calls ask for %q, want %q", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("call %d asks for %q, want %q", i+1, got[i], want[i])
		}
	}
}

// A lease proves the key only if the token is bound to it, also after a rejection has made a copy of the token.
func TestProverOfTheLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, bound := range []bool{true, false} {
			e := newEndpoint(func(_ context.Context, e *endpoint) (Issued, error) {
				if n, _ := e.tokens(); n > 0 {
					return Issued{}, errors.New("no more")
				}
				issued := e.issue(time.Hour)
				issued.DPoP, issued.Prover = bound, prover{}
				return issued, nil
			})
			s := NewSource(Config{Fetcher: e})
			for range 2 {
				l := mustAcquire(t, s)
				if (l.Prover() != nil) != bound || s.Status().DPoP != bound {
					t.Errorf("prover %v, status %v, want bound %v", l.Prover(), s.Status().DPoP, bound)
				}
				l.Reject(t.Context(), Certain)
			}
		}
	})
}

type prover struct{}

func (prover) Thumbprint() string { return "thumbprint" }

// The first call makes what is attached to a source.
func TestAttached(t *testing.T) {
	s := NewSource(Config{Fetcher: newEndpoint(grants(time.Hour))})
	one, other := s.Attached(func() any { return 1 }), s.Attached(func() any { return 2 })
	if one != 1 || other != 1 {
		t.Errorf("attached are %v and %v, want 1", one, other)
	}
}
