package oauth

import (
	"bytes"
	"encoding/json"
	"io"
	"mime"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// fields is the parsed body of an answer. It has the types of encoding/json, with numbers as json.Number.
type fields struct {
	root any
}

// parseFields parses a body. It parses a form only if the content type is that of a form. All other content types count as
// JSON, because some token endpoints label JSON as text/plain. It reports whether it could parse the body.
func parseFields(contentType string, body []byte) (fields, bool) {
	body = bytes.TrimPrefix(body, []byte("\xef\xbb\xbf"))
	if kind, _, _ := mime.ParseMediaType(contentType); kind == "application/x-www-form-urlencoded" {
		return parseForm(body)
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	var root any
	if d.Decode(&root) != nil {
		return fields{}, false
	}
	if _, err := d.Token(); err != io.EOF { // something follows the value
		return fields{}, false
	}
	return fields{root}, true
}

func parseForm(body []byte) (fields, bool) {
	values, err := url.ParseQuery(string(body))
	if err != nil {
		return fields{}, false
	}
	object := make(map[string]any, len(values))
	for name := range values {
		object[name] = values.Get(name)
	}
	return fields{object}, true
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

// at returns the value at a path, or nil. The path "$" leads to the whole body.
func (f fields) at(path string) any {
	v := f.root
	if path == "$" {
		return v
	}
	for name := range strings.SplitSeq(path, ".") {
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

// text returns the first value at the paths and whether it is a string.
func (f fields) text(paths ...string) (string, bool) {
	s, ok := f.find(paths).(string)
	return s, ok
}

// number returns the first value at the paths and whether it is a number, or a string with a decimal number. A number that
// is too large for a float64 is infinite.
func (f fields) number(paths ...string) (float64, bool) {
	switch v := f.find(paths).(type) {
	case json.Number:
		return decimal(v.String())
	case string:
		return decimal(strings.TrimSpace(v))
	default:
		return 0, false
	}
}

// time returns the first value at the paths, in seconds since the Unix epoch, and whether it is a time.
func (f fields) time(unit Unit, paths ...string) (float64, bool) {
	if unit != RFC3339 {
		n, ok := f.number(paths...)
		return inSeconds(n, unit), ok
	}
	text, _ := f.text(paths...)
	t, err := time.Parse(time.RFC3339, text)
	return float64(t.UnixMilli()) / 1000, err == nil
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
