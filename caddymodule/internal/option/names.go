package option

import (
	"errors"
	"slices"
	"strings"
	"unicode"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// Unrecognized returns the error for an option that the place does not have.
func Unrecognized(d *caddyfile.Dispenser, place Place) error {
	return d.Errf("unrecognized option of %s: %s", place.name, place.About(d.Val()))
}

// About describes a word that is no option of the place, for an error. It returns the word only if the word is the name of an
// option elsewhere. Otherwise it suggests an option that the word resembles, if one does.
func (p Place) About(word string) string {
	if word == "{" {
		return word
	}
	if with := placesWith(word); with != "" {
		return word + ", which is an option of " + with
	}
	name, rest := cutName(word)
	suggested := p.nearest(name)
	switch {
	case suggested == "":
		return "it is not shown, because it could be a secret"
	case !slices.Contains(p.options, suggested):
		return "perhaps " + suggested + " is meant, which is an option of " + placesWith(suggested)
	case strings.HasPrefix(rest, "=") || strings.HasPrefix(rest, ":"):
		return "perhaps " + suggested + " is meant, followed by a space"
	default:
		return "perhaps " + suggested + " is meant"
	}
}

// placesWith returns the names of the places that have the option, or "".
func placesWith(option string) string {
	var names []string
	for _, place := range Places {
		if slices.Contains(place.options, option) {
			names = append(names, place.name)
		}
	}
	return strings.Join(names, " and of ")
}

// cutName returns the beginning of a word that can be the name of an option, as options are written, and the rest of the word.
func cutName(word string) (name, rest string) {
	end := strings.IndexFunc(word, func(r rune) bool { return r != '_' && r != '-' && !unicode.IsLetter(r) })
	if end < 0 {
		end = len(word)
	}
	return strings.ToLower(strings.ReplaceAll(word[:end], "-", "_")), word[end:]
}

// nearest returns the option that the name resembles most, or "". Of two that are as near, it prefers the one of the place. If
// the name resembles none, nearest returns the option of the place that the name begins with.
func (p Place) nearest(name string) (nearest string) {
	least := mostMistakes + 1
	for _, place := range append([]Place{p}, Places...) {
		for _, known := range place.options {
			if d := mistakes(name, known); d < least {
				nearest, least = known, d
			}
		}
	}
	if nearest != "" {
		return nearest
	}
	for _, known := range p.options {
		if strings.HasPrefix(name, known+"_") {
			return known
		}
	}
	return ""
}

// mostMistakes is how many typing errors a word may have to resemble an option.
const mostMistakes = 2

// mistakes returns with how many typing errors a word is a known word. The result is above mostMistakes if the word does not
// resemble the known word. A short word resembles too many others, so it may have fewer errors.
func mistakes(word, known string) int {
	limit := mostMistakes
	switch {
	case len(known) <= 2:
		limit = 0
	case len(known) < 6:
		limit = 1
	}
	if d := distance(word, known, limit); d <= limit {
		return d
	}
	return mostMistakes + 1
}

// distance returns how many letters must be inserted, removed or replaced to turn b into a (the Levenshtein distance).
// Above limit, the result is only known to be greater than limit.
func distance(a, b string, limit int) int {
	if len(a)-len(b) > limit || len(b)-len(a) > limit {
		return limit + 1
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// HideSubdirective replaces the unrecognized word in an error of reverse_proxy by what About returns, because the word
// could be a secret. It returns all other errors unchanged.
func HideSubdirective(err error) error {
	const unknown = "unrecognized subdirective "
	if err == nil {
		return nil
	}
	before, after, found := strings.Cut(err.Error(), unknown)
	if !found {
		return err
	}
	place := strings.LastIndex(after, ", at ") // Caddy appends the file and the line
	if place < 0 {
		place = len(after)
	}
	return errors.New(before + strings.TrimSpace(unknown) + ": " + OfDirective.About(after[:place]) + after[place:])
}
