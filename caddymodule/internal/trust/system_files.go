//go:build !windows

package trust

import (
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// The places where crypto/x509 looks for the authorities of a Linux system. macOS keeps a file at the last path, for
// programs that do not ask its keychains.
var (
	systemFiles = []string{
		"/etc/ssl/certs/ca-certificates.crt",                // Debian, Ubuntu, Gentoo
		"/etc/pki/tls/certs/ca-bundle.crt",                  // Fedora, RHEL 6
		"/etc/ssl/ca-bundle.pem",                            // OpenSUSE
		"/etc/pki/tls/cacert.pem",                           // OpenELEC
		"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", // CentOS, RHEL 7
		"/etc/ssl/cert.pem",                                 // Alpine, macOS
	}
	systemFolders = []string{"/etc/ssl/certs", "/etc/pki/tls/certs"}
)

// system reads the file of the system's authorities and, only if the system has no such file, the folders. SSL_CERT_FILE and
// SSL_CERT_DIR replace the places, as they do for crypto/x509. In contrast to crypto/x509, system does not read the
// folders beside the file, because they also have certificates that no distribution counts as authorities, such as
// Debian's ssl-cert-snakeoil.pem.
func system(output string) (Authorities, error) {
	if file := os.Getenv("SSL_CERT_FILE"); file != "" && !sameFile(file, output) {
		content, err := os.ReadFile(file)
		if err != nil {
			return Authorities{}, fmt.Errorf("SSL_CERT_FILE: %w", err)
		}
		return Authorities{parse(content), file}, nil
	}
	if folders := os.Getenv("SSL_CERT_DIR"); folders != "" {
		return fromFolders(strings.Split(folders, ":")), nil
	}
	for _, file := range systemFiles {
		if content, err := os.ReadFile(file); err == nil && !sameFile(file, output) {
			return Authorities{parse(content), file}, nil
		}
	}
	return fromFolders(systemFolders), nil
}

// fromFolders reads all files in the folders.
func fromFolders(folders []string) Authorities {
	var certificates []*x509.Certificate
	for _, folder := range folders {
		entries, _ := os.ReadDir(folder) // as crypto/x509, it skips what it cannot read
		for _, entry := range entries {
			if content, err := os.ReadFile(filepath.Join(folder, entry.Name())); err == nil {
				certificates = append(certificates, parse(content)...)
			}
		}
	}
	return Authorities{certificates, strings.Join(folders, " and ")}
}

func sameFile(a, b string) bool {
	one, err := os.Stat(a)
	if err != nil {
		return false
	}
	two, err := os.Stat(b)
	return err == nil && os.SameFile(one, two)
}
