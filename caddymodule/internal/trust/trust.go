// Package trust makes one file of the certificate authorities that an application behind the sidecar must trust: those of
// the system, and the sidecar's own. It knows no Caddy.
package trust

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// Authorities are certificates of certificate authorities.
type Authorities struct {
	Certificates []*x509.Certificate

	// From is the file, the folders or the store that has them.
	From string
}

// System returns the authorities that this system trusts. If the system has none, as in an image without files, it returns
// those that the binary contains. Caddy trusts the same in that case. output is the file that the bundle will replace, or
// empty. System does not read it, although SSL_CERT_FILE may name it, because it may have an authority that is no longer
// in use.
func System(output string) (Authorities, error) {
	found, err := system(output)
	if err != nil {
		return Authorities{}, err
	}
	if len(found.Certificates) > 0 {
		return found, nil
	}
	return builtIn(), nil
}

// builtIn returns the authorities of Mozilla that the binary contains. It leaves out those that Mozilla trusts only under
// conditions, because a file of certificates cannot express the conditions.
func builtIn() Authorities {
	found := Authorities{From: "the list of Mozilla in this binary"}
	for root := range bundle.Roots() {
		if root.Constraint != nil {
			continue
		}
		if cert, err := x509.ParseCertificate(root.Certificate); err == nil {
			found.Certificates = append(found.Certificates, cert)
		}
	}
	return found
}

// Bundle returns the certificates as PEM, each once. The first ones come first, so that a program that reads only one
// certificate, such as Java's keytool, reads the first.
func Bundle(certificates ...*x509.Certificate) []byte {
	var out bytes.Buffer
	seen := make(map[string]bool)
	for _, cert := range certificates {
		if seen[string(cert.Raw)] {
			continue
		}
		seen[string(cert.Raw)] = true
		_ = pem.Encode(&out, &pem.Block{Type: certificateBlock, Bytes: cert.Raw}) // a buffer takes everything
	}
	return out.Bytes()
}

const certificateBlock = "CERTIFICATE"

// parse returns the certificates in a PEM file. It skips what crypto/x509 skips: other blocks, blocks with a header, and
// certificates that are not valid.
func parse(content []byte) (certificates []*x509.Certificate) {
	for {
		var block *pem.Block
		if block, content = pem.Decode(content); block == nil {
			return certificates
		}
		if block.Type != certificateBlock || len(block.Headers) > 0 {
			continue
		}
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil {
			certificates = append(certificates, cert)
		}
	}
}

// WriteFile replaces a file in one step, so that no program reads a part of it. Every user may read the file, because
// certificates are public.
func WriteFile(name string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // has no effect after the renaming
	if _, err = f.Write(content); err == nil {
		if err = f.Chmod(0o644); err == nil {
			err = f.Sync()
		}
	}
	if errClose := f.Close(); err == nil {
		err = errClose
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	return os.Rename(f.Name(), name)
}
