package oauth

import (
	"crypto/elliptic"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
)

func BenchmarkAnswerRead(b *testing.B) {
	claims := `{"access_token":"` + jwtWith(`{"exp": 1700003600}`) + `","token_type":"Bearer"}`
	for name, bench := range map[string]struct {
		answer *Answer
		layout Layout
	}{
		"RFC 6749":         {jsonAnswer(`{"access_token":"` + strings.Repeat("x", 1024) + `","token_type":"Bearer","expires_in":3600}`), both},
		"below data":       {jsonAnswer(`{"data":{"access_token":"a-token","expires_in":3600}}`), both},
		"a form":           {answerOf(200, "application/x-www-form-urlencoded", "access_token=a-token&expires_in=3600"), both},
		"a JWT's lifetime": {jsonAnswer(claims), both},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := bench.answer.Read(bench.layout); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkAssertionSign(b *testing.B) {
	a := Assertion{Type: TypeJWT, Issuer: "client", Subject: "client", Audience: "https://as.example/token"}
	for name, k := range map[string]SigningKey{
		"RS256": {key: rsa2048(), alg: jose.RS256},
		"ES256": {key: ecKey(elliptic.P256()), alg: jose.ES256},
		"EdDSA": {key: edKey(), alg: jose.EdDSA},
		"HS256": {key: []byte(strings.Repeat("s", 32)), alg: jose.HS256},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := a.Sign(k); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
