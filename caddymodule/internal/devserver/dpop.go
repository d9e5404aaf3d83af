package devserver

import (
	"cmp"
	"crypto"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
)

const (
	dpopOff      = "off"
	dpopOptional = "optional"
	dpopRequired = "required"
)

// proofWindow is how far the iat of a proof may be from the time of the server, in both directions.
const proofWindow = time.Minute

// dpopAlgs are the algorithms that a proof may have. They are asymmetric (RFC 9449, section 4.3, item 5).
var dpopAlgs = slices.DeleteFunc(slices.Clone(signingAlgs), isHMAC)

// DPoP describes the DPoP proofs that a server demands (RFC 9449). The zero DPoP demands none.
type DPoP struct {
	// Whether the client must prove that it has the key of the token: off (proofs are ignored), optional or required.
	// Default: off.
	Mode string `json:"mode,omitempty"`

	// Whether a proof must have a nonce of this server (RFC 9449, sections 8 and 9). Default: false.
	Nonce bool `json:"nonce,omitempty"`

	// The algorithms that a proof may be signed with. Default: RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384,
	// ES512, EdDSA.
	Algs []string `json:"algs,omitempty"`

	// Ahead is how far the clock of the server is ahead, for the iat of proofs and for the header field Date. It may be
	// negative. Default: 0.
	Ahead time.Duration `json:"-"`
}

// now is the time of the server.
func (d *DPoP) now() time.Time { return time.Now().Add(d.Ahead) }

// header returns the header fields of each answer, which tell the client what its next proof needs.
func (p *proofs) header(d *DPoP) map[string]string {
	header := make(map[string]string)
	if d.Nonce {
		header["DPoP-Nonce"] = p.nonces.now() // RFC 9449, section 8.2
	}
	if d.Ahead != 0 {
		header["Date"] = d.now().UTC().Format(http.TimeFormat)
	}
	return header
}

func (d *DPoP) on() bool { return d.Mode == dpopOptional || d.Mode == dpopRequired }

func (d *DPoP) algs() []string {
	if d.Algs == nil {
		return dpopAlgs
	}
	return d.Algs
}

// validate returns an error that names the first wrong option.
func (d *DPoP) validate() error {
	switch {
	case !slices.Contains([]string{"", dpopOff, dpopOptional, dpopRequired}, d.Mode):
		return fmt.Errorf("dpop %q: must be %s, %s or %s", d.Mode, dpopOff, dpopOptional, dpopRequired)
	case d.Nonce && !d.on():
		return fmt.Errorf("dpop: nonce needs %s or %s", dpopOptional, dpopRequired)
	case d.Algs != nil && !d.on():
		return fmt.Errorf("dpop_algs: needs dpop %s or %s", dpopOptional, dpopRequired)
	}
	for _, alg := range d.Algs {
		if !slices.Contains(dpopAlgs, alg) {
			return fmt.Errorf("dpop_algs %q: must be some of %s", alg, strings.Join(dpopAlgs, ", "))
		}
	}
	return nil
}

// proofs remembers what a server needs to check proofs.
type proofs struct {
	jtis   usedJTIs
	nonces nonces
}

// check returns the thumbprint of the key that the proof of a request proves (RFC 9449, section 4.3). It is empty if the
// request has no proof and needs none. token is the token in the request, or empty at a token endpoint.
func (p *proofs) check(d *DPoP, r *http.Request, token string) (thumbprint string, why *refusal) {
	fields := r.Header.Values("DPoP")
	switch {
	case len(fields) == 0 && token == "" && d.Mode == dpopOptional:
		return "", nil
	case len(fields) == 0:
		return "", refuse(invalidDPoPProof, "the header field DPoP is missing")
	case len(fields) > 1:
		return "", refuse(invalidDPoPProof, "the header field DPoP occurs %d times", len(fields))
	}
	claims, thumbprint, err := d.open(fields[0])
	if err == nil {
		err = checkUse(claims, r, token)
	}
	if err != nil {
		return "", refuse(invalidDPoPProof, "%v", err)
	}
	if why := p.checkNonce(d, claims); why != nil {
		return "", why
	}
	if err := p.checkAge(d, claims); err != nil {
		return "", refuse(invalidDPoPProof, "%v", err)
	}
	return thumbprint, nil
}

// open returns the claims of a proof, and the thumbprint of its key (RFC 7638), once typ, alg and the signature are
// right. Its errors do not repeat any part of the proof.
func (d *DPoP) open(compact string) (claims map[string]any, thumbprint string, err error) {
	if !compactJWS.MatchString(compact) {
		return nil, "", errors.New("the proof is not a signed JWT")
	}
	parts := strings.Split(compact, ".")
	header, claims := decodePart(parts[0]), decodePart(parts[1])
	switch {
	case header == nil || claims == nil:
		return nil, "", errors.New("the header or the claims are not a JSON object")
	case header["crit"] != nil:
		return nil, "", errors.New("crit is not supported") // RFC 7515, section 4.1.11
	case header["typ"] != "dpop+jwt":
		return nil, "", errors.New("typ is not dpop+jwt")
	}
	alg, _ := header["alg"].(string)
	if !slices.Contains(d.algs(), alg) {
		return nil, "", fmt.Errorf("alg is not one of %s", strings.Join(d.algs(), ", "))
	}
	key, err := proofKey(header["jwk"], alg)
	if err != nil {
		return nil, "", err
	}
	signed, err := jose.ParseSignedCompact(compact, []jose.SignatureAlgorithm{jose.SignatureAlgorithm(alg)})
	if err != nil {
		return nil, "", errors.New("the proof is not a signed JWT")
	}
	if _, err := signed.Verify(key.Key); err != nil {
		return nil, "", errors.New("the signature is wrong")
	}
	sum, err := key.Thumbprint(crypto.SHA256)
	if err != nil {
		return nil, "", errors.New("jwk has no thumbprint")
	}
	return claims, base64.RawURLEncoding.EncodeToString(sum), nil
}

// privateMembers are the members that only private and symmetric keys have (RFC 7518, section 6; RFC 8037, section 2).
var privateMembers = []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k"}

// proofKey returns the key in the header of a proof.
func proofKey(jwk any, alg string) (key jose.JSONWebKey, err error) {
	members, ok := jwk.(map[string]any)
	if !ok {
		return key, errors.New("jwk is missing or not an object")
	}
	for _, name := range privateMembers {
		if _, there := members[name]; there {
			return key, errors.New("jwk has a private part")
		}
	}
	if json.Unmarshal(encode(members), &key) != nil || !key.Valid() {
		return key, errors.New("jwk is not a key")
	}
	if !slices.Contains((publicKey{public: key.Key}).algs(), alg) {
		return key, errors.New("jwk does not fit alg")
	}
	return key, nil
}

// checkUse demands that a proof was made for a request and its token.
func checkUse(claims map[string]any, r *http.Request, token string) error {
	if err := checkMember(claims, "htm", r.Method); err != nil {
		return err
	}
	htu, ok := claims["htu"].(string)
	if !ok {
		return errors.New("htu is missing or not a string")
	}
	got, err := normalizeHTU(htu)
	if err != nil {
		return err
	}
	if want, err := normalizeHTU(ownURL(r)); err != nil || got != want {
		return errors.New("htu is not the URL of the request")
	}
	if token == "" {
		return nil
	}
	sum := sha256.Sum256([]byte(token))
	return checkMember(claims, "ath", base64.RawURLEncoding.EncodeToString(sum[:]))
}

// normalizeHTU returns a URL in the form in which two URLs are compared (RFC 9449, section 4.3; RFC 3986, sections 6.2.2 and
// 6.2.3). It refuses a query and a fragment, which the client must leave out (RFC 9449, section 4.2).
func normalizeHTU(htu string) (string, error) {
	if strings.ContainsAny(htu, "?#") {
		return "", errors.New("htu has a query or a fragment")
	}
	u, err := url.Parse(htu)
	if err != nil || u.Host == "" || u.User != nil || u.Scheme != "http" && u.Scheme != "https" {
		return "", errors.New("htu is not a URL of HTTP")
	}
	u.RawPath = normalizeEscapes(u.EscapedPath())
	u.Path, _ = url.PathUnescape(u.RawPath) // the path has no broken escapes
	u = u.ResolveReference(u)               // removes dot segments
	host := strings.ToLower(u.Host)
	port := map[string]string{"http": ":80", "https": ":443"}[u.Scheme]
	host = strings.TrimSuffix(strings.TrimSuffix(host, port), ":")
	return u.Scheme + "://" + host + cmp.Or(u.EscapedPath(), "/"), nil
}

// normalizeEscapes decodes escaped characters that need no escape, and writes the others in upper case. The path has no
// broken escapes.
func normalizeEscapes(path string) string {
	var b strings.Builder
	for i := 0; i < len(path); i++ {
		if path[i] != '%' {
			b.WriteByte(path[i])
			continue
		}
		escape := path[i : i+3]
		i += 2
		if c, err := url.PathUnescape(escape); err == nil && strings.Contains(unreserved, c) {
			b.WriteString(c)
			continue
		}
		b.WriteString(strings.ToUpper(escape))
	}
	return b.String()
}

// unreserved are the characters of RFC 3986, section 2.3.
const unreserved = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"

// checkNonce demands a nonce of the server.
func (p *proofs) checkNonce(d *DPoP, claims map[string]any) *refusal {
	if !d.Nonce {
		return nil
	}
	nonce, _ := claims["nonce"].(string)
	if nonce == "" {
		return refuse(useDPoPNonce, "nonce is missing or not a string")
	}
	if !p.nonces.accepts(nonce) {
		return refuse(useDPoPNonce, "nonce is not a current nonce of this server")
	}
	return nil
}

// checkAge demands a recent proof that no earlier request had.
func (p *proofs) checkAge(d *DPoP, claims map[string]any) error {
	iat, ok := timeClaim(claims, "iat")
	jti, _ := claims["jti"].(string)
	switch {
	case !ok:
		return errors.New("iat is missing or not a number")
	case d.now().Sub(iat).Abs() > proofWindow:
		return fmt.Errorf("iat is more than %s from the time of the server", proofWindow)
	case jti == "":
		return errors.New("jti is missing or not a string")
	case !p.jtis.firstUse(jti, time.Now().Add(2*proofWindow+time.Second)):
		return errors.New("jti was used before")
	}
	return nil
}
