package option

import (
	"errors"
	"testing"
)

func TestDistance(t *testing.T) {
	for _, tc := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"a", "a", 0}, {"scope", "scopes", 1}, {"scopes", "scope", 1}, {"scpoe", "scope", 2}, {"abc", "xbc", 1},
		{"kitten", "sitting", 3}, {"abc", "", 3}, {"abcdefgh", "", 4},
	} {
		if got := distance(tc.a, tc.b, 3); got != tc.want {
			t.Errorf("%q, %q: got %d, want %d", tc.a, tc.b, got, tc.want)
		}
	}
}

// An error of reverse_proxy keeps its file and line and loses the word.
func TestHideSubdirective(t *testing.T) {
	for text, want := range map[string]string{
		"unrecognized subdirective hunter, at 2, at Caddyfile:3 import chain ['a']": "unrecognized subdirective: it is not shown, because it could be a secret, at Caddyfile:3 import chain ['a']",
		"unrecognized subdirective hunterhunter":                                    "unrecognized subdirective: it is not shown, because it could be a secret",
		"another error, at Caddyfile:3":                                             "another error, at Caddyfile:3",
	} {
		if got := HideSubdirective(errors.New(text)).Error(); got != want {
			t.Errorf("%q: got %q", text, got)
		}
	}
	if HideSubdirective(nil) != nil {
		t.Error("nil becomes an error")
	}
}
