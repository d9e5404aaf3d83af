package oauth

import (
	"bytes"
	"encoding/json"
	"io"
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// fields is a parsed answer. The root is the body with the types of encoding/json, with numbers as json.Number.
type fields struct {
	root   any
	whole  string      // the body as text, if that can be a token; else empty
	header http.Header // of the answer
}

// fields parses the answer. The body is JSON or a form, whatever its label says. It reports whether the body is one of the
// two.
func (a *Answer) fields() (fields, bool) {
	kind, _, _ := mime.ParseMediaType(a.Header.Get("Content-Type"))
	f, ok := parseJSON(a.Body)
	number, isNumber := f.root.(json.Number)
	switch {
	case !ok:
		f.whole = wholeText(a.Body)
		f.root, ok = parseForm(kind, a.Body)
	case isNumber && strings.HasPrefix(kind, "text/"):
		f.whole = number.String()
	}
	f.header = a.Header
	return f, ok
}

// parseJSON parses a body. It reports whether the body is one JSON value and nothing else.
func parseJSON(body []byte) (fields, bool) {
	d := json.NewDecoder(bytes.NewReader(withoutBOM(body)))
	d.UseNumber()
	var root any
	if d.Decode(&root) != nil {
		return fields{}, false
	}
	if _, err := d.Token(); err != io.EOF { // something follows the value
		return fields{}, false
	}
	return fields{root: root}, true
}

// formShaped matches what can only be a form. A text with spaces, line breaks or the characters of HTML and JSON is none.
var formShaped = regexp.MustCompile(`^[\w.%-]+=[^\s<>{}"&=]*={0,2}(&[\w.%-]+=[^\s<>{}"&=]*={0,2})*$`)

// parseForm parses a body that is labelled as a form or is shaped like one.
func parseForm(kind string, body []byte) (any, bool) {
	text := string(withoutBOM(body))
	if kind != "application/x-www-form-urlencoded" && !formShaped.MatchString(text) {
		return nil, false
	}
	values, err := url.ParseQuery(text)
	if err != nil {
		return nil, false
	}
	object := make(map[string]any, len(values))
	for name := range values {
		object[name] = values.Get(name)
	}
	return object, true
}

// wholeText returns the body if it can be a token as a whole. HTML, broken JSON and sentences cannot.
func wholeText(body []byte) string {
	text := withoutScheme(strings.TrimSpace(string(withoutBOM(body))))
	if strings.ContainsFunc(text, notVisibleASCII) || strings.ContainsAny(text, "<>{}[]\"'`&;\\") {
		return ""
	}
	return text
}

func withoutBOM(body []byte) []byte { return bytes.TrimPrefix(body, []byte("\xef\xbb\xbf")) }

// list returns the texts of the array at a path. It reports whether there is an array.
func (f fields) list(path string) (list []string, ok bool) {
	elements, ok := f.at(path).([]any)
	return texts(elements), ok
}

// texts returns the elements of an array that are strings.
func texts(array []any) (list []string) {
	for _, element := range array {
		if text, ok := element.(string); ok {
			list = append(list, text)
		}
	}
	return list
}

// at returns the value at a path, or nil.
func (f fields) at(path string) any {
	if name, ok := strings.CutPrefix(path, headerPath); ok {
		if values := f.header.Values(name); len(values) > 0 {
			return values[0]
		}
		return nil
	}
	if path == wholePath {
		if f.whole != "" {
			return f.whole
		}
		return f.root
	}
	v := f.root
	for _, name := range pathElements(path) {
		switch parent := v.(type) {
		case map[string]any:
			v = parent[name]
		case []any:
			i, err := strconv.Atoi(name)
			if err != nil || i < 0 || i >= len(parent) {
				return nil
			}
			v = parent[i]
		default:
			return nil
		}
	}
	return v
}

// find returns the value at the first path that leads to one. It passes over null.
func (f fields) find(paths []string) any {
	for _, path := range paths {
		if v := f.at(path); v != nil {
			return v
		}
	}
	return nil
}

// text returns the first string at the paths that is not empty, and whether there is one.
func (f fields) text(paths ...string) (string, bool) {
	for _, path := range paths {
		if s, ok := f.at(path).(string); ok && s != "" {
			return s, true
		}
	}
	return "", false
}

// number returns the first number at the paths, which can be a string with a decimal number, and whether there is one. A
// number that is too large for a float64 is infinite.
func (f fields) number(paths ...string) (float64, bool) {
	for _, path := range paths {
		switch v := f.at(path).(type) {
		case json.Number:
			if n, ok := decimal(v.String()); ok {
				return n, true
			}
		case string:
			if n, ok := decimal(strings.TrimSpace(v)); ok {
				return n, true
			}
		}
	}
	return 0, false
}

// time returns the first time at the paths, in seconds since the Unix epoch, and whether there is one.
func (f fields) time(unit Unit, paths ...string) (float64, bool) {
	if unit != RFC3339 {
		n, ok := f.number(paths...)
		return unit.seconds(n), ok
	}
	for _, path := range paths {
		text, _ := f.at(path).(string)
		if t, err := time.Parse(time.RFC3339, strings.TrimSpace(text)); err == nil {
			return float64(t.UnixMilli()) / 1000, true
		}
	}
	return 0, false
}

// present returns the first path that leads to a value other than null and blank text, or "".
func (f fields) present(paths []string) string {
	for _, path := range paths {
		v := f.at(path)
		if text, ok := v.(string); v != nil && (!ok || strings.TrimSpace(text) != "") {
			return path
		}
	}
	return ""
}

func decimal(s string) (float64, bool) {
	if s == "" || strings.Trim(s, "0123456789+-.eE") != "" { // no hexadecimal, no "infinity"
		return 0, false
	}
	n, err := strconv.ParseFloat(s, 64)
	if err != nil && !isRange(err) {
		return 0, false
	}
	return n, true
}

func isRange(err error) bool {
	e, ok := err.(*strconv.NumError)
	return ok && e.Err == strconv.ErrRange
}
