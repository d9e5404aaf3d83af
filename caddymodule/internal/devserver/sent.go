package devserver

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"regexp"
)

// sent are the parameters of a request that no check has taken yet.
type sent struct {
	texts   url.Values     // all values of each name, in order
	members map[string]any // the members of a JSON body that are not strings
}

// read returns the parameters from the place where they must be. It refuses a request with parameters anywhere else.
func (d *Demands) read(r *http.Request, p params) (sent, *refusal) {
	if d.encoding() == encodingQuery {
		if len(p.body) > 0 {
			return sent{}, refuse(invalidRequest, "the request has a body, but the parameters belong in the query")
		}
		return readForm(r.URL.RawQuery)
	}
	mediaType := map[string]string{encodingForm: "application/x-www-form-urlencoded", encodingJSON: typeJSON}[d.encoding()]
	switch {
	case p.mediaType != mediaType:
		return sent{}, &refusal{http.StatusUnsupportedMediaType, invalidRequest, "the content type must be " + mediaType}
	case r.URL.RawQuery != "":
		return sent{}, refuse(invalidRequest, "the URL has a query, but the parameters belong in the body")
	case d.encoding() == encodingJSON:
		return readJSON(p.body)
	}
	return readForm(string(p.body))
}

func readForm(text string) (sent, *refusal) {
	values, err := url.ParseQuery(text)
	if err != nil {
		return sent{}, refuse(invalidRequest, "the parameters are not form-encoded")
	}
	return sent{texts: values}, nil
}

func readJSON(body []byte) (sent, *refusal) {
	s := sent{make(url.Values), make(map[string]any)}
	if err := s.decode(json.NewDecoder(bytes.NewReader(body))); err != nil {
		return sent{}, refuse(invalidRequest, "the body is not a single JSON object without repeated members")
	}
	return s, nil
}

// decode does not use json.Unmarshal, which accepts repeated members and keeps the last.
func (s sent) decode(d *json.Decoder) error {
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return errors.New("not an object")
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return err
		}
		var value any
		if err := d.Decode(&value); err != nil {
			return err
		}
		if err := s.add(name.(string), value); err != nil { // the decoder accepts only a string as a name
			return err
		}
	}
	if _, err := d.Token(); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("more than one value")
	}
	return nil
}

func (s sent) add(name string, value any) error {
	if s.has(name) {
		return errors.New("a member is repeated")
	}
	if text, ok := value.(string); ok {
		s.texts.Set(name, text)
	} else {
		s.members[name] = value
	}
	return nil
}

func (s sent) has(name string) bool {
	_, member := s.members[name]
	return member || s.texts.Has(name)
}

// take removes a parameter and returns all its values.
func (s sent) take(name string) []string {
	values := s.texts[name]
	s.texts.Del(name)
	return values
}

// takeOne takes a parameter that must not be repeated (RFC 6749, section 3.2).
func (s sent) takeOne(name string) (value string, there bool, why *refusal) {
	values := s.take(name)
	if len(values) > 1 {
		return "", false, refuse(invalidRequest, "%s is repeated", name)
	}
	if len(values) == 0 {
		return "", false, nil
	}
	return values[0], true, nil
}

// refuseRest refuses a request with a parameter that no check has taken.
func (s sent) refuseRest() *refusal {
	names := append(sortedKeys(s.texts), sortedKeys(s.members)...)
	if len(names) == 0 {
		return nil
	}
	return refuse(invalidRequest, "%s is not described, or its type is wrong", shown(names[0]))
}

var plainName = regexp.MustCompile(`^[A-Za-z0-9_.:-]{1,40}$`)

// shown returns the name of a parameter, unless it does not look like a name. A body in the wrong encoding can become a
// single name that contains a secret.
func shown(name string) string {
	if plainName.MatchString(name) {
		return "the parameter " + name
	}
	return "a parameter with an unusual name"
}
