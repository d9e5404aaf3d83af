package caddymodule

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"
)

// reference is the document with every option, status and metric.
const reference = "README.md"

// documents returns the paths of all documents of this repository.
func documents(t *testing.T) []string { return filesNamed(t, "..", ".md") }

// filesNamed returns the paths of the files whose names end in suffix.
func filesNamed(t *testing.T, root, suffix string) (paths []string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (entry.Name() == "node_modules" || entry.Name() == ".git" || entry.Name() == ".build"):
			return filepath.SkipDir
		case strings.HasSuffix(path, suffix) && !entry.IsDir():
			paths = append(paths, path)
		}
		return nil
	})
	if err != nil || len(paths) == 0 {
		t.Fatalf("looking for %s below %s: found %d, error %v", suffix, root, len(paths), err)
	}
	return paths
}

// TestDocumentLinks follows each relative link in the documents, to its file and to its heading.
func TestDocumentLinks(t *testing.T) {
	followed := 0
	for _, document := range documents(t) {
		for _, link := range linksIn(readExample(t, document)) {
			if strings.Contains(link, "://") {
				continue
			}
			followed++
			file, anchor, hasAnchor := strings.Cut(link, "#")
			target := filepath.Join(filepath.Dir(document), file)
			if file == "" {
				target = document
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: %v", document, err)
				continue
			}
			if hasAnchor && !anchorsIn(readExample(t, target))[anchor] {
				t.Errorf("%s: %s has no heading #%s", document, target, anchor)
			}
		}
	}
	if followed < 100 {
		t.Errorf("found %d links: the test no longer sees them", followed)
	}
}

// TestProblemsAreExplained holds the README to the links in problem documents, and the reference to those in the README.
func TestProblemsAreExplained(t *testing.T) {
	readme, explained := anchorsIn(readExample(t, "../README.md")), anchorsIn(readExample(t, reference))
	found := 0
	for _, file := range filesNamed(t, ".", ".go") {
		for _, m := range regexp.MustCompile(`\bslug: +"([^"]*)"`).FindAllStringSubmatch(readExample(t, file), -1) {
			found++
			if slug := m[1]; !readme[slug] || !explained[slug] {
				t.Errorf("#%s: in the README: %t, in the reference: %t", slug, readme[slug], explained[slug])
			}
		}
	}
	if found < 10 {
		t.Errorf("found %d problems, want 10 or more", found)
	}
}

// TestReadmeNamesTests keeps the proofs in the documents from disappearing, and the commands that run them from running
// nothing.
func TestReadmeNamesTests(t *testing.T) {
	defined := make(map[string]bool)
	for _, file := range filesNamed(t, "..", "_test.go") {
		for _, m := range regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`).FindAllStringSubmatch(readExample(t, file), -1) {
			defined[m[1]] = true
		}
	}
	runArgument := regexp.MustCompile(`-run '?([\w|]+)`)
	testName := regexp.MustCompile(`\b(?:Test|Fuzz)[A-Z]\w+`)
	for _, document := range documents(t) {
		text := readExample(t, document)
		for _, m := range runArgument.FindAllStringSubmatch(text, -1) {
			for pattern := range strings.SplitSeq(m[1], "|") {
				if !slices.ContainsFunc(slices.Collect(maps.Keys(defined)), func(name string) bool { return strings.Contains(name, pattern) }) {
					t.Errorf("%s runs %s, which no test is named like", document, pattern)
				}
			}
		}
		for _, name := range testName.FindAllString(runArgument.ReplaceAllString(text, ""), -1) {
			if !defined[name] {
				t.Errorf("%s names %s, which does not exist", document, name)
			}
		}
	}
}

var (
	fencedBlock = regexp.MustCompile("(?ms)^```.*?^```")
	codeSpan    = regexp.MustCompile("`[^`\n]*`")
	anyLink     = regexp.MustCompile(`\]\(([^)\s]+)\)|(?m:^\[[^\]]+\]: +(\S+)$)`)
	heading     = regexp.MustCompile(`(?m)^#{1,6} +(.+?) *$`)
)

// linksIn returns the targets of the links and images in a document.
func linksIn(markdown string) (targets []string) {
	text := codeSpan.ReplaceAllString(fencedBlock.ReplaceAllString(markdown, ""), "code")
	for _, m := range anyLink.FindAllStringSubmatch(text, -1) {
		targets = append(targets, m[1]+m[2])
	}
	return targets
}

// anchorsIn returns the anchors of the headings in a document, as GitHub makes them: lower case, without punctuation, a
// hyphen for each space, and a number behind each that is there already.
func anchorsIn(markdown string) map[string]bool {
	anchors := make(map[string]bool)
	for _, m := range heading.FindAllStringSubmatch(fencedBlock.ReplaceAllString(markdown, ""), -1) {
		base := strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case unicode.IsLetter(r) || unicode.IsDigit(r) || r == '-' || r == '_':
				return unicode.ToLower(r)
			}
			return -1
		}, m[1])
		anchor := base
		for n := 1; anchors[anchor]; n++ {
			anchor = base + "-" + strconv.Itoa(n)
		}
		anchors[anchor] = true
	}
	return anchors
}
