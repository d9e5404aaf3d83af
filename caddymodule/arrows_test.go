package caddymodule

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// module is the path that the packages of this module begin with.
const module = "github.com/tokenproxy/caddy-token-proxy/"

// arrows are the imports between the packages of this module, and the only ones. A name that ends in /* stands for all
// packages in the folder.
var arrows = map[string][]string{
	"cmd/token-proxy":                  {"caddymodule"},
	"cmd/token-proxy-bench":            {},
	"examples/provider":                {"caddymodule/provider"},
	"caddymodule":                      {"caddymodule/provider", "caddymodule/providers/*", "caddymodule/stores/*", "caddymodule/devmodules", "caddymodule/httpsproxy", "caddymodule/internal/*"},
	"caddymodule/providers/*":          {"caddymodule/provider", "caddymodule/internal/option", "caddymodule/internal/oauth"},
	"caddymodule/stores/*":             {"caddymodule/internal/share", "caddymodule/internal/option"},
	"caddymodule/provider":             {"caddymodule/internal/oauth", "caddymodule/internal/token"},
	"caddymodule/httpsproxy":           {"caddymodule/internal/hostpattern", "caddymodule/internal/option", "caddymodule/internal/peer"},
	"caddymodule/devmodules":           {"caddymodule/internal/devserver", "caddymodule/internal/option"},
	"caddymodule/internal/peer":        {"caddymodule/internal/hostpattern"},
	"caddymodule/internal/hostpattern": {"caddymodule/internal/option"},
	"caddymodule/internal/dpop":        {},
	"caddymodule/internal/oauth":       {"caddymodule/internal/token"},
	"caddymodule/internal/option":      {"caddymodule/internal/token"},
	"caddymodule/internal/status":      {"caddymodule/internal/token"},
	"caddymodule/internal/share":       {"caddymodule/internal/token"},
	"caddymodule/internal/tenants":     {"caddymodule/provider", "caddymodule/internal/option", "caddymodule/internal/share", "caddymodule/internal/status", "caddymodule/internal/token"},
	"caddymodule/internal/devserver":   {"caddymodule/internal/token"},
	"caddymodule/internal/token":       {},
	"caddymodule/internal/trust":       {},
	"caddymodule/internal/launch":      {},

	// for tests
	"caddymodule/internal/caddytest":           {"caddymodule/internal/devserver"},
	"caddymodule/internal/oidctest":            {},
	"caddymodule/internal/share/sharetest":     {},
	"caddymodule/internal/systemtest":          {},
	"caddymodule/internal/caddytest/apart":     {},
	"caddymodule/internal/caddytest/redistest": {"caddymodule/internal/caddytest"},
}

// TestArrows keeps packages from knowing each other without a reason.
func TestArrows(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, module+"...")
	cmd.Dir = ".."
	list, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(list)) {
		paths := strings.Fields(line)
		from := strings.TrimPrefix(paths[0], module)
		allowed, ok := arrowsFrom(from)
		if !ok {
			t.Errorf("package %s has no arrows: add it", from)
		}
		for _, path := range paths[1:] {
			to, ours := strings.CutPrefix(path, module)
			if ours && !slices.ContainsFunc(allowed, func(pattern string) bool { return stands(pattern, to) }) {
				t.Errorf("package %s imports %s", from, to)
			}
		}
	}
}

func arrowsFrom(pkg string) ([]string, bool) {
	for pattern, to := range arrows {
		if stands(pattern, pkg) {
			return to, true
		}
	}
	return nil, false
}

func stands(pattern, pkg string) bool {
	folder, all := strings.CutSuffix(pattern, "*")
	return pattern == pkg || all && strings.HasPrefix(pkg, folder)
}
