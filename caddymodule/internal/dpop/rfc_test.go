package dpop

import (
	"crypto/sha256"
	"encoding/json"
	"strings"
	"testing"
	"time"
)

// The examples of RFC 9449: the proofs of figures 2 and 13, the access token of figure 5 and the thumbprint of figure 9.
const (
	exampleTokenProof = "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0RscEJoRjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19.eyJqdGkiOiItQndDM0VTYzZhY2MybFRjIiwiaHRtIjoiUE9TVCIsImh0dSI6Imh0dHBzOi8vc2VydmVyLmV4YW1wbGUuY29tL3Rva2VuIiwiaWF0IjoxNTYyMjYyNjE2fQ.2-GxA6T8lP4vfrg8v-FdWP0A0zdrj8igiMLvqRMUvwnQg4PtFLbdLXiOSsX0x7NVY-FNyJK70nfbV37xRZT3Lg"
	exampleAPIProof   = "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0RscEJoRjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19.eyJqdGkiOiJlMWozVl9iS2ljOC1MQUVCIiwiaHRtIjoiR0VUIiwiaHR1IjoiaHR0cHM6Ly9yZXNvdXJjZS5leGFtcGxlLm9yZy9wcm90ZWN0ZWRyZXNvdXJjZSIsImlhdCI6MTU2MjI2MjYxOCwiYXRoIjoiZlVIeU8ycjJaM0RaNTNFc05yV0JiMHhXWG9hTnk1OUlpS0NBcWtzbVFFbyJ9.2oW9RP35yRqzhrtNP86L-Ey71EOptxRimPPToA1plemAgR6pxHF8y6-yqyVnmcw6Fy1dqd-jfxSYoMxhAJpLjA"
	exampleToken      = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU"
	exampleDigest     = "fUHyO2r2Z3DZ53EsNrWBb0xWXoaNy59IiKCAqksmQEo"
	exampleThumbprint = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"
)

func TestExamplesOfRFC9449(t *testing.T) {
	for name, example := range map[string]struct {
		proof string
		want  claims
	}{
		"token request": {exampleTokenProof, claims{ID: "-BwC3ESc6acc2lTc", Method: "POST", Target: "https://server.example.com/token", Time: 1562262616}},
		"API": {exampleAPIProof, claims{ID: "e1j3V_bKic8-LAEB", Method: "GET",
			Target: "https://resource.example.org/protectedresource", Time: 1562262618, Digest: exampleDigest}},
	} {
		got, thumbprint := verify(t, example.proof)
		if got != example.want || thumbprint != exampleThumbprint {
			t.Errorf("%s: the claims are %+v, the thumbprint is %s", name, got, thumbprint)
		}
	}
}

// Our proofs of the same requests have the same claims as the examples, but for the jti, which is new each time.
func TestProofsAreLikeTheExamplesOfRFC9449(t *testing.T) {
	key := newKey(t, "ES256")
	for name, example := range map[string]struct {
		proof, url, token string
	}{
		"token request": {exampleTokenProof, "https://server.example.com/token", ""},
		"API":           {exampleAPIProof, "https://resource.example.org/protectedresource", exampleToken},
	} {
		want, _ := verify(t, example.proof)
		proof, err := key.Proof(Claims{
			Method: want.Method,
			Target: Target(request(t, want.Method, example.url)),
			Time:   time.Unix(want.Time, 999_999_999),
			Token:  example.token,
		})
		if err != nil {
			t.Fatal(err)
		}
		got, thumbprint := verify(t, proof)
		if got.ID == "" || got.ID == want.ID {
			t.Errorf("%s: the jti is %q", name, got.ID)
		}
		got.ID = want.ID
		if got != want || thumbprint != key.Thumbprint() {
			t.Errorf("%s: the claims are %+v, want %+v", name, got, want)
		}
		if names, wanted := members(t, proof), members(t, example.proof); names != wanted {
			t.Errorf("%s: the claims are %s, want %s", name, names, wanted)
		}
	}
}

// members returns the names of a proof's claims.
func members(t *testing.T, proof string) string {
	t.Helper()
	_, rest, _ := strings.Cut(proof, ".")
	payload, _, _ := strings.Cut(rest, ".")
	var object map[string]any
	if err := json.Unmarshal(decoded(t, payload), &object); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, name := range []string{"jti", "htm", "htu", "iat", "ath", "nonce"} {
		if _, ok := object[name]; ok {
			names = append(names, name)
			delete(object, name)
		}
	}
	if len(object) > 0 {
		t.Errorf("further claims: %v", object)
	}
	return strings.Join(names, " ")
}

// The example of RFC 7638 section 3.1, an RSA key.
func TestThumbprintOfRFC7638(t *testing.T) {
	const jwk = `{"e":"AQAB","kty":"RSA","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"}`
	digest := sha256.Sum256([]byte(rsaJWK(exampleRSA(t, jwk))))
	if got := encode(digest[:]); got != "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs" {
		t.Errorf("the thumbprint is %s", got)
	}
}
