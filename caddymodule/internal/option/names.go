package option

import (
	"errors"
	"slices"
	"strings"
	"unicode"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// Names are the words that may be shown where an option's name belongs. Any other could be a secret that stands
// there by mistake: `client_secret=…` is one word, and a secret may have got onto a line of its own.
var Names = strings.Fields(`
	credential replay_memory share key group
	provider client_id client_secret api_hosts allow_plaintext refresh_margin fetch_timeout max_wait default_lifetime header
	prefetch transport ca server_name proxy dial_timeout
	token_url issuer client_auth basic_encoding client_id_param client_secret_param signing_key signing_key_id signing_alg
	assertion_audience assertion_typ assertion_claim client_assertion_file client_assertion_type client_certificate
	client_certificate_key grant scope scope_separator audience resource param json_param method encoding response
	token expires_in expires_at refresh_in default keep error retry retry_text retry_after
	store
	client_authorization on_unauthorized replay_buffer clients cross_site token_stub`)

// Unrecognized refuses an option. It shows a word only if that is the name of an option, somewhere else.
func Unrecognized(d *caddyfile.Dispenser, where string) error {
	return d.Errf("unrecognized option of %s: %s", where, AboutWord(d.Val()))
}

// AboutWord says what can be said of an unrecognized word.
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

// similar reports whether a word is a known one with a slip or two of the finger.
func similar(word, known string) bool {
	slips := 2
	if len(known) < 6 {
		slips = 1
	}
	return len(known) > 2 && distance(word, known, slips) <= slips
}

// distance is the number of letters to insert, to remove or to replace that makes a of b; anything above limit counts the
// same.
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

// HideSubdirective removes a word that reverse_proxy does not know from its error, for the same reason.
func HideSubdirective(err error) error {
	const unknown = "unrecognized subdirective "
	if err == nil {
		return nil
	}
	before, after, found := strings.Cut(err.Error(), unknown)
	if !found {
		return err
	}
	place := strings.LastIndex(after, ", at ") // where it is, which Caddy adds
	if place < 0 {
		place = len(after)
	}
	return errors.New(before + strings.TrimSpace(unknown) + ": " + AboutWord(after[:place]) + after[place:])
}
