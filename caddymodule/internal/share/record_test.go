package share

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/share/sharetest"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// only returns the one value in the store, and its name.
func only(t testing.TB, store *sharetest.Store) (string, []byte) {
	t.Helper()
	values := store.Values()
	for name, value := range values {
		if len(values) == 1 {
			return name, value
		}
	}
	t.Fatalf("%d values in the store", len(values))
	return "", nil
}

// keyHolder seals whatever it likes under the name of a record.
func keyHolder(t testing.TB, text string) []byte {
	c := Share{Ring: ring(t, keyA), Guard: NewGuard(nil, Hooks{})}.Credential(spec())
	k := c.share.Ring.current().sealing()
	return place{c.names.recordName("", k), c.spec.Identity}.seal(k, []byte(text))
}

// Nobody without the key can make a value that opens, whatever happens to those that are there.
func TestHostileValues(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context) {
		store := new(sharetest.Store)
		c := replica(t, ctx, store)
		c.Save(ctx, found("T1"))
		name, sealed := only(t, store)
		want := [len(unopenedLabels)]uint64{}
		try := func(what string, value []byte, reason Unopened) {
			t.Helper()
			store.Put(name, value)
			if f, ok := c.Load(ctx); ok {
				t.Errorf("%s: found %q", what, f.Issued.Token.Reveal())
			}
			want[reason]++
			if got := c.Stats().Unopened; got != want {
				t.Fatalf("%s: counted as %v, want %v", what, got, want)
			}
		}
		for i := range sealed {
			for bit := range 8 {
				forged := bytes.Clone(sealed)
				forged[i] ^= 1 << bit
				reason := UnopenedForged
				if i == 0 {
					reason = UnopenedVersion
				} else if i < headerLength {
					reason = UnopenedKey
				}
				try("a bit is flipped", forged, reason)
			}
		}
		for n := 1; n < len(sealed); n++ {
			reason := UnopenedForged
			if n < headerLength {
				reason = UnopenedVersion
			}
			try("cut", sealed[:n], reason)
		}
		try("longer", append(bytes.Clone(sealed), 0), UnopenedForged)
		try("10 MiB", append(bytes.Clone(sealed), make([]byte, 10<<20)...), UnopenedForged)
		try("64 KiB, by a holder of the key", tooLarge(t, c), UnopenedForged)
		try("another version", keyHolderVersion2(sealed), UnopenedVersion)
		try("text", []byte("hello"), UnopenedVersion)
		try("no JSON", keyHolder(t, `"t"`), UnopenedVersion)
		store.Put(name, sealed)
		if loads(ctx, c) != "T1" {
			t.Error("the value as it was is not found")
		}
	})
}

// tooLarge is a value that is larger than seal makes them.
func tooLarge(t *testing.T, c *Credential) []byte {
	k := c.share.Ring.current().sealing()
	at := place{c.names.recordName("", k), c.spec.Identity}
	aead, err := at.aead(k)
	if err != nil {
		t.Fatal(err)
	}
	text := newRecord(found(strings.Repeat("T", maxValue)), time.Now()).text()
	return aead.Seal(append([]byte{version}, k.id[:]...), nil, text, at.bound(k))
}

func keyHolderVersion2(sealed []byte) []byte { return append([]byte{2}, sealed[1:]...) }

// A value is bound to its name, and to everything that shapes the token.
func TestMovedRecords(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context) {
		store := new(sharetest.Store)
		g := guard(ctx, store)
		here := Share{Ring: ring(t, keyA, keyB), Guard: g}
		here.Credential(spec()).Save(ctx, found("T1"))
		name, sealed := only(t, store)
		others := map[string]*Credential{
			"group":    Share{Ring: here.Ring, Guard: g, Group: "checkout"}.Credential(spec()),
			"provider": here.Credential(spec(func(s *Spec) { s.Provider = "optoro" })),
			"endpoint": here.Credential(spec(func(s *Spec) { s.Endpoint += "2" })),
			"client":   here.Credential(spec(func(s *Spec) { s.ClientID = "client2" })),
			"shifted":  here.Credential(spec(func(s *Spec) { s.Provider, s.Endpoint = "oauth", "2"+s.Endpoint })),
			"certificate": here.Credential(spec(func(s *Spec) {
				s.Certificate = certificate("one")
			})),
		}
		folders := map[string]bool{name[:strings.LastIndex(name, "/")]: true}
		for what, c := range others {
			if loads(ctx, c) != "" {
				t.Errorf("another %s finds the token", what)
			}
			folders[c.Folder()] = true
			store.Put(c.names.recordName(c.binding().thumbprint(), here.Ring.current().sealing()), sealed)
			if loads(ctx, c) != "" {
				t.Errorf("another %s finds a token that was moved", what)
			}
		}
		if len(folders) != len(others)+1 {
			t.Errorf("%d folders for %d credentials", len(folders), len(others)+1)
		}

		// A literal secret is another, and the name is the same.
		identity := here.Credential(spec(func(s *Spec) {
			s.Identity = token.NewKeyBuilder().Field("client_id", "client").Secret("client_secret", token.NewSecret("literal")).Identity()
		}))
		if loads(ctx, identity) != "" || identity.Stats().Unopened[UnopenedForged] != 1 {
			t.Errorf("another identity: %+v", identity.Stats())
		}

		// It is the key of the name that seals, and no other.
		second := (*here.Ring.current())[1]
		c := here.Credential(spec())
		store.Put(name, place{name, c.spec.Identity}.seal(second, []byte(`{"t":"T2","a":1e12,"l":1}`)))
		if c.Load(ctx); c.Stats().Unopened[UnopenedKey] != 1 {
			t.Errorf("a value of another key: %+v", c.Stats())
		}
	})
}

// Whatever a record says of times, the source is not told anything that it could not have from a token endpoint.
func TestTimesOfRecordsAreBounded(t *testing.T) {
	now := time.UnixMilli(1_800_000_000_000)
	const month = 30 * 24 * time.Hour
	for name, c := range map[string]struct {
		record
		age, lifetime, refresh, ahead time.Duration
	}{
		"plain":                     {record{Asked: now.UnixMilli() - 1000, Lifetime: 60_000, RefreshIn: 50_000}, time.Second, time.Minute, 50 * time.Second, 0},
		"asked in the future":       {record{Asked: now.UnixMilli() + 3000, Lifetime: 60_000}, 0, time.Minute, 0, 3 * time.Second},
		"asked at the end of time":  {record{Asked: math.MaxInt64, Lifetime: 60_000}, 0, time.Minute, 0, month},
		"asked before time":         {record{Asked: math.MinInt64, Lifetime: 60_000}, month, time.Minute, 0, 0},
		"no time":                   {record{}, month, 0, 0, 0},
		"endless":                   {record{Asked: now.UnixMilli(), Lifetime: math.MaxInt64, RefreshIn: math.MaxInt64}, 0, month, month, 0},
		"negative":                  {record{Asked: now.UnixMilli(), Lifetime: math.MinInt64, RefreshIn: math.MinInt64}, 0, 0, 0, 0},
		"refreshed after it is out": {record{Asked: now.UnixMilli(), Lifetime: 1000, RefreshIn: 2000}, 0, time.Second, time.Second, 0},
	} {
		f, ahead := c.found(now)
		if f.Age != c.age || f.Lifetime != c.lifetime || f.RefreshIn != c.refresh || ahead != c.ahead {
			t.Errorf("%s: age %v, lifetime %v, refresh %v, ahead %v", name, f.Age, f.Lifetime, f.RefreshIn, ahead)
		}
	}
}

// A record does not become younger when the clock of a replica is set, neither one that the replica has saved nor one that it
// has loaded before. A record that it has not seen yet is as old as the clock says.
func TestClockIsSet(t *testing.T) {
	const before, after = 20 * time.Minute, 10 * time.Minute // the clock is set
	for name, tc := range map[string]struct {
		ahead, then time.Duration // what the clock is ahead of the others, until it is set and afterwards
		own         bool
		age         time.Duration // after all
	}{
		"own record, back to the right time":        {time.Hour, 0, true, before + after},
		"own record, a little back":                 {before / 2, 0, true, before + after},
		"own record, back":                          {0, -time.Hour, true, before + after},
		"own record, ahead":                         {0, 15 * time.Minute, true, before + after + 15*time.Minute},
		"record of another replica, back":           {0, -time.Hour, false, before + after},
		"record of another replica, to and fro":     {-time.Hour, -2 * time.Hour, false, before + after},
		"record of another replica, to the present": {-time.Hour, 0, false, before + after},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, ctx context.Context) {
				store, ahead := new(sharetest.Store), tc.ahead
				share := Share{Ring: ring(t, keyA, keyB), Guard: guard(ctx, store), now: func() time.Time { return time.Now().Add(ahead) }}
				c, other := share.Credential(spec()), replica(t, ctx, store)
				if tc.own {
					other = c
				}
				other.Save(ctx, found("T1"))
				if f, ok := c.Load(ctx); !ok || f.Age != 0 {
					t.Errorf("at first: %v, age %v", ok, f.Age)
				}
				time.Sleep(before)
				ahead = tc.then
				for range 3 {
					c.Load(ctx)
				}
				for name, value := range store.Values() { // it is away for a moment
					_ = store.Delete(ctx, name)
					c.Load(ctx)
					store.Put(name, value)
				}
				time.Sleep(after)
				f, ok := c.Load(ctx)
				if !ok || f.Age != tc.age {
					t.Errorf("after the clock was set: %v, age %v, want %v", ok, f.Age, tc.age)
				}
				time.Sleep(f.Lifetime - f.Age)
				if f, ok := c.Load(ctx); ok {
					t.Errorf("an expired token with age %v of %v", f.Age, f.Lifetime)
				}
				other.Save(ctx, found("T1")) // the token endpoint has prolonged it
				if f, ok := c.Load(ctx); !ok || f.Age > max(0, tc.then) {
					t.Errorf("prolonged: %v, age %v", ok, f.Age)
				}
			})
		})
	}
}

func TestSkewIsReportedOnce(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context) {
		var reported []time.Duration
		store := new(sharetest.Store)
		ahead := 1900 * time.Millisecond
		s := Share{Ring: ring(t, keyA), Guard: guard(ctx, store), now: func() time.Time { return time.Now().Add(ahead) }}
		fast := s.Credential(spec())
		c := replica(t, ctx, store)
		c.spec.Skewed = func(d time.Duration) { reported = append(reported, d) }
		for _, ahead = range []time.Duration{1900 * time.Millisecond, 3 * time.Second, 4 * time.Second} {
			fast.Save(ctx, found("T1"))
			f, ok := c.Load(ctx)
			if !ok || f.Age != 0 || c.Stats().Skew != ahead {
				t.Errorf("ahead by %v: %v, age %v, skew %v", ahead, ok, f.Age, c.Stats().Skew)
			}
		}
		if len(reported) != 1 || reported[0] != 3*time.Second {
			t.Errorf("reported %v", reported)
		}
		time.Sleep(reportInterval)
		if c.Load(ctx); c.Stats().Skew != 0 {
			t.Errorf("skew %v of an old record", c.Stats().Skew)
		}
	})
}

// Later versions may add fields.
func TestUnknownFieldsAreIgnored(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context) {
		store := new(sharetest.Store)
		c := replica(t, ctx, store)
		text, _ := json.Marshal(map[string]any{"t": "T1", "a": time.Now().UnixMilli(), "l": 60_000, "r": 50_000, "z": []int{1}})
		store.Put(c.names.recordName("", c.share.Ring.current().sealing()), keyHolder(t, string(text)))
		if loads(ctx, c) != "T1" {
			t.Error("the record was not found")
		}
	})
}

func TestWhatIsNotSaved(t *testing.T) {
	tooLong := found(strings.Repeat("T", maxValue))
	over := found("T")
	over.Age = over.Lifetime
	binary, none := found("T\xff"), found("")
	for name, f := range map[string]token.Found{"too long": tooLong, "expired": over, "not UTF-8": binary, "no token": none} {
		bubble(t, func(t *testing.T, ctx context.Context) {
			store := new(sharetest.Store)
			c := replica(t, ctx, store)
			c.Save(ctx, f)
			if n := store.Calls("save"); n != 0 || c.Stats().From != "" {
				t.Errorf("%s: %d saves", name, n)
			}
		})
	}
}

func TestRecordsExpireAMinuteAfterTheirToken(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context) {
		store := new(sharetest.Store)
		f := found("T1")
		f.Age = 10 * time.Minute
		replica(t, ctx, store).Save(ctx, f)
		name, _ := only(t, store)
		if life := store.Life(name); life != 51*time.Minute {
			t.Errorf("the record lives for %v", life)
		}
	})
}

// Neither names nor values show anything of what they are about.
func TestStoreSeesNothing(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context) {
		store := new(sharetest.Store)
		c := replica(t, ctx, store)
		c.Save(ctx, found("T0k3n"))
		wantClaim(t, ctx, c, token.ClaimWon, "s")
		values := store.Values()
		if len(values) != 2 {
			t.Errorf("%d values", len(values))
		}
		for name, value := range values {
			if !strings.HasPrefix(name, c.Folder()+"/") {
				t.Errorf("name %q", name)
			}
			for _, secret := range []string{"T0k3n", "client", "example", "oauth2", "region", "file", "aaaa", process} {
				if strings.Contains(name, secret) || bytes.Contains(value, []byte(secret)) {
					t.Errorf("%q or its value shows %q", name, secret)
				}
			}
		}
	})
}

func TestNames(t *testing.T) {
	n := names{"checkout", "oauth2", "https://login.example.com/token", "client"}
	k := ring(t, keyA).current().sealing()
	// Replicas of all versions have to agree on these.
	if got, want := n.recordName("", k), "token_proxy/v1/80759ba553eca27dad988b3db8b27594/token-26bd2436"; got != want {
		t.Errorf("record %s, want %s", got, want)
	}
	if got, want := n.claimName("x"), "token_proxy/v1/150d4f6ba0a8252c1ecd1fbc95feedf2/claim"; got != want {
		t.Errorf("claim %s, want %s", got, want)
	}
}

// FuzzOpen opens what a hostile store or a hostile holder of the key could leave.
func FuzzOpen(f *testing.F) {
	at := place{"token_proxy/v1/x/token-y", token.NewSecret("identity")}
	keys := *ring(f, keyA, keyB).current()
	record := newRecord(found("T1"), time.UnixMilli(1_800_000_000_000))
	f.Add(at.seal(keys[0], record.text()), record.text())
	claim := []byte(`{"o":"process.1","a":1800000000000,"h":60000,"p":"AAAAAAAAAAA="}`)
	f.Add(at.seal(keys[1], claim), claim)
	f.Add([]byte{version}, []byte(`{"o":"x","h":9223372036854775807}`))
	f.Add([]byte{version}, []byte(`{"a":-9223372036854775808,"l":1e400,"r":null,"t":""}`))
	f.Fuzz(func(t *testing.T, value, text []byte) {
		if plain, _, unopened := at.open(keys, value); unopened == opened {
			if !bytes.Equal(plain, record.text()) && !bytes.Equal(plain, claim) {
				t.Errorf("%q was forged", plain)
			}
		}
		sealed := at.seal(keys[0], text)
		if len(text) < maxValue/2 && sealed == nil {
			t.Fatal("not sealed")
		}
		if sealed == nil {
			return
		}
		plain, _, unopened := at.open(keys, sealed)
		if unopened != opened || !bytes.Equal(plain, text) {
			t.Fatalf("opened %q, %v", plain, unopened)
		}
		if r, ok := parseRecord(plain); ok {
			found, ahead := r.found(time.Now())
			for _, d := range []time.Duration{found.Age, found.Lifetime, found.RefreshIn, ahead} {
				if d < 0 || d > longest {
					t.Errorf("out of bounds: %+v, %v", found, ahead)
				}
			}
		}
		if s, unopened := openClaim(at, keys, sealed); unopened == opened && (s.hold() < 0 || s.hold() > maxHold) {
			t.Errorf("hold %v", s.hold())
		}
	})
}

// BenchmarkSealAndOpen is to take at most 20 µs, for 1.5 KB.
func BenchmarkSealAndOpen(b *testing.B) {
	at := place{"token_proxy/v1/0123456789abcdef0123456789abcdef/token-01234567", spec().Identity}
	keys := *ring(b, keyA).current()
	text := bytes.Repeat([]byte("T"), 1500)
	for b.Loop() {
		if _, _, unopened := at.open(keys, at.seal(keys[0], text)); unopened != opened {
			b.Fatal(unopened)
		}
	}
}

// BenchmarkRecord is the rest of what it takes to save and load a token of 1.5 KB.
func BenchmarkRecord(b *testing.B) {
	f, now := found(strings.Repeat("T", 1500)), time.Now()
	for b.Loop() {
		if _, ok := parseRecord(newRecord(f, now).text()); !ok {
			b.Fatal("not read")
		}
	}
}

// Replicas of all versions have to open this. Another implementation has sealed it.
func TestSealedForm(t *testing.T) {
	at := place{"token_proxy/v1/x/token-y", token.NewSecret("identity")}
	sealed, err := hex.DecodeString("0126bd2436000102030405060708090a0bc3e8cfd7afbac3bc91086484bc77b718a1635fa33d11059d110d")
	if err != nil {
		t.Fatal(err)
	}
	if text, _, unopened := at.open(*ring(t, keyA).current(), sealed); unopened != opened || string(text) != `{"t":"T1"}` {
		t.Errorf("opened %q, %d", text, unopened)
	}
}
