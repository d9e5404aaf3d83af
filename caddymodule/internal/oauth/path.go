package oauth

import (
	"errors"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"
)

const (
	// wholePath is the path of the whole body.
	wholePath = "$"

	// headerPath begins the path of a header field.
	headerPath = "header:"
)

// pathElements returns the elements of a path into the body. A path that begins with "/" is a JSON Pointer (RFC 6901), whose
// names may contain dots.
func pathElements(path string) []string {
	pointer, ok := strings.CutPrefix(path, "/")
	if !ok {
		return strings.Split(path, ".")
	}
	elements := strings.Split(pointer, "/")
	for i, element := range elements {
		elements[i] = unescapePointer.Replace(element)
	}
	return elements
}

var (
	unescapePointer = strings.NewReplacer("~1", "/", "~0", "~")

	// badEscape matches a tilde that RFC 6901 does not permit.
	badEscape = regexp.MustCompile(`~([^01]|$)`)
)

// CheckPath returns an error if the text is not a path of Layout. The error does not quote the text.
func CheckPath(path string) error {
	if name, ok := strings.CutPrefix(path, headerPath); ok {
		if !httpguts.ValidHeaderFieldName(name) {
			return errors.New("this is not the path of a header field, such as header:X-Subject-Token")
		}
		return nil
	}
	if slices.Contains(pathElements(path), "") {
		return errors.New("this is not a path, such as access_token, data.token, errors.0.code or /data/access.token")
	}
	if strings.HasPrefix(path, "/") && badEscape.MatchString(path) {
		return errors.New("this is not a path, because a JSON Pointer has ~ only in ~0 and ~1")
	}
	return nil
}
