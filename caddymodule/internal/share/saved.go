package share

import (
	"context"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// recordGrace is how long a record outlives its token in the store.
const recordGrace = time.Minute

// Load implements token.Shared. It returns the newest record that is not expired, of all keys: while keys are being rotated, a
// record of the first key can be fresh and yet revoked by the token of another.
func (c *Credential) Load(ctx context.Context) (token.Found, bool) {
	bound := c.binding()
	ring := c.share.Ring.current()
	best, by := c.newest(ctx, *ring, bound)
	if !fresh(best) { // a replica may have sealed with a key that is new
		if ring = c.share.Ring.newer(ring); ring != nil {
			best, by = c.newest(ctx, *ring, bound)
		}
	}
	if !alive(best) {
		return token.Found{}, false
	}
	c.from(by == process)
	best.Issued.Certificate, best.Issued.Prover = bound.certificate, bound.prover
	return best, true
}

// newest returns the newest record under the names of these keys, and the process that saved it.
func (c *Credential) newest(ctx context.Context, ring keys, bound binding) (best token.Found, by string) {
	shown := bound.thumbprint()
	var latest record
	for _, k := range ring {
		r, ok := c.read(ctx, k, shown)
		if !ok {
			continue
		}
		f, ahead := r.found(c.share.now())
		c.skewed(ahead)
		if alive(f) && (!alive(best) || r.Asked > latest.Asked) {
			best, latest = f, r
		}
	}
	if alive(best) {
		best.Age = c.loaded(latest, best.Age)
	}
	return best, latest.By
}

// loaded returns the age of a record whose age is this by the wall clocks, and remembers it.
func (c *Credential) loaded(r record, age time.Duration) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sighted.of(r) {
		age = max(age, time.Since(c.sighted.since))
	}
	c.sighted = newSighting(r, age)
	return age
}

// saved remembers the age of a record of this process.
func (c *Credential) saved(r record, age time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sighted = newSighting(r, age)
}

// read returns the record of one key. A record that is bound to another certificate or key is of no use here.
func (c *Credential) read(ctx context.Context, k *key, thumbprint string) (record, bool) {
	at := place{c.names.recordName(thumbprint, k), c.spec.Identity}
	value, outcome := c.share.Guard.load(ctx, OperationLoad, at.name)
	if outcome != OutcomeOK {
		return record{}, false
	}
	text, _, unopened := at.open(keys{k}, value)
	if unopened != opened {
		c.distrust(unopened)
		return record{}, false
	}
	r, ok := parseRecord(text)
	if !ok {
		c.distrust(UnopenedVersion)
		return record{}, false
	}
	return r, r.Binding == thumbprint
}

// Save implements token.Shared.
func (c *Credential) Save(ctx context.Context, f token.Found) {
	remaining := f.Lifetime - f.Age
	if remaining <= 0 || f.Issued.Token.Empty() {
		return
	}
	r := newRecord(f, c.share.now())
	r.By = process
	k := c.share.Ring.current().sealing()
	if c.purgedMeanwhile(ctx, k, r) {
		return
	}
	c.saved(r, f.Age)
	if c.write(ctx, k, r, remaining+recordGrace) {
		c.from(true)
	}
}

// purgedMeanwhile reports whether an operator has purged the tokens of all replicas since the record's token was asked for. A
// tombstone from a clock that is ahead does not count: it would keep the replicas from sharing until its time has come.
func (c *Credential) purgedMeanwhile(ctx context.Context, k *key, r record) bool {
	at := place{c.names.recordName(r.Binding, k), c.spec.Identity}
	value, outcome := c.share.Guard.load(ctx, OperationSave, at.name)
	if outcome != OutcomeOK {
		return false
	}
	text, _, unopened := at.open(keys{k}, value)
	if unopened != opened {
		return false // Load has reported it
	}
	there, ok := parseRecord(text)
	return ok && there.Token == "" && r.Asked <= there.Asked && there.Asked <= c.share.now().UnixMilli()
}

// write saves a record under the name of a key.
func (c *Credential) write(ctx context.Context, k *key, r record, life time.Duration) bool {
	at := place{c.names.recordName(r.Binding, k), c.spec.Identity}
	text := r.text()
	if text == nil {
		return false
	}
	sealed := at.seal(k, text)
	return sealed != nil && c.share.Guard.save(ctx, OperationSave, at.name, sealed, life) == OutcomeOK
}

// Purge deletes what the replicas have saved, under the names of all keys. Replicas that have a token keep it. It reports
// whether the store did it.
func (c *Credential) Purge(ctx context.Context) bool {
	shown := c.binding().thumbprint()
	done := true
	for _, k := range *c.share.Ring.current() {
		done = c.share.Guard.delete(ctx, OperationPurge, c.names.recordName(shown, k)) == OutcomeOK && done
	}
	return done
}

// PurgeFleet tells all replicas to forget tokens that are asked for before now. They learn it when they look for a token
// next. It reports whether the store has saved that.
func (c *Credential) PurgeFleet(ctx context.Context) bool {
	r := newTombstone(c.share.now())
	r.By, r.Binding = process, c.binding().thumbprint()
	done := true
	for _, k := range *c.share.Ring.current() {
		done = c.write(ctx, k, r, longest) && done
	}
	return done
}
