package share

import (
	"encoding/json"
	"math"
	"time"
	"unicode/utf8"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// longest bounds all times of a record, as it bounds the lifetime in a token endpoint's answer.
var longest = token.Policy{}.Trusted(math.MaxInt64)

// record is a token as replicas save it. Times are in milliseconds. A record without a token is a tombstone.
type record struct {
	Token     string            `json:"t,omitempty"`
	Kept      map[string]string `json:"k,omitempty"`
	Asked     int64             `json:"a"` // by the writer's clock, since 1970
	Lifetime  int64             `json:"l"`
	RefreshIn int64             `json:"r,omitempty"`
	Binding   string            `json:"c,omitempty"` // the thumbprint of what the token may be bound to
	DPoP      bool              `json:"d,omitempty"` // it is bound to a key
	Note      string            `json:"n,omitempty"`
	By        string            `json:"by,omitempty"` // the process that saved it
}

func newRecord(f token.Found, now time.Time) record {
	return record{
		Token:     f.Issued.Token.Reveal(),
		Kept:      f.Issued.Kept,
		Asked:     now.Add(-f.Age).UnixMilli(),
		Lifetime:  f.Lifetime.Milliseconds(),
		RefreshIn: f.RefreshIn.Milliseconds(),
		Binding:   bindingOf(f.Issued).thumbprint(),
		DPoP:      f.Issued.DPoP,
		Note:      f.Issued.Note,
	}
}

func newTombstone(now time.Time) record {
	return record{Asked: now.UnixMilli(), Lifetime: longest.Milliseconds()}
}

// text returns the record's JSON, or nil if JSON cannot hold it: it has no place for bytes that are not UTF-8.
func (r record) text() []byte {
	valid := utf8.ValidString(r.Token)
	for name, value := range r.Kept {
		valid = valid && utf8.ValidString(name) && utf8.ValidString(value)
	}
	if !valid {
		return nil
	}
	text, _ := json.Marshal(r)
	return text
}

// parseRecord ignores fields that it does not know, so that later versions can add some.
func parseRecord(text []byte) (record, bool) {
	var r record
	return r, json.Unmarshal(text, &r) == nil
}

// found returns the record with its times as durations by the reader's clock, and by how much the writer's clock is ahead
// of it at least. No time goes beyond its bounds, whatever the record says.
func (r record) found(now time.Time) (f token.Found, ahead time.Duration) {
	age := now.UnixMilli() - max(r.Asked, 0)
	f = token.Found{
		Issued:   token.Issued{Token: token.NewSecret(r.Token), Kept: r.Kept, DPoP: r.DPoP, Note: r.Note},
		Age:      milliseconds(age),
		Lifetime: milliseconds(r.Lifetime),
		Purged:   r.Token == "",
	}
	f.RefreshIn = min(milliseconds(r.RefreshIn), f.Lifetime)
	return f, milliseconds(-age)
}

// sighting is how old a record was when this process saved it, or loaded it first. Wall clocks can be set at any time. By the
// monotonic clock, no record is younger than it was before.
type sighting struct {
	by    string
	asked int64
	token token.Secret
	since time.Time // the time at which its token was asked for; it has a monotonic reading
}

// of reports whether the sighting is of this record.
func (s sighting) of(r record) bool {
	return s.by == r.By && s.asked == r.Asked && s.token.Equal(token.NewSecret(r.Token))
}

func newSighting(r record, age time.Duration) sighting {
	return sighting{r.By, r.Asked, token.NewSecret(r.Token), time.Now().Add(-age)}
}

// milliseconds returns a duration between 0 and longest.
func milliseconds(n int64) time.Duration {
	return time.Duration(max(0, min(n, longest.Milliseconds()))) * time.Millisecond
}

func alive(f token.Found) bool { return f.Age < f.Lifetime }
func fresh(f token.Found) bool { return !f.Purged && f.Age < f.RefreshIn }
