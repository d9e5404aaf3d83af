package share

import (
	"context"
	"time"
)

// load returns a value of the store. Without one, the outcome is OutcomeAbsent.
func (g *Guard) load(ctx context.Context, op Operation, name string) ([]byte, Outcome) {
	begun := time.Now()
	value, outcome := attempt(ctx, g, g.usable, func(ctx context.Context, s Store) ([]byte, error) {
		return s.Load(ctx, name)
	})
	if outcome == OutcomeOK && len(value) == 0 {
		outcome = OutcomeAbsent
	}
	g.count(op, outcome, time.Since(begun))
	return value, outcome
}

func (g *Guard) save(ctx context.Context, op Operation, name string, value []byte, life time.Duration) Outcome {
	_, outcome := call(ctx, g, op, func(ctx context.Context, s Store) (struct{}, error) {
		return struct{}{}, s.Save(ctx, name, value, life)
	})
	return outcome
}

func (g *Guard) delete(ctx context.Context, op Operation, name string) Outcome {
	_, outcome := call(ctx, g, op, func(ctx context.Context, s Store) (struct{}, error) {
		return struct{}{}, s.Delete(ctx, name)
	})
	return outcome
}
