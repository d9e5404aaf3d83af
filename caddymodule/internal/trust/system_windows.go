package trust

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"unsafe"

	"golang.org/x/sys/windows"
)

// system reads the store of root certificates of the machine and the user. Windows adds an authority to it when a program
// first needs it, so the store of a new machine has few.
func system(string) (Authorities, error) {
	store, err := windows.CertOpenSystemStore(0, windows.StringToUTF16Ptr("ROOT"))
	if err != nil {
		return Authorities{}, fmt.Errorf("opening the certificate store ROOT: %w", err)
	}
	defer windows.CertCloseStore(store, 0)
	found := Authorities{From: "the certificate store ROOT"}
	var next *windows.CertContext
	for {
		next, err = windows.CertEnumCertificatesInStore(store, next)
		if errors.Is(err, windows.Errno(windows.CRYPT_E_NOT_FOUND)) || err == nil && next == nil {
			return found, nil
		}
		if err != nil {
			return Authorities{}, fmt.Errorf("reading the certificate store ROOT: %w", err)
		}
		der := slices.Clone(unsafe.Slice(next.EncodedCert, next.Length)) // Windows frees its copy at the next call
		if cert, err := x509.ParseCertificate(der); err == nil {
			found.Certificates = append(found.Certificates, cert)
		}
	}
}
