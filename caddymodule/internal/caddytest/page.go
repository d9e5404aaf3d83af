package caddytest

import (
	"net"
	"os"
	"regexp"
	"strings"
	"testing"
)

// PageSite is the reference's site for the page.
func PageSite(t *testing.T, reference string) string {
	t.Helper()
	content, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)```caddyfile\n(http://localhost:2020 {.*?)```").FindSubmatch(content)
	if block == nil {
		t.Fatal("the reference has no site for the page")
	}
	return string(block[1])
}

// PageSiteAt is the reference's site with other addresses.
func PageSiteAt(t *testing.T, reference, admin, site string) string {
	t.Helper()
	_, adminPort, _ := net.SplitHostPort(admin)
	_, sitePort, _ := net.SplitHostPort(site)
	return strings.NewReplacer("localhost:2019", "localhost:"+adminPort, "localhost:2020", "localhost:"+sitePort).Replace(PageSite(t, reference))
}
