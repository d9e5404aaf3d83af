package option

import (
	"errors"
	"slices"
	"strings"
	"unicode"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// Names are the names of all options. An error may show only these words in the place of an option. Any other word could
// be a secret, because an operator may write `client_secret=…` or put the secret onto a line of its own.
var Names = strings.Fields(`
	credential replay_memory share key group
	provider client_id client_secret api_hosts allow_plaintext refresh_margin fetch_timeout max_wait default_lifetime header
	prefetch transport ca server_name proxy dial_timeout tls_renegotiation
	token_url issuer client_auth basic_encoding client_id_param client_secret_param signing_key signing_key_id signing_alg
	assertion_audience assertion_typ assertion_certificate assertion_claim client_assertion_file client_assertion_type client_certificate
	client_certificate_key dpop dpop_key dpop_alg grant scope scope_separator audience resource param json_param method encoding response
	token token_type expires_in expires_at refresh_in default keep error retry retry_text retry_after
	store
	address cluster username password database master_name sentinel_username sentinel_password tls
	tenant max new_rate keep_header
	client_authorization on_unauthorized rejected_status forwarded replay_buffer clients cross_site token_stub
	tunnel`)

// Unrecognized returns the error for an option that the place does not have. It shows the option only if another place has
// it.
func Unrecognized(d *caddyfile.Dispenser, place string) error {
	return d.Errf("unrecognized option of %s: %s", place, AboutWord(d.Val()))
}

// AboutWord describes an unrecognized word for an error. It returns the name of an option if the word begins with one, a
// suggestion if the word resembles one, or else a text without the word.
func AboutWord(word string) string {
	if word == "{" {
		return word
	}
	name, rest := word, ""
	if end := strings.IndexFunc(word, func(r rune) bool { return r != '_' && !unicode.IsLetter(r) }); end >= 0 {
		name, rest = word[:end], "…"
	}
	if slices.Contains(Names, name) {
		return name + rest
	}
	for _, known := range Names {
		if similar(name, known) {
			return "perhaps " + known + " is meant"
		}
	}
	return "it is not shown, because it could be a secret"
}

// similar reports whether a word is a known word with one or two typing errors.
func similar(word, known string) bool {
	limit := 2
	if len(known) < 6 {
		limit = 1
	}
	return len(known) > 2 && distance(word, known, limit) <= limit
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

// HideSubdirective replaces the unrecognized word in an error of reverse_proxy by what AboutWord returns, because the word
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
	return errors.New(before + strings.TrimSpace(unknown) + ": " + AboutWord(after[:place]) + after[place:])
}
