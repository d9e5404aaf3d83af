package main

import (
	"archive/zip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// repositoryAt matches a link to a file or folder of the repository at a commit.
var repositoryAt = regexp.MustCompile(`^https://github\.com/tokenproxy/caddy-token-proxy/(blob|tree)/[0-9a-f]{40}/([^#]+)`)

// TestReleaseDocuments follows each link in the documents of a release, in the archive and in the repository.
func TestReleaseDocuments(t *testing.T) {
	top := filepath.Join("..", "..")
	archive := t.TempDir()
	if out, err := releaseDocuments(t, top, archive); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	inArchive, inRepository := 0, 0
	for _, document := range []string{"README.md", "CHANGELOG.md", "caddymodule/README.md"} {
		for _, link := range markdownLinks(t, filepath.Join(archive, document)) {
			if m := repositoryAt.FindStringSubmatch(link); m != nil {
				inRepository++
				wantKind(t, filepath.Join(top, m[2]), m[1])
				continue
			}
			if file, _, _ := strings.Cut(link, "#"); file != "" && !strings.Contains(file, "://") {
				inArchive++
				if _, err := os.Stat(filepath.Join(archive, filepath.Dir(document), file)); err != nil {
					t.Errorf("%s: the archive lacks the file of the link %s", document, link)
				}
			}
		}
	}
	if inArchive < 10 || inRepository < 10 {
		t.Errorf("found %d links in the archive and %d in the repository, want at least 10 of each", inArchive, inRepository)
	}
}

func wantKind(t *testing.T, path, kind string) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Error(err)
	} else if info.IsDir() != (kind == "tree") {
		t.Errorf("%s: the link has the kind %s", path, kind)
	}
}

// TestReleaseMendsLinks runs the release script in a repository of its own.
func TestReleaseMendsLinks(t *testing.T) {
	top := smallRepository(t)
	const before = "[a](LICENSE) [b](caddymodule/README.md#top) [c](examples) [d](docs/x.md#y-z) [e](docs/x.md) [f](#here) [g](https://example.com/docs/x.md)\n\n[c](examples)\n"
	writeFile(t, filepath.Join(top, "README.md"), before)
	writeFile(t, filepath.Join(top, "caddymodule/README.md"), "[a](../README.md) [b](../examples) [c](x.go)\n")
	archive := t.TempDir()
	if out, err := releaseDocuments(t, top, archive); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	commit, err := exec.Command("git", "-C", top, "rev-parse", "HEAD").Output()
	if err != nil {
		t.Fatal(err)
	}
	at := func(kind, path string) string {
		return "(https://github.com/tokenproxy/caddy-token-proxy/" + kind + "/" + strings.TrimSpace(string(commit)) + "/" + path + ")"
	}
	for document, want := range map[string]string{
		"README.md": "[a](LICENSE) [b](caddymodule/README.md#top) [c]" + at("tree", "examples") + " [d]" + at("blob", "docs/x.md#y-z") +
			" [e]" + at("blob", "docs/x.md") + " [f](#here) [g](https://example.com/docs/x.md)\n\n[c]" + at("tree", "examples") + "\n",
		"caddymodule/README.md": "[a](../README.md) [b]" + at("tree", "examples") + " [c]" + at("blob", "caddymodule/x.go") + "\n",
	} {
		if got := readFile(t, filepath.Join(archive, document)); got != want {
			t.Errorf("%s: got\n%s\nwant\n%s", document, got, want)
		}
	}
}

// TestReleaseFailsOnADanglingLink checks that the release script names a link whose file exists nowhere.
func TestReleaseFailsOnADanglingLink(t *testing.T) {
	for _, document := range []string{"README.md", "caddymodule/README.md"} {
		top := smallRepository(t)
		writeFile(t, filepath.Join(top, document), "[a](missing.md#b)\n")
		if out, err := releaseDocuments(t, top, t.TempDir()); err == nil || !strings.Contains(out, document+" links to missing.md#b") {
			t.Errorf("%s: error %v, output %s", document, err, out)
		}
	}
}

// TestReleaseArchives makes each archive twice, from folders that differ in times and permissions only.
func TestReleaseArchives(t *testing.T) {
	requireProgram(t, "zip")
	top := smallRepository(t)
	for system, extension := range map[string]string{"linux": ".tar.gz", "darwin": ".tar.gz", "windows": ".zip"} {
		var archives [2]string
		for i := range archives {
			folder := filepath.Join(t.TempDir(), "token-proxy_1")
			writeFile(t, filepath.Join(folder, "z"), "z")
			writeFile(t, filepath.Join(folder, "caddymodule/README.md"), "text")
			writeFile(t, filepath.Join(folder, "a program"), "program")
			if err := os.Chmod(filepath.Join(folder, "a program"), []os.FileMode{0o755, 0o775}[i]); err != nil {
				t.Fatal(err)
			}
			then := time.Now().Add(-time.Duration(i) * time.Hour)
			if err := os.Chtimes(filepath.Join(folder, "z"), then, then); err != nil {
				t.Fatal(err)
			}
			output := filepath.Join(t.TempDir(), "archive")
			cmd := exec.Command("bash", filepath.Join(top, "cmd/token-proxy/release.sh"), "archive", system, folder, output)
			cmd.Env = append(os.Environ(), "TZ="+[]string{"Asia/Tokyo", "UTC"}[i])
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			archives[i] = readFile(t, output+extension)
		}
		if archives[0] != archives[1] {
			t.Errorf("%s: the archives differ", system)
		}
		if system != "windows" {
			continue
		}
		archive, err := zip.NewReader(strings.NewReader(archives[0]), int64(len(archives[0])))
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, file := range archive.File {
			names = append(names, file.Name)
		}
		if got := strings.Join(names, " "); got != "token-proxy_1/a program token-proxy_1/caddymodule/README.md token-proxy_1/z" {
			t.Errorf("the ZIP file has %s", got)
		}
	}
}

// smallRepository returns a git repository with the release script, its documents, and three more files.
func smallRepository(t *testing.T) (top string) {
	t.Helper()
	top = t.TempDir()
	for _, file := range []string{
		"LICENSE", "README.md", "CHANGELOG.md", "Caddyfile.example", "caddymodule/README.md",
		"caddymodule/x.go", "docs/x.md", "examples/x",
	} {
		writeFile(t, filepath.Join(top, file), "")
	}
	writeFile(t, filepath.Join(top, "cmd/token-proxy/release.sh"), readFile(t, "release.sh"))
	requireProgram(t, "git")
	for _, args := range [][]string{
		{"init", "--quiet"},
		{"-c", "user.name=test", "-c", "user.email=test@example.com", "commit", "--quiet", "--allow-empty", "--message=test"},
	} {
		if out, err := exec.Command("git", append([]string{"-C", top}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v: %s", args, err, out)
		}
	}
	return top
}

// releaseDocuments runs the release script of the repository at top. It writes the documents of an archive into a
// folder.
func releaseDocuments(t *testing.T, top, folder string) (output string, err error) {
	t.Helper()
	requireProgram(t, "git")
	requireProgram(t, "bash")
	if exec.Command("cp", "--version").Run() != nil {
		t.Skip("SKIPPED: the documents of a release are not tested, because cp is not that of GNU")
	}
	if exec.Command("git", "-C", top, "rev-parse", "HEAD").Run() != nil {
		t.Skip("SKIPPED: the documents of a release are not tested, because this tree is no git repository")
	}
	out, err := exec.Command("bash", filepath.Join(top, "cmd/token-proxy/release.sh"), "documents", folder).CombinedOutput()
	return string(out), err
}

func requireProgram(t *testing.T, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skipf("SKIPPED: the documents of a release are not tested, because %s is not installed", name)
	}
}

var markdownLink = regexp.MustCompile(`\]\(([^)\s]+)\)|(?m:^\[[^\]]+\]: +(\S+)$)`)

// markdownLinks returns the targets of the links in a document.
func markdownLinks(t *testing.T, path string) (targets []string) {
	t.Helper()
	for _, m := range markdownLink.FindAllStringSubmatch(readFile(t, path), -1) {
		targets = append(targets, m[1]+m[2])
	}
	return targets
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}
