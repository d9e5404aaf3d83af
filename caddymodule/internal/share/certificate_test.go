package share

import (
	"context"
	"crypto/tls"
	"testing"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/share/sharetest"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// certificate returns the certificate of a client, as far as this package reads it.
func certificate(der string) func() *tls.Certificate {
	c := &tls.Certificate{Certificate: [][]byte{[]byte(der)}}
	return func() *tls.Certificate { return c }
}

// A token that is bound to a certificate is of no use to a replica with another.
func TestCertificateBoundTokens(t *testing.T) {
	stores(t, func(t *testing.T, s Store, memory *sharetest.Store) {
		bubble(t, func(t *testing.T, ctx context.Context) {
			share := Share{Ring: ring(t, keyA), Guard: guard(ctx, s)}
			with := func(certificate func() *tls.Certificate) *Credential {
				return share.Credential(spec(func(s *Spec) { s.Certificate = certificate }))
			}
			present := certificate("one")
			one := with(func() *tls.Certificate { return present() })
			same, other, none := with(certificate("one")), with(certificate("two")), with(nil)

			f := found("T1")
			f.Issued.Certificate = present()
			one.Save(ctx, f)
			got, ok := same.Load(ctx)
			if !ok || got.Issued.Certificate != same.spec.Certificate() {
				t.Errorf("with the same certificate: %v, certificate %p", ok, got.Issued.Certificate)
			}
			if loads(ctx, other) != "" || loads(ctx, none) != "" {
				t.Error("a replica with another certificate, or with none, finds the token")
			}
			wantClaim(t, ctx, one, token.ClaimWon, "s")
			wantClaim(t, ctx, same, token.ClaimLost, "s")
			wantClaim(t, ctx, other, token.ClaimWon, "s")

			// The certificate is renewed during a call.
			present = certificate("two")
			f.Issued.Token = token.NewSecret("T2")
			one.Save(ctx, f)
			if a, b := loads(ctx, same), loads(ctx, other); a != "T2" || b != "" {
				t.Errorf("found %q and %q", a, b)
			}
			one.Release(ctx, 0, token.Secret{})
			wantClaim(t, ctx, same, token.ClaimWon, "s")
		})
	})
}

// The name is not all that keeps the tokens of two certificates apart.
func TestRecordOfAnotherCertificateIsNotUsed(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context) {
		store := new(sharetest.Store)
		c := replica(t, ctx, store)
		f := found("T1")
		f.Issued.Certificate = certificate("one")()
		k := c.share.Ring.current().sealing()
		at := place{c.names.recordName("", k), c.spec.Identity}
		store.Put(at.name, at.seal(k, newRecord(f, time.Now()).text()))
		if loads(ctx, c) != "" || c.distrusts() {
			t.Error("the record is used, or distrusted")
		}
	})
}
