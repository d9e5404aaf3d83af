package dpop

import (
	"net/http"
	"net/url"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// Target returns the URL of a request for the claim htu, which has neither query nor fragment. The host is the one that the
// server gets in Host. The URL has the normal form of RFC 3986 sections 6.2.2 and 6.2.3, which servers compare by RFC 9449
// section 4.3. A server that compares the texts as they are finds no difference to a URL that is in this form already.
func Target(req *http.Request) string {
	return Origin(req) + normalPath(req.URL)
}

// Origin returns the scheme and the host of a request, in normal form.
func Origin(req *http.Request) string {
	host := req.Host
	if host == "" {
		host = req.URL.Host
	}
	scheme := strings.ToLower(req.URL.Scheme)
	return scheme + "://" + normalHost(scheme, host)
}

// normalHost returns a host in lower case, and without its port if that is the scheme's own.
func normalHost(scheme, host string) string {
	if ascii, err := httpguts.PunycodeHostPort(host); err == nil { // which is what net/http sends
		host = ascii
	}
	host = strings.ToLower(host)
	standard := ":80"
	if scheme == "https" {
		standard = ":443"
	}
	host = strings.TrimSuffix(strings.TrimSuffix(host, standard), ":")
	if zone := strings.IndexByte(host, '%'); zone >= 0 && strings.HasPrefix(host, "[") { // which net/http does not send
		if end := strings.IndexByte(host[zone:], ']'); end >= 0 {
			host = host[:zone] + host[zone+end:]
		}
	}
	return host
}

// normalPath returns the path of a URL as it is sent, in normal form.
func normalPath(u *url.URL) string {
	path := normalEscapes(u.EscapedPath())
	if strings.Contains(path, "/.") {
		path = withoutDots(path)
	}
	if !strings.HasPrefix(path, "/") {
		return "/" + strings.TrimPrefix(path, "*") // the target of OPTIONS * is the server itself (RFC 9110 section 7.1)
	}
	return path
}

// normalEscapes decodes the unreserved characters of a path, and writes the other escapes in capitals.
func normalEscapes(path string) string {
	if !strings.Contains(path, "%") {
		return path
	}
	var b strings.Builder
	for i := 0; i < len(path); i++ {
		if path[i] != '%' || i+2 >= len(path) {
			b.WriteByte(path[i])
			continue
		}
		if c := unhex(path[i+1])<<4 | unhex(path[i+2]); isUnreserved(c) {
			b.WriteByte(c)
		} else {
			b.WriteString(strings.ToUpper(path[i : i+3]))
		}
		i += 2
	}
	return b.String()
}

// isUnreserved reports whether a character never needs an escape (RFC 3986 section 2.3).
func isUnreserved(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-._~", c) >= 0
}

// unhex returns the value of a hexadecimal digit. The escapes of a URL have been checked.
func unhex(c byte) byte {
	switch {
	case c <= '9':
		return c - '0'
	case c <= 'F':
		return c - 'A' + 10
	default:
		return c - 'a' + 10
	}
}

// withoutDots removes the segments "." and ".." from a path (RFC 3986 section 5.2.4).
func withoutDots(path string) string {
	var kept []string
	segments := strings.Split(strings.TrimPrefix(path, "/"), "/")
	for i, segment := range segments {
		last := i == len(segments)-1
		switch segment {
		case ".":
		case "..":
			kept = kept[:max(0, len(kept)-1)]
		default:
			kept = append(kept, segment)
			continue
		}
		if last { // the path ends with a slash
			kept = append(kept, "")
		}
	}
	return "/" + strings.Join(kept, "/")
}
