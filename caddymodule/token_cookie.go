package caddymodule

import (
	"slices"
	"strings"
)

// cookieNames returns the names in a list of cookies (RFC 6265 section 4.2.1).
func cookieNames(list string) (names []string) {
	for cookie := range strings.SplitSeq(list, ";") {
		if name, _, ok := strings.Cut(cookie, "="); ok {
			names = append(names, strings.TrimSpace(name))
		}
	}
	return names
}

// haveCookie reports whether Cookie fields have one of the cookies.
func haveCookie(fields, names []string) bool {
	return slices.ContainsFunc(fields, func(field string) bool {
		return slices.ContainsFunc(cookieNames(field), func(name string) bool { return slices.Contains(names, name) })
	})
}

// withCookies returns a Cookie field that has our cookies in place of those with the same names, after all others. A request
// has one such field (RFC 6265 section 5.4).
func withCookies(fields, names, ours []string) []string {
	var others []string
	for _, field := range fields {
		for cookie := range strings.SplitSeq(field, ";") {
			if cookie = strings.TrimSpace(cookie); cookie != "" && !haveCookie([]string{cookie}, names) {
				others = append(others, cookie)
			}
		}
	}
	if len(others) == 0 {
		return ours
	}
	return []string{strings.Join(append(others, ours...), "; ")}
}
