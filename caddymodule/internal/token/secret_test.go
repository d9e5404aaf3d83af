package token

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/gob"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"text/template"
	"time"
)

// canary is what must show nowhere.
const canary = "c4nary+s3cr3t/=%zürich"

// disguises are the forms in which the canary could show.
var disguises = []string{
	canary,
	canary[:8],
	canary[len(canary)-8:],
	hex.EncodeToString([]byte(canary)),
	strings.ToUpper(hex.EncodeToString([]byte(canary))),
	strings.TrimSuffix(fmt.Sprintf("% x", canary), " "),
	strings.Trim(fmt.Sprint([]byte(canary)), "[]"),
	base64.StdEncoding.EncodeToString([]byte(canary)),
	base64.RawURLEncoding.EncodeToString([]byte(canary)),
	url.QueryEscape(canary),
	url.PathEscape(canary),
	strings.Trim(fmt.Sprintf("%q", canary), `"`),
	strings.Trim(fmt.Sprintf("%+q", canary), `"`),
}

// mustHide fails the test if the text shows the canary.
func mustHide(t testing.TB, text string) {
	t.Helper()
	for _, d := range disguises {
		if strings.Contains(text, d) {
			t.Errorf("it shows the canary as %q: %s", d, text)
		}
	}
}

// exported and unexported are structs that hold a Secret, as any code might define them.
type (
	exported   struct{ Secret Secret }
	unexported struct{ secret Secret }
	pointers   struct {
		Secret *Secret
		secret *Secret
	}
	embedded struct{ Secret }
	nested   struct {
		Exported   exported
		unexported unexported
		list       []Secret
		byName     map[string]Secret
		bySecret   map[Secret]int
		anything   any
		array      [2]Secret
		pointer    *unexported
	}
)

// keeper is a Fetcher that holds a secret, which is the token too.
type keeper struct{ secret Secret }

func (k *keeper) Fetch(context.Context) (Issued, error) {
	return Issued{Token: k.secret, Lifetime: hour}, nil
}

func (k *keeper) Prepare() Call { return Call{Proof: NewSecret(k.Proof()), Fetch: k.Fetch} }

func (k *keeper) Proof() string { return k.secret.Fingerprint() }

// secretHolders are all that may be printed by accident, by name.
func secretHolders(t *testing.T) map[string]any {
	secret := NewSecret(canary)
	config := Config{Fetcher: &keeper{secret}}
	s := NewSource(config)
	if _, err := s.flight(); err != nil { // in this goroutine: printing a source takes none of its locks
		t.Fatal(err)
	}
	l := mustAcquire(t, s)
	s.Rest()
	return map[string]any{
		"Secret":         secret,
		"*Secret":        &secret,
		"**Secret":       new(&secret),
		"exported":       exported{secret},
		"*exported":      &exported{secret},
		"unexported":     unexported{secret},
		"*unexported":    &unexported{secret},
		"pointers":       pointers{&secret, &secret},
		"embedded":       embedded{secret},
		"slice":          []Secret{secret},
		"any slice":      []any{secret, &secret},
		"array":          [1]Secret{secret},
		"map":            map[string]Secret{"a": secret},
		"map key":        map[Secret]string{secret: "a"},
		"anonymous":      struct{ s Secret }{secret},
		"nested":         nested{exported{secret}, unexported{secret}, []Secret{secret}, map[string]Secret{"a": secret}, map[Secret]int{secret: 1}, secret, [2]Secret{secret, secret}, &unexported{secret}},
		"Issued":         Issued{Token: secret},
		"*Issued":        &Issued{Token: secret},
		"Call":           Call{Proof: secret},
		"Event":          Event{Token: secret},
		"*Event":         &Event{Token: secret},
		"Lease":          l,
		"*Lease":         &l,
		"[]Lease":        []Lease{l},
		"*Token":         l.token,
		"[]*Token":       []*Token{l.token},
		"Config":         config,
		"*Config":        &config,
		"Fetcher":        config.Fetcher,
		"*Source":        s,
		"struct{Source}": struct{ s *Source }{s},
		"*vaultEntry":    &vaultEntry{"key", s},
		"Key":            NewKeyBuilder().Secret("client_secret", secret).Key(),
		"*KeyBuilder":    NewKeyBuilder().Secret("client_secret", secret),
		"error":          fmt.Errorf("%w: %v", errRefused, secret),
		"joined error":   errors.Join(errRefused, fmt.Errorf("with %+v", exported{secret})),
	}
}

// TestSecretHidesFromFmt tries every verb and flag on everything that holds a secret.
func TestSecretHidesFromFmt(t *testing.T) {
	var verbs []string
	for c := 'a'; c <= 'z'; c++ {
		for _, flags := range []string{"", "+", "#", "-", " ", "0", "+#", "#+ ", "30", ".3", "-30.3", "#30.3"} {
			verbs = append(verbs, "%"+flags+string(c), "%"+flags+strings.ToUpper(string(c)))
		}
	}
	verbs = append(verbs, "%!", "%🔑", "%[2]v", "%*d", "%.*s")
	for name, v := range secretHolders(t) {
		t.Run(name, func(t *testing.T) {
			for _, verb := range verbs {
				mustHide(t, fmt.Sprintf(verb, v))
			}
			mustHide(t, fmt.Sprint(v))
			mustHide(t, fmt.Sprintln("a", v))
			mustHide(t, fmt.Errorf("failed: %w", fmt.Errorf("%v", v)).Error())
			var b bytes.Buffer
			log.New(&b, "", 0).Println(v)
			log.New(&b, "", 0).Printf("%#v", v)
			mustHide(t, b.String())
		})
	}
}

// TestSecretHidesFromEncoders says the same of what serializes by reflection.
func TestSecretHidesFromEncoders(t *testing.T) {
	for name, v := range secretHolders(t) {
		t.Run(name, func(t *testing.T) {
			for encoder, encode := range map[string]func(b *bytes.Buffer) error{
				"json": func(b *bytes.Buffer) error { return json.NewEncoder(b).Encode(v) },
				"xml":  func(b *bytes.Buffer) error { return xml.NewEncoder(b).Encode(v) },
				"gob":  func(b *bytes.Buffer) error { return gob.NewEncoder(b).Encode(v) },
				"template": func(b *bytes.Buffer) error {
					return template.Must(template.New("").Parse("{{.}} {{print .}} {{printf `%#v` .}} {{js .}}")).Execute(b, v)
				},
			} {
				var b bytes.Buffer
				if err := encode(&b); err != nil {
					mustHide(t, err.Error())
				}
				mustHide(t, b.String())
				if t.Failed() {
					t.Logf("by %s", encoder)
				}
			}
		})
	}
}

// TestSecretHidesFromSlog says the same of structured logs.
func TestSecretHidesFromSlog(t *testing.T) {
	for name, v := range secretHolders(t) {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			options := &slog.HandlerOptions{AddSource: true, Level: slog.LevelDebug}
			for _, h := range []slog.Handler{slog.NewTextHandler(&b, options), slog.NewJSONHandler(&b, options)} {
				l := slog.New(h).With("with", v)
				l.Info("a", "value", v, slog.Any("any", v), slog.Group("group", "value", v))
				l.WithGroup("g").Debug(fmt.Sprint("message ", v), "list", []any{v}, "error", fmt.Errorf("because of %v", v))
			}
			if b.Len() == 0 {
				t.Fatal("nothing was logged")
			}
			mustHide(t, b.String())
		})
	}
}

// TestSecretShowsRedacted says that one sees that something has been left out, in every form that a reader may meet.
func TestSecretShowsRedacted(t *testing.T) {
	secret := NewSecret(canary)
	text, err := secret.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := json.Marshal(map[string]Secret{"secret": secret})
	if err != nil {
		t.Fatal(err)
	}
	for want, got := range map[string]string{
		"[redacted] String":       secret.String() + " String",
		"[redacted] GoString":     secret.GoString() + " GoString",
		"[redacted] text":         string(text) + " text",
		"[redacted] LogValue":     secret.LogValue().String() + " LogValue",
		"[redacted] %d":           fmt.Sprintf("%d", secret) + " %d",
		"[redacted] %x":           fmt.Sprintf("%x", secret) + " %x",
		"{Secret:[redacted]}":     fmt.Sprintf("%+v", exported{secret}),
		`{"secret":"[redacted]"}`: string(encoded),
	} {
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	// no secret looks the same: whether there is one is nobody's business
	if got := fmt.Sprint(Secret{}, new(Secret)); got != "[redacted] [redacted]" {
		t.Errorf("no secret shows as %s", got)
	}
	if got := fmt.Sprint((*Secret)(nil)); got != "<nil>" {
		t.Errorf("a nil pointer shows as %s", got)
	}
}

// TestSecretReveals says that the text is there for those who ask for it.
func TestSecretReveals(t *testing.T) {
	for _, text := range []string{canary, "", " ", "\x00", strings.Repeat("x", 1<<16)} {
		s := NewSecret(text)
		if s.Reveal() != text || s.Empty() != (text == "") {
			t.Errorf("%q reveals %q, Empty is %t", text, s.Reveal(), s.Empty())
		}
	}
	if s := (Secret{}); s.Reveal() != "" || !s.Empty() {
		t.Errorf("no secret reveals %q", s.Reveal())
	}
}

// TestSecretEqual says that secrets are equal by their text and not by their address.
func TestSecretEqual(t *testing.T) {
	for _, tc := range []struct {
		a, b Secret
		want bool
	}{
		{NewSecret(canary), NewSecret(canary), true},
		{NewSecret(canary), NewSecret(canary + " "), false},
		{NewSecret(canary), NewSecret(strings.ToUpper(canary)), false},
		{NewSecret(canary), NewSecret(""), false},
		{NewSecret(canary), Secret{}, false},
		{NewSecret(""), Secret{}, true},
		{Secret{}, Secret{}, true},
	} {
		if tc.a.Equal(tc.b) != tc.want || tc.b.Equal(tc.a) != tc.want {
			t.Errorf("%q and %q: want equal %t", tc.a.Reveal(), tc.b.Reveal(), tc.want)
		}
	}
}

// TestFingerprint says that a fingerprint names a secret within this process, and nothing more.
func TestFingerprint(t *testing.T) {
	form := regexp.MustCompile(`^[0-9a-f]{8}$`)
	seen := make(map[string]string)
	for n := range 1000 {
		text := fmt.Sprint(canary, n)
		f := NewSecret(text).Fingerprint()
		if !form.MatchString(f) {
			t.Fatalf("%q is not 8 hex digits", f)
		}
		if f != NewSecret(text).Fingerprint() {
			t.Fatalf("%q has two fingerprints", text)
		}
		seen[f] = text
	}
	if len(seen) < 999 { // 1000 of 2^32: more than one collision does not happen
		t.Errorf("1000 secrets have %d fingerprints", len(seen))
	}
	if len(fingerprintKey) != sha256.Size || bytes.Equal(fingerprintKey, make([]byte, sha256.Size)) {
		t.Errorf("the process's key is %x", fingerprintKey)
	}
	here, key := NewSecret(canary).Fingerprint(), keyOfSecret(canary)
	defer func(k []byte) { fingerprintKey = k }(fingerprintKey)
	fingerprintKey = bytes.Repeat([]byte{1}, sha256.Size)
	if NewSecret(canary).Fingerprint() == here {
		t.Error("the fingerprint is the same in another process")
	}
	if keyOfSecret(canary) == key {
		t.Error("the identity key of a secret is the same in another process")
	}
}

// TestSecretIn says when a text shows a secret: whole, or enough of it to be no accident.
func TestSecretIn(t *testing.T) {
	for _, tc := range []struct {
		secret, text string
		want         bool
	}{
		{"", "", false},
		{"", "invalid_client", false},
		{canary, "", false},
		{canary, "invalid_client", false},
		{canary, canary, true},
		{canary, "client_" + canary + "_is_wrong", true},
		{canary, canary[:12], true},
		{canary, "bad:" + canary[len(canary)-12:], true},
		{canary, "bad:" + canary[4:16] + "…", true},
		{canary, canary[:6] + "-" + canary[6:12], false},
		{"hunter2hunt", "hunter2hunt", true},
		{"hunter2hunt", "unknown_secret_hunter2hunt", true},
		{"hunter22", "hunter22_is_not_the_secret", true},
		{"hunter2hunt", "unknown_secret_hunter3hunt", false},
		{"a", "invalid_client", false}, // or nothing could be said at all
	} {
		if got := NewSecret(tc.secret).In(tc.text); got != tc.want {
			t.Errorf("%q in %q: %t", tc.secret, tc.text, got)
		}
	}
	if (Secret{}).In("anything") {
		t.Error("no secret is in a text")
	}
}

// TestErrorsHide says that no error that the engine makes holds what a Fetcher's error or panic said.
func TestErrorsHide(t *testing.T) {
	for name, a := range map[string]answer{
		"plain error":    fails(errors.New(canary)),
		"wrapped error":  fails(fmt.Errorf("%s: %w", canary, errRefused)),
		"joined error":   fails(errors.Join(errors.New(canary), errDown)),
		"url error":      fails(&url.Error{Op: "Post", URL: "https://a/?client_secret=" + canary, Err: errors.New(canary)}),
		"context error":  fails(fmt.Errorf("%w: %s", context.DeadlineExceeded, canary)),
		"panic":          panics,
		"panic in error": fails(panickingError{}),
		"empty token":    func(context.Context, *endpoint) (Issued, error) { return Issued{}, nil },
		"token and error": func(context.Context, *endpoint) (Issued, error) {
			return Issued{Token: NewSecret(canary), Lifetime: hour}, errDown
		},
	} {
		inBubble(t, name, func(t *testing.T) {
			e := newEndpoint(a)
			s := e.source(t, Policy{MaxWait: time.Minute})
			err := mustFail(t, s)
			mustHide(t, fmt.Sprintf("%v %+v %#v %s %q", err, err, err, err.Reason, err.Code))
			for _, event := range e.told() {
				mustHide(t, fmt.Sprintf("%v %+v %#v %+v", event, event, event, event.Err))
			}
			if u := errors.Unwrap(err); u != nil {
				mustHide(t, u.Error())
			}
		})
	}
}

// panickingError panics when anybody looks at it.
type panickingError struct{}

func (panickingError) Error() string { panic(canary) }

// TestErrorText says what an error shows.
func TestErrorText(t *testing.T) {
	for want, err := range map[string]*Error{
		"no route": {Kind: Unavailable, Reason: "no route"},
		"the token endpoint refused (status 401) (error code invalid_client)": {
			Kind: Refused, Status: 401, Code: "invalid_client", Reason: "the token endpoint refused", RetryAfter: time.Minute, RetryAt: time.Now(),
		},
		"not a token (status 200)": errGarbage,
	} {
		if err.Error() != want {
			t.Errorf("got %q, want %q", err.Error(), want)
		}
	}
}
