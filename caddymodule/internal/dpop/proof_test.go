package dpop

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"
)

// FuzzProof compares the JSON that is written by hand with what go-jose and encoding/json read.
func FuzzProof(f *testing.F) {
	key := newKey(f, "EdDSA") // the fastest
	f.Add("GET", "https://api.example.com/a/b", int64(1700000000), "a-token", "a-nonce")
	f.Add("", "", int64(0), "", "")
	f.Add("POST", `"\`+"\x00\x7f\u2028<>&", int64(-1), "\xff", `"`)
	f.Fuzz(func(t *testing.T, method, target string, at int64, token, nonce string) {
		if !utf8.ValidString(method + " " + target + " " + nonce) { // which no request has, and JSON cannot show
			return
		}
		proof, err := key.Proof(Claims{Method: method, Target: target, Time: time.Unix(at, 0), Token: token, Nonce: nonce})
		if err != nil {
			t.Fatal(err)
		}
		got, _ := verify(t, proof)
		if got.Method != method || got.Target != target || got.Time != at || got.Nonce != nonce || (got.Digest != "") != (token != "") {
			t.Errorf("the claims are %+v", got)
		}
	})
}

// TestIDsAreUnique reads the jti of ten million proofs of one key. Each ends with the next number after the same text.
func TestIDsAreUnique(t *testing.T) {
	key, other := newKey(t, "ES256"), newKey(t, "ES256")
	id := func(k *Key) string {
		var room [64]byte
		text, _ := strings.CutPrefix(string(k.appendID(room[:0])), `{"jti":"`)
		return strings.TrimSuffix(text, `"`)
	}
	series := strings.TrimRight(id(key), "1")
	if len(series) < 26 || strings.HasPrefix(id(other), series) { // 26 characters of crypto/rand.Text are at least 128 bits
		t.Fatalf("the jti of two keys begin with %s", series)
	}
	for n := uint64(2); n <= 10_000_000; n++ {
		rest, ok := strings.CutPrefix(id(key), series)
		if got, err := strconv.ParseUint(rest, 36, 64); !ok || err != nil || got != n {
			t.Fatalf("jti number %d ends with %q", n, rest)
		}
	}
}

// Proofs that are made at the same time have different jti, too.
func TestIDsAreUniqueInParallel(t *testing.T) {
	key := newKey(t, "ES256")
	const goroutines, each = 8, 10_000
	ids := make([][]string, goroutines)
	var wg sync.WaitGroup
	for g := range ids {
		wg.Go(func() {
			for range each {
				ids[g] = append(ids[g], string(key.appendID(nil)))
			}
		})
	}
	wg.Wait()
	all := slices.Sorted(slices.Values(slices.Concat(ids...)))
	if got := len(slices.Compact(all)); got != goroutines*each {
		t.Errorf("%d of %d jti differ", got, goroutines*each)
	}
}

func BenchmarkProof(b *testing.B) {
	for _, alg := range []string{"ES256", "EdDSA", "PS256"} {
		b.Run(alg, func(b *testing.B) {
			prover := new(Client).ForAPI(newKey(b, alg))
			req := request(b, "GET", "https://api.example.com/v1/orders/4711?expand=lines")
			b.ReportAllocs()
			for b.Loop() {
				if _, err := prover.Prove(req, "", exampleToken, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// The signature of crypto/ecdsa alone costs 63 allocations with Go 1.26. This package adds at most 12.
func TestProofAllocations(t *testing.T) {
	key := newKey(t, "ES256")
	prover := new(Client).ForAPI(key)
	req := request(t, "GET", "https://api.example.com/v1/orders/4711?expand=lines")
	prover.Learn(&Proof{server: " " + Origin(req)}, http.Header{"Dpop-Nonce": {"eyJ7S_zG.eyJH0-Z.HX4w-7v"}}, false)
	text := []byte(strings.Repeat("x", 512))
	signature := testing.AllocsPerRun(100, func() {
		if _, err := key.sign(text); err != nil {
			t.Fatal(err)
		}
	})
	proof := testing.AllocsPerRun(100, func() {
		if _, err := prover.Prove(req, "", exampleToken, nil); err != nil {
			t.Fatal(err)
		}
	})
	if proof > signature+12 {
		t.Errorf("a proof costs %v allocations, its signature %v", proof, signature)
	}
}
