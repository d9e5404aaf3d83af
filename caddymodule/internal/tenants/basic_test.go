package tenants

import (
	"encoding/base64"
	"testing"
	"time"
)

// A secret that brings a token uses up no attempt, and neither does one that the limits kept from being tried.
func TestBasicAttemptsAreForgiven(t *testing.T) {
	right := base64.StdEncoding.EncodeToString([]byte("a:right"))
	inBubble(t, config{basic: true, rate: 1}, func(t *testing.T, ts *testSet) {
		for range 2 { // the burst
			if _, err := ts.leaseAs(right); err != nil {
				t.Fatal(err)
			}
			ts.Purge(t.Context(), false)
			for of := range ts.All {
				ts.Remove(of)
			}
		}
		for range 3 * BasicAttempts {
			if _, err := ts.leaseAs(right); denialOf(err) != "limited" || time.Until(err.(*Denial).RetryAt) > time.Second {
				t.Fatalf("got %v, want a limit of new_rate", err)
			}
		}
		if n := ts.Count(); n != 0 {
			t.Errorf("%d clients without a token have a place", n)
		}
		time.Sleep(time.Second)
		if _, err := ts.leaseAs(right); err != nil {
			t.Error(err)
		}
		if n := len(ts.attempts.of); n != 0 {
			t.Errorf("%d clients have attempts", n)
		}
	})
}

// The name by which operators see a client shows nothing of it, and pairs that look alike have different names.
func TestBasicName(t *testing.T) {
	seen := make(map[string]string)
	for _, pair := range []string{"a:bc", "ab:c", "a:b", "a:b:c", "A:bc"} {
		encoded := base64.StdEncoding.EncodeToString([]byte(pair))
		name := BasicName(encoded)
		if name != BasicName(encoded) || !ValidName(name) || len(name) != 32 {
			t.Errorf("the name of %s is %s", pair, name)
		}
		if other, ok := seen[name]; ok {
			t.Errorf("%s and %s have one name", pair, other)
		}
		seen[name] = pair
	}
	b, ok := parseBasic(base64.StdEncoding.EncodeToString([]byte("a b:c:d é")))
	if !ok || b.id.Reveal() != "a b" || b.secret.Reveal() != "c:d é" {
		t.Errorf("got %v, %t", b, ok)
	}
}

func FuzzParseBasic(f *testing.F) {
	for _, pair := range []string{"a:b", ":", "a", "a:b:c", "{env.HOME}:x", "\xff:\xff"} {
		f.Add(base64.StdEncoding.EncodeToString([]byte(pair)))
	}
	f.Add("Xzp\r0") // package base64 reads it as Xzp0
	f.Fuzz(func(t *testing.T, encoded string) {
		if b, ok := parseBasic(encoded); ok && base64.StdEncoding.EncodeToString([]byte(b.id.Reveal()+":"+b.secret.Reveal())) != encoded {
			t.Errorf("%q was read as something else", encoded)
		}
	})
}
