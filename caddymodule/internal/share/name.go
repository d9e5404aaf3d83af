package share

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// names is what the replicas that use one credential have in common, by which they find each other. Nothing in it is
// secret, and the store sees only a digest of it.
type names struct{ group, provider, endpoint, clientID string }

// folder returns where the replicas with this thumbprint keep what they share.
func (n names) folder(thumbprint string) string {
	h := sha256.New()
	for _, part := range []string{n.group, n.provider, n.endpoint, n.clientID, thumbprint} {
		_, _ = h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part))))
		_, _ = h.Write([]byte(part))
	}
	return "token_proxy/v1/" + hex.EncodeToString(h.Sum(nil)[:16])
}

// recordName has the key's id in it, so that replicas with different keys do not overwrite each other's records.
func (n names) recordName(thumbprint string, k *key) string {
	return n.folder(thumbprint) + "/token-" + hex.EncodeToString(k.id[:])
}

// claimName has no key's id in it: replicas whose keys are being rotated have their claims in common.
func (n names) claimName(thumbprint string) string { return n.folder(thumbprint) + "/claim" }

// binding is what a token may be bound to: a client certificate (RFC 8705), a key that proofs are made with (RFC 9449), or both.
type binding struct {
	certificate *tls.Certificate
	prover      token.Prover
}

// thumbprint returns the x5t#S256 of the certificate (RFC 7515 section 4.1.8) and the jkt of the key (RFC 9449 section 6.1), or
// "" if there is neither.
func (b binding) thumbprint() string {
	var thumbprint string
	if b.certificate != nil && len(b.certificate.Certificate) > 0 {
		sum := sha256.Sum256(b.certificate.Certificate[0])
		thumbprint = base64.RawURLEncoding.EncodeToString(sum[:])
	}
	if b.prover != nil {
		thumbprint += "+" + b.prover.Thumbprint()
	}
	return thumbprint
}

// bindingOf returns what a token may be bound to.
func bindingOf(issued token.Issued) binding { return binding{issued.Certificate, issued.Prover} }
