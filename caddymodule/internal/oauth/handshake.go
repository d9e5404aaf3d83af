package oauth

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"reflect"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// The alerts that have a cause of their own (RFC 8446 section 6).
const (
	alertHandshakeFailure     tls.AlertError = 40
	alertBadCertificate       tls.AlertError = 42
	alertRevoked              tls.AlertError = 44
	alertExpired              tls.AlertError = 45
	alertCertificateUnknown   tls.AlertError = 46
	alertUnknownAuthority     tls.AlertError = 48
	alertAccessDenied         tls.AlertError = 49
	alertProtocolVersion      tls.AlertError = 70
	alertInsufficientSecurity tls.AlertError = 71
	alertNoRenegotiation      tls.AlertError = 100
	alertUnrecognizedName     tls.AlertError = 112
	alertCertificateRequired  tls.AlertError = 116
)

// certificateTrouble returns the trouble for a certificate of the peer that the client does not accept.
func certificateTrouble(err error) (trouble, bool) {
	if is[x509.UnknownAuthorityError](err) || is[x509.SystemRootsError](err) {
		return trouble{token.CauseAuthority, "the certificate of %s is signed by an authority that is not trusted here"}, true
	}
	if host, ok := errors.AsType[x509.HostnameError](err); ok {
		if c := host.Certificate; c != nil && len(c.DNSNames) == 0 && len(c.IPAddresses) == 0 {
			return trouble{token.CauseCertificate, "the certificate of %s names no host in its field subjectAltName"}, true
		}
		return trouble{token.CauseHost, "the certificate of %s is for another host"}, true
	}
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok {
		return invalidTrouble(invalid), true
	}
	if is[*tls.CertificateVerificationError](err) {
		return trouble{token.CauseCertificate, "the certificate of %s is not valid"}, true
	}
	return trouble{}, false
}

// invalidTrouble explains an invalid certificate. crypto/x509 has one reason for certificates that have expired and for those
// that are not valid yet.
func invalidTrouble(err x509.CertificateInvalidError) trouble {
	switch {
	case err.Reason == x509.Expired && err.Cert != nil && time.Now().Before(err.Cert.NotBefore):
		return trouble{token.CauseNotYetValid, "the certificate of %s, or of its authority, is not valid yet by the clock of this machine"}
	case err.Reason == x509.Expired:
		return trouble{token.CauseExpired, "the certificate of %s, or of its authority, has expired by the clock of this machine"}
	case err.Reason == x509.IncompatibleUsage:
		return trouble{token.CauseCertificate, "the certificate of %s is not one for servers"}
	default:
		return trouble{token.CauseCertificate, "the certificate of %s is not valid"}
	}
}

// handshakeTrouble returns the trouble for a TLS handshake that one side ended.
func (o observed) handshakeTrouble(err error) (trouble, bool) {
	if is[tls.RecordHeaderError](err) {
		return trouble{token.CauseTLS, "%s does not speak TLS on this port"}, true
	}
	side, alert := alertOf(err)
	switch {
	case side == remoteAlert:
		return o.remoteTrouble(alert), true
	case side == localAlert && alert == alertNoRenegotiation:
		return o.renegotiation(), true
	case side == localAlert && alert == alertProtocolVersion, o.alert == alertProtocolVersion:
		return trouble{token.CauseVersion, "%s supports no version of TLS from 1.2 on"}, true
	case side == localAlert, o.stage == stageHandshake && o.alert != 0:
		return trouble{token.CauseHandshake, "the TLS handshake of %s does not follow the protocol"}, true
	}
	return trouble{}, false
}

func (o observed) renegotiation() trouble {
	if o.once {
		return trouble{token.CauseRenegotiation, "%s starts further TLS handshakes, and tls_renegotiation is once"}
	}
	return trouble{token.CauseRenegotiation, "%s starts another TLS handshake, and tls_renegotiation is never"}
}

// remoteTrouble explains an alert of the peer.
func (o observed) remoteTrouble(alert tls.AlertError) trouble {
	switch {
	case alert == alertCertificateRequired && !o.shown, o.asked && !o.shown && aboutClient(alert):
		return trouble{token.CauseClientCertificate, "%s requires a client certificate, and the credential has none"}
	case alert == alertProtocolVersion:
		return trouble{token.CauseVersion, "%s supports no version of TLS from 1.2 on"}
	case alert == alertUnrecognizedName:
		return trouble{token.CauseServerName, "%s knows no host with the name in the TLS handshake"}
	case o.shown && alert == alertExpired:
		return trouble{token.CauseClientCertificateRefused, "%s refused the client certificate, because it has expired"}
	case o.shown && alert == alertRevoked:
		return trouble{token.CauseClientCertificateRefused, "%s refused the client certificate, because it is revoked"}
	case o.shown && alert == alertUnknownAuthority:
		return trouble{token.CauseClientCertificateRefused, "%s refused the client certificate, because it does not know its authority"}
	case o.shown && aboutClient(alert) && alert != alertHandshakeFailure:
		return trouble{token.CauseClientCertificateRefused, "%s refused the client certificate"}
	case alert == alertHandshakeFailure, alert == alertInsufficientSecurity:
		return trouble{token.CauseCipher, "%s found no cipher or other TLS parameters in common"}
	default:
		return trouble{token.CauseHandshake, "%s broke off the TLS handshake"}
	}
}

// aboutClient reports whether a server can mean the client certificate by an alert. TLS 1.2 has no alert for a missing one, so
// servers send handshake_failure (RFC 5246 section 7.4.6) or bad_certificate.
func aboutClient(alert tls.AlertError) bool {
	return alert == alertHandshakeFailure || alert == alertCertificateRequired || alert == alertUnknownAuthority || alert == alertAccessDenied ||
		alertBadCertificate <= alert && alert <= alertCertificateUnknown
}

// The operations of the OpError that crypto/tls returns for an alert.
const (
	remoteAlert = "remote error"
	localAlert  = "local error"
)

// alertOf returns which side sent an alert, and the alert; "" without one. The type of the alert is not exported for TCP, but
// its kind is that of tls.AlertError.
func alertOf(err error) (side string, alert tls.AlertError) {
	op, ok := errors.AsType[*net.OpError](err)
	for ok && op.Op != remoteAlert && op.Op != localAlert { // within that of the network proxy
		op, ok = errors.AsType[*net.OpError](op.Err)
	}
	if !ok {
		return "", 0
	}
	if v := reflect.ValueOf(op.Err); v.Kind() == reflect.Uint8 {
		return op.Op, tls.AlertError(v.Uint())
	}
	return "", 0
}

func is[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}
