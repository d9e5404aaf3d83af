package caddymodule

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
)

var updateAdapted = flag.Bool("update", false, "rewrite the JSON halves of testdata/adapt; look at what it writes")

// golden is a Caddyfile and what adapting it gives. Those that are accepted have a file each, testdata/adapt/*.caddyfiletest.
// Those that are refused are the sections of testdata/adapt/errors/*.txtar, an archive for each topic.
type golden struct {
	name  string
	file  string
	input string

	// want is the JSON or, if the Caddyfile is refused, lines that are parts of the error.
	want    string
	refused bool
}

// goldenSeparator stands between the two halves of a golden, on a line of its own.
const goldenSeparator = "----------\n"

func goldens(t testing.TB) []golden {
	t.Helper()
	var all []golden
	for _, file := range filesLike(t, "testdata/adapt/*.caddyfiletest") {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		g := golden{name: baseOf(file), file: file}
		g.input, g.want = splitGolden(t, file, content)
		all = append(all, g)
	}
	for _, file := range filesLike(t, "testdata/adapt/errors/*.txtar") {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, section := range archive.Files {
			g := golden{name: "error/" + baseOf(file) + "/" + section.Name, file: file, refused: true}
			g.input, g.want = splitGolden(t, g.name, section.Data)
			all = append(all, g)
		}
	}
	return all
}

func filesLike(t testing.TB, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("no files %s: %v", pattern, err)
	}
	return files
}

func baseOf(file string) string {
	return strings.TrimSuffix(filepath.Base(file), filepath.Ext(file))
}

// splitGolden returns the halves of a golden.
func splitGolden(t testing.TB, name string, content []byte) (input, want string) {
	t.Helper()
	halves := strings.Split(string(content), "\n"+goldenSeparator)
	if len(halves) != 2 {
		t.Fatalf("%s: there must be one line of dashes (%q)", name, goldenSeparator)
	}
	return halves[0] + "\n", strings.TrimSpace(halves[1])
}

// update writes the JSON that adapting gives now.
func (g golden) update(t *testing.T, want string) {
	t.Helper()
	if err := os.WriteFile(g.file, []byte(g.input+goldenSeparator+want+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
}
