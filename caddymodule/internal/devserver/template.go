package devserver

import (
	"cmp"
	"fmt"
	"regexp"
	"strings"
	"time"
)

var tokenType = regexp.MustCompile(`("token_type"\s*:\s*)"[^"]*"`)

// answer fills the template Answer for a token, and applies the fault.
func (d *Demands) answer(t Token, f Fault) []byte {
	template := cmp.Or(d.Answer, defaultAnswer)
	switch {
	case f.Garbage == GarbageNoToken:
		template = withoutMember(template, "token")
	case f.Garbage == GarbageControlChars:
		t.Value += "\r\nX-Injected: 1"
	case f.Garbage == GarbageWrongType:
		template = tokenType.ReplaceAllString(template, `${1}"mac"`)
	case f.ExpiresIn == ExpiresInMissing:
		template = withoutMember(template, "expires_in")
	case f.ExpiresIn != "":
		value := strings.ReplaceAll(f.ExpiresIn, "$", "$$")
		template = regexp.MustCompile(member("expires_in")).ReplaceAllString(template, "${1}"+value)
	}
	return []byte(strings.NewReplacer( // the first match wins, so longer names come first
		"$token_type", t.tokenType(),
		"$token", inString(t.Value),
		"$expires_in_ms", fmt.Sprint(t.remaining()*1000),
		"$expires_in", fmt.Sprint(t.remaining()),
		"$expires_at_rfc3339", t.Expires.UTC().Format(time.RFC3339),
		"$expires_at_ms", fmt.Sprint(t.Expires.UnixMilli()),
		"$expires_at", fmt.Sprint(t.Expires.Unix()),
		"$issued_at_ms", fmt.Sprint(t.Issued.UnixMilli()),
		"$issued_at", fmt.Sprint(t.Issued.Unix()),
		"$scope", inString(d.Scope),
	).Replace(template))
}

// failure fills the template Failure.
func (d *Demands) failure(code string) []byte {
	return []byte(strings.ReplaceAll(cmp.Or(d.Failure, defaultFailure), "$code", code))
}

// member returns a pattern for a member of a template whose value is the variable, quoted or not.
func member(variable string) string {
	return `("[^"]*"\s*:\s*)(?:"\$` + variable + `"|\$` + variable + `\b)`
}

// withoutMember removes such members, each with one comma.
func withoutMember(template, variable string) string {
	m := member(variable)
	return regexp.MustCompile(m+`\s*,\s*|,?\s*`+m).ReplaceAllString(template, "")
}

// inString escapes s for the inside of a JSON string.
func inString(s string) string {
	quoted := encode(s)
	return string(quoted[1 : len(quoted)-1])
}
