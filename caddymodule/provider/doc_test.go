package provider

import (
	"go/ast"
	"go/parser"
	"go/token"
	"reflect"
	"regexp"
	"testing"
)

// Godoc shows neither the fields nor the methods of a type in an internal package, so the comments of the aliases name
// them.
func TestAliasCommentsNameFieldsAndMethods(t *testing.T) {
	comments := aliasComments(t, "answer.go", "error.go")
	for name, aliased := range map[string]reflect.Type{
		"Answer": reflect.TypeFor[*Answer](),
		"Layout": reflect.TypeFor[*Layout](),
		"Issued": reflect.TypeFor[*Issued](),
		"Error":  reflect.TypeFor[*Error](),
	} {
		var members []string
		for field := range aliased.Elem().NumField() {
			members = append(members, aliased.Elem().Field(field).Name)
		}
		for method := range aliased.NumMethod() {
			members = append(members, aliased.Method(method).Name)
		}
		for _, member := range members {
			if !regexp.MustCompile(`\b` + member + `\b`).MatchString(comments[name]) {
				t.Errorf("the comment of %s does not name %s", name, member)
			}
		}
	}
}

// aliasComments returns the comments of the type aliases in the files, by name.
func aliasComments(t *testing.T, files ...string) map[string]string {
	t.Helper()
	comments := make(map[string]string)
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			if d, ok := decl.(*ast.GenDecl); ok && d.Tok == token.TYPE {
				comments[d.Specs[0].(*ast.TypeSpec).Name.Name] = d.Doc.Text()
			}
		}
	}
	return comments
}
