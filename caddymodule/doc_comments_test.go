package caddymodule

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// notConfigured are the exported types with JSON names that no configuration has.
var notConfigured = []string{"httpsproxy.Status", "httpsproxy.ListenerStatus", "httpsproxy.Denial"}

// TestFieldsHaveDefaults checks that the comment of each field of the configuration has its default, or that it is required.
func TestFieldsHaveDefaults(t *testing.T) {
	fields := 0
	for path, file := range sourceFiles(t) {
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			structure, ok := spec.Type.(*ast.StructType)
			if !ok || !spec.Name.IsExported() || slices.Contains(notConfigured, file.Name.Name+"."+spec.Name.Name) {
				return true
			}
			doc := "" // also of the fields below without a line between
			for _, field := range structure.Fields.List {
				if field.Tag == nil || !strings.Contains(field.Tag.Value, `json:"`) || len(field.Names) == 0 {
					continue
				}
				if field.Doc != nil {
					doc = field.Doc.Text()
				}
				fields++
				if !strings.Contains(doc, "Default:") && !strings.Contains(doc, "Required") {
					t.Errorf("%s: %s.%s has neither a default nor is it required: %s", path, spec.Name, field.Names[0], doc)
				}
			}
			return true
		})
	}
	if fields < 100 {
		t.Errorf("found %d fields", fields)
	}
}

var (
	syntaxBlock = regexp.MustCompile("(?s)```caddyfile\n(.*?)```")
	spaces      = regexp.MustCompile(`\s+`)
)

// TestSyntaxComments checks that the comment with the syntax of each directive and block has the lines of the reference.
func TestSyntaxComments(t *testing.T) {
	blocks := syntaxBlock.FindAllStringSubmatch(readExample(t, reference), -1)
	compared := 0
	for path, file := range sourceFiles(t) {
		for _, group := range file.Comments {
			_, syntax, ok := strings.Cut(group.Text(), "Syntax:\n\n")
			if !ok {
				continue
			}
			lines := syntaxLines(syntax)
			for _, block := range blocks {
				want := syntaxLines(block[1])
				if !strings.Contains(block[1], "<") || !slices.Contains(want, lines[0]) || len(lines) < 2 || strings.Contains(path, "devmodules") {
					continue
				}
				compared++
				for _, line := range want {
					if !slices.Contains(lines, line) {
						t.Errorf("%s: the syntax lacks %q", path, line)
					}
				}
			}
		}
	}
	if compared < 8 {
		t.Errorf("compared %d comments", compared)
	}
}

// syntaxLines returns the lines of a syntax without comments, white space and the blocks that follow. The reference has a table
// of the values of client_auth.
func syntaxLines(text string) (lines []string) {
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(spaces.ReplaceAllString(line, " "), " # ")
		line = strings.TrimSuffix(strings.TrimSpace(line), "{ … }")
		line = strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(line), "{"))
		if line != "" && line != "}" && !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, "client_auth ") {
			lines = append(lines, line)
		}
	}
	return lines
}

// sourceFiles returns the files of the packages that are not internal, by their paths.
func sourceFiles(t *testing.T) map[string]*ast.File {
	t.Helper()
	files := make(map[string]*ast.File)
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && (entry.Name() == "internal" || entry.Name() == "testdata") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		files[path], err = parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}
