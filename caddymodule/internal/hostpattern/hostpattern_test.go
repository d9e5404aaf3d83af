package hostpattern

import (
	"net/netip"
	"testing"
)

func TestHostPatternParsing(t *testing.T) {
	t.Setenv("TOKEN_PROXY_TEST_HOST", "API.example.com.")
	for text, want := range map[string]Pattern{
		"api.example.com":             {Host: "api.example.com"},
		"API.Example.COM":             {Host: "api.example.com"},
		"api.example.com.":            {Host: "api.example.com"},
		"api.example.com:8443":        {Host: "api.example.com", Port: "8443"},
		"*.example.com":               {Host: "example.com", Subdomain: true},
		"*.Example.com.:8443":         {Host: "example.com", Port: "8443", Subdomain: true},
		"127.0.0.1":                   {Host: "127.0.0.1"},
		"127.0.0.1:80":                {Host: "127.0.0.1", Port: "80"},
		"[::1]":                       {Host: "::1"},
		"[::1]:8443":                  {Host: "::1", Port: "8443"},
		"::1":                         {Host: "::1"},
		"{env.TOKEN_PROXY_TEST_HOST}": {Host: "api.example.com"},
		"10.0.0.0/8":                  {Addresses: netip.MustParsePrefix("10.0.0.0/8")},
		"10.1.2.3/8":                  {Addresses: netip.MustParsePrefix("10.0.0.0/8")},
		"::ffff:10.0.0.0/104":         {Addresses: netip.MustParsePrefix("10.0.0.0/8")},
		"fd00::/8":                    {Addresses: netip.MustParsePrefix("fd00::/8")},
		"unix//run/api.sock":          {Socket: "/run/api.sock"},
		"unix/@api":                   {Socket: "@api"},
	} {
		if got, err := ParseOne(text); err != nil || got != want {
			t.Errorf("api_hosts %s: got %+v, %v, want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", ".", "*", "*.", "*.*.example.com", "a.*.example.com", "ex*mple.com", "*example.com", "https://example.com",
		"example.com/", "user@example.com", "example.com?a", "example.com#a", "{env.TOKEN_PROXY_TEST_NOT_SET}",
		"{http.request.host}", ":8080",
		"10.0.0.0/33", "10.0.0.0/8:80", "[fd00::/8]:443", "*.10.0.0.0/8", "unix/", "udp/127.0.0.1:53", "tcp/127.0.0.1",
	} {
		if got, err := ParseOne(text); err == nil {
			t.Errorf("api_hosts %q was taken as %+v", text, got)
		}
	}
}
