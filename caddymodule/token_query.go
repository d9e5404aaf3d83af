package caddymodule

import (
	"net/url"
	"slices"
	"strings"
)

// queryPrefix begins the name of a TokenHeader that is a query parameter.
const queryPrefix = "query:"

// hasParameter reports whether a query has a parameter of this name.
func hasParameter(query, name string) bool {
	return query != "" && slices.ContainsFunc(strings.Split(query, "&"), func(pair string) bool { return isNamed(pair, name) })
}

// withParameter returns the query with this pair in place of all parameters of its name. All other parameters stay as the
// application has written them.
func withParameter(query, name, pair string) string {
	pairs := strings.Split(query, "&")
	pairs = slices.DeleteFunc(pairs, func(other string) bool { return other == "" || isNamed(other, name) })
	return strings.Join(append(pairs, pair), "&")
}

func isNamed(pair, name string) bool {
	key, _, _ := strings.Cut(pair, "=")
	decoded, err := url.QueryUnescape(key)
	return err == nil && decoded == name
}

// withoutPair returns a text in which URLs do not have this pair in their query. An API often repeats the query of a request
// in the Location of its answer.
func withoutPair(text, pair string) string {
	return strings.NewReplacer("?"+pair+"&", "?", "?"+pair, "", "&"+pair, "").Replace(text)
}
