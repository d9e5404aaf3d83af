package token

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func sha256Of(text string) []byte {
	sum := sha256.Sum256([]byte(text))
	return sum[:]
}

// field is one field of an identity.
type field struct {
	name   string
	values []string
}

func keyOf(fields []field) Key {
	b := NewKeyBuilder()
	for _, f := range fields {
		b.Field(f.name, f.values...)
	}
	return b.Key()
}

// same compares what a key is made of: no values are the same as nil.
func same(a, b []field) bool {
	return slices.EqualFunc(a, b, func(x, y field) bool { return x.name == y.name && slices.Equal(x.values, y.values) })
}

// TestKeyBoundaries says that no two identities have the same key, however their parts are cut.
func TestKeyBoundaries(t *testing.T) {
	identities := [][]field{
		nil,
		{{"", nil}},
		{{"", []string{""}}},
		{{"", []string{"", ""}}},
		{{"", nil}, {"", nil}},
		{{"a", nil}},
		{{"a", []string{""}}},
		{{"a", []string{"", ""}}},
		{{"a", []string{"b"}}},
		{{"a", []string{"b", ""}}},
		{{"a", []string{"", "b"}}},
		{{"ab", nil}},
		{{"ab", []string{""}}},
		{{"a", []string{"b|c"}}},
		{{"a", []string{"b", "c"}}},
		{{"a", []string{"c", "b"}}},
		{{"a", []string{"bc"}}},
		{{"a", []string{"b"}}, {"c", nil}},
		{{"a", nil}, {"b", nil}, {"c", nil}},
		{{"a", nil}, {"c", nil}, {"b", nil}},
		{{"a", []string{"a|b", "c"}}},
		{{"a", []string{"a", "b|c"}}},
		{{"a", []string{"a|b|c"}}},
		{{"a", []string{"a b", "c"}}},
		{{"a", []string{"a", "b c"}}},
		{{"a", []string{"a\x00b", "c"}}},
		{{"a", []string{"a", "b\x00c"}}},
		{{"scope", []string{"read write"}}},
		{{"scope", []string{"read", "write"}}},
		{{"scope", []string{"Read", "write"}}},
		{{"scope", []string{"read"}}, {"scope", []string{"write"}}},
		{{"client_id", []string{"x"}}, {"client_secret", nil}},
		{{"client_id", []string{"x"}}, {"client_secret", []string{""}}},
		{{"client_id", nil}, {"client_secret", []string{"x"}}},
		{{"client_id", []string{"\x00\x00\x00\x00\x00\x00\x00\x01x"}}},
		{{"a", []string{"\x00\x00\x00\x00\x00\x00\x00\x01b\x00\x00\x00\x00\x00\x00\x00\x00"}}},
	}
	keys := make(map[Key][]field)
	for _, identity := range identities {
		key := keyOf(identity)
		if other, ok := keys[key]; ok {
			t.Errorf("%q and %q have the same key", identity, other)
		}
		keys[key] = identity
		if key != keyOf(identity) {
			t.Errorf("%q has two keys", identity)
		}
		if len(key) != sha256.Size {
			t.Errorf("%q has a key of %d bytes", identity, len(key))
		}
	}
}

// TestKeyOfAnyChange says that whatever is changed in an identity changes its key.
func TestKeyOfAnyChange(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	text := func() string {
		const alphabet = "ab|,; \x00\x01\"="
		b := make([]byte, random.IntN(5))
		for i := range b {
			b[i] = alphabet[random.IntN(len(alphabet))]
		}
		return string(b)
	}
	make1 := func() []field {
		fields := make([]field, random.IntN(5))
		for i := range fields {
			fields[i].name = text()
			for range random.IntN(4) {
				fields[i].values = append(fields[i].values, text())
			}
		}
		return fields
	}
	change := func(fields []field) []field {
		c := make([]field, len(fields))
		for i, f := range fields {
			c[i] = field{f.name, slices.Clone(f.values)}
		}
		if len(c) == 0 {
			return make1()
		}
		i := random.IntN(len(c))
		f := &c[i]
		switch random.IntN(7) {
		case 0:
			f.name = text()
		case 1:
			f.values = append(f.values, text())
		case 2:
			f.values = f.values[:len(f.values)/2]
		case 3:
			if len(f.values) > 0 {
				f.values[random.IntN(len(f.values))] = text()
			}
		case 4:
			c = slices.Delete(c, i, i+1)
		case 5:
			c = slices.Insert(c, i, field{name: text()})
		case 6: // the boundary moves
			if j := len(f.values); j > 1 {
				joined := f.values[j-2] + f.values[j-1]
				cut := random.IntN(len(joined) + 1)
				f.values[j-2], f.values[j-1] = joined[:cut], joined[cut:]
			}
		}
		return c
	}
	changed := 0
	for range 20000 {
		a := make1()
		b := change(a)
		if same(a, b) {
			continue
		}
		changed++
		if keyOf(a) == keyOf(b) {
			t.Fatalf("%q and %q have the same key", a, b)
		}
	}
	if changed < 10000 {
		t.Errorf("only %d identities were changed", changed)
	}
}

// keyOfSecret is the key of an identity with a secret.
func keyOfSecret(text string) Key {
	return NewKeyBuilder().Field("client_id", "a").Secret("client_secret", NewSecret(text)).Key()
}

// TestKeyOfSecret says that a secret shapes the key, and cannot be guessed from it.
func TestKeyOfSecret(t *testing.T) {
	of := keyOfSecret
	if first, again := of(canary), of(canary); first != again {
		t.Error("one secret has two keys")
	}
	if of(canary) == of(canary+" ") || of(canary) == of("") {
		t.Error("two secrets have the same key")
	}
	if of("") != NewKeyBuilder().Field("client_id", "a").Secret("client_secret", Secret{}).Key() {
		t.Error("no secret and an empty one have different keys")
	}
	if NewKeyBuilder().Secret("a", NewSecret(canary)).Key() == NewKeyBuilder().Secret("b", NewSecret(canary)).Key() {
		t.Error("one secret in two fields has the same key")
	}
	// whoever sees the key and knows everything else must not be able to test a guess
	for name, value := range map[string]string{
		"plain": canary, "SHA-256": string(sha256Of(canary)), "SHA-256 in hex": hex.EncodeToString(sha256Of(canary)),
	} {
		if of(canary) == NewKeyBuilder().Field("client_id", "a").Field("client_secret", value).Key() {
			t.Errorf("the key is made of the secret's %s", name)
		}
	}
	mustHide(t, fmt.Sprintf("%s %q %x %v", of(canary), of(canary), of(canary), of(canary)))
}

// TestKeyBuilderGoesOn says that asking for the key changes nothing: fields can be added after it.
func TestKeyBuilderGoesOn(t *testing.T) {
	b := NewKeyBuilder().Field("a", "b")
	before := b.Key()
	if b.Key() != before {
		t.Error("the key changes when it is asked for twice")
	}
	if got, want := b.Field("c", "d").Key(), keyOf([]field{{"a", []string{"b"}}, {"c", []string{"d"}}}); got != want || got == before {
		t.Error("a field after Key does not count as a field")
	}
}

// FuzzKey makes two identities of any bytes: their keys are the same if and only if they are.
func FuzzKey(f *testing.F) {
	f.Add([]byte("a|b,c"), []byte("a,b|c"))
	f.Add([]byte("name=value;name=;name"), []byte("name=value;name;name="))
	f.Add([]byte(""), []byte(";"))
	f.Add([]byte("\x00\x00\x00\x00\x00\x00\x00\x01a"), []byte("a"))
	parse := func(data []byte) []field { // name=value,value;name=…
		var fields []field
		for part := range strings.SplitSeq(string(data), ";") {
			name, values, ok := strings.Cut(part, "=")
			f := field{name: name}
			if ok {
				f.values = strings.Split(values, ",")
			}
			fields = append(fields, f)
		}
		return fields
	}
	f.Fuzz(func(t *testing.T, a, b []byte) {
		x, y := parse(a), parse(b)
		if same(x, y) != reflect.DeepEqual(x, y) {
			t.Fatalf("the test is wrong about %q and %q", x, y)
		}
		if (keyOf(x) == keyOf(y)) != same(x, y) {
			t.Errorf("%q and %q: the same key: %t", x, y, !same(x, y))
		}
	})
}

// TestIdentity says that the identity is the same for replicas that are configured alike, and tells apart what Key does.
func TestIdentity(t *testing.T) {
	of := func(secret, source string) string {
		return NewKeyBuilder().Secret("client_secret", NewSecret(secret)).Field("source", source).Identity().Reveal()
	}
	if first, second := of("a", "b"), of("a", "b"); first != second {
		t.Error("the same fields have two identities")
	}
	for _, other := range [][2]string{{"a", "c"}, {"c", "b"}, {"ab", ""}, {"", "ab"}} {
		if of("a", "b") == of(other[0], other[1]) {
			t.Errorf("%q has the identity of another", other)
		}
	}
	if !strings.Contains(of(canary, "b"), canary) {
		t.Error("the secret goes in as a digest, which other processes do not share")
	}
}
