package main

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"slices"
	"time"
)

// bench is one run of the command.
type bench struct {
	settings settings
	scratch  string
	services string // the address of the API and the token endpoint
	secure   string // the address of the same API behind TLS
	show     *progress
	order    *rand.Rand // of the contenders

	certificate certificate // of the API
	redis       string      // its address
	shareKey    string      // the file of the key with which records in Redis are sealed
}

func newBench(s settings, scratch string, show *progress) *bench {
	return &bench{settings: s, scratch: scratch, show: show, order: rand.New(rand.NewPCG(s.seed, 0))}
}

// draw returns the contenders in a new order.
func (b *bench) draw() []contender {
	drawn := slices.Clone(contenders)
	b.order.Shuffle(len(drawn), func(i, j int) { drawn[i], drawn[j] = drawn[j], drawn[i] })
	return drawn
}

// entrant is a running contender.
type entrant struct {
	contender
	*child
	load    *load
	figures figures
}

// together runs f while all contenders run and have served one request.
func (b *bench) together(ctx context.Context, s setup, f func([]*entrant) error) error {
	var all []*entrant
	defer func() {
		for _, e := range all {
			e.leave()
		}
	}()
	for _, c := range b.draw() {
		e, err := b.enter(ctx, c, s)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		all = append(all, e)
	}
	return f(all)
}

// with runs f while one contender runs and has served one request.
func (b *bench) with(ctx context.Context, c contender, s setup, f func(*entrant) error) error {
	e, err := b.enter(ctx, c, s)
	if err != nil {
		return err
	}
	defer e.leave()
	return f(e)
}

// launch starts a contender.
func (b *bench) launch(ctx context.Context, c contender, s setup) (*child, error) {
	b.show.phase("starting " + c.name)
	var err error
	if s.listen, err = freeAddr(); err != nil {
		return nil, err
	}
	if s.admin, err = freeAddr(); err != nil {
		return nil, err
	}
	s.services, s.secure, s.authority = b.services, b.secure, b.certificate.chain
	s.binary, s.scratch, s.redis, s.shareKey = b.settings.binary, b.scratch, b.redis, b.shareKey
	p, err := start(ctx, s.listen, func(ctx context.Context) (*exec.Cmd, error) { return c.command(ctx, s) })
	if err != nil {
		return nil, err
	}
	p.admin = s.admin
	return p, nil
}

// enter starts a contender, and waits until it has served one request.
func (b *bench) enter(ctx context.Context, c contender, s setup) (*entrant, error) {
	p, err := b.launch(ctx, c, s)
	if err != nil {
		return nil, err
	}
	took, err := p.served(ctx)
	if err != nil {
		p.stop()
		return nil, err
	}
	return &entrant{
		contender: c,
		child:     p,
		load:      newLoad(ctx, p.addr, cmp.Or(s.workload.connections, b.settings.connections), s.workload.requests(p.addr)...),
		figures:   figures{keyStart: millis(took), keyFailed: 0},
	}, nil
}

func (e *entrant) leave() {
	e.load.close()
	e.stop()
}

// slicesOfPhase is the number of slices of a phase. The contenders take turns at each slice, in a new order, so that
// other work of the machine affects all of them.
const slicesOfPhase = 10

// inTurns gives each entrant its slices of a phase.
func (b *bench) inTurns(all []*entrant, f func(*entrant, time.Duration)) error {
	for range slicesOfPhase {
		for _, i := range b.order.Perm(len(all)) {
			f(all[i], b.settings.duration/slicesOfPhase)
			if err := all[i].gone(); err != nil {
				return err
			}
		}
	}
	return nil
}

// gone returns an error if the contender has ended.
func (e *entrant) gone() error {
	select {
	case <-e.ended:
		return fmt.Errorf("%s has ended:\n%s", e.name, e.output.String())
	default:
		return nil
	}
}
