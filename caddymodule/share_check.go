package caddymodule

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/share"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/status"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

const (
	// checkPatience is how long the check waits for a store to open and work. A first connection may take longer than a
	// call may, so the check tries again.
	checkPatience = 4 * time.Second
	checkPause    = 250 * time.Millisecond

	// beaconHold is how long a check leaves its claim for the checks of other replicas, which can open it only with the same
	// keys.
	beaconHold = 5 * time.Minute
)

// checkedStore is the result for the store.
type checkedStore struct {
	Store    string  `json:"store"`
	OK       bool    `json:"ok"`
	Duration float64 `json:"duration"` // seconds
	Summary  string  `json:"summary,omitempty"`
	Advice   string  `json:"advice,omitempty"`
}

// check uses the store as a replica does: it saves, loads and deletes a sealed record, and claims and releases.
func (s *Share) check(ctx context.Context) checkedStore {
	began := time.Now()
	result := checkedStore{Store: s.name}
	s.start()
	replica := s.replicas()
	if !s.roundTrip(ctx, replica) {
		result.Summary, result.Advice = s.explainFailure()
	} else if why := s.compareKeys(ctx, replica); why != "" {
		result.Summary = "The store works, but this check cannot open what the check of another replica has left, because " + status.WhyUnopened(why) + "."
		result.Advice = status.AdviceUnopened(why)
	} else {
		result.OK = true
	}
	result.Duration = time.Since(began).Seconds()
	return result
}

// roundTrip tries the store until it works, fails for a reason that does not pass, or the patience ends.
func (s *Share) roundTrip(ctx context.Context, replica share.Share) bool {
	ctx, cancel := context.WithTimeout(ctx, checkPatience)
	defer cancel()
	for {
		if useOnce(ctx, replica) {
			return true
		}
		if f := s.store.guard.Stats().LastFailure; f != nil && f.Class != "timeout" {
			return false
		}
		select {
		case <-time.After(checkPause):
		case <-ctx.Done():
			return false
		}
	}
}

// useOnce does with a credential of its own all that a replica does with a store.
func useOnce(ctx context.Context, replica share.Share) bool {
	probe := replica.Credential(share.Spec{Provider: "tokens check", Endpoint: rand.Text(), Identity: token.NewSecret("tokens check")})
	value := token.NewSecret(rand.Text())
	probe.Save(ctx, token.Found{Issued: token.Issued{Token: value}, Lifetime: time.Minute, RefreshIn: time.Minute})
	found, ok := probe.Load(ctx)
	if !ok || !found.Issued.Token.Equal(value) {
		return false
	}
	if !probe.Purge(ctx) {
		return false
	}
	if _, ok := probe.Load(ctx); ok {
		return false
	}
	if probe.Claim(ctx, noProof) != token.ClaimWon {
		return false
	}
	probe.Release(ctx, 0, token.Secret{})
	return true
}

func noProof() token.Secret { return token.Secret{} }

// compareKeys leaves a sealed claim where the checks of all replicas of the group look for it, and opens the one that is
// there. It returns why that is impossible, or "". In a store that does not expire its values, a claim with a key that was
// replaced long ago would stay, so there it compares nothing.
func (s *Share) compareKeys(ctx context.Context, replica share.Share) (why string) {
	if !s.expires() {
		return ""
	}
	beacon := replica.Credential(share.Spec{
		Provider: "tokens check", Identity: token.NewSecret("tokens check"),
		Unopened: func(reason share.Unopened) { why = reason.String() },
	})
	if beacon.Claim(ctx, noProof) == token.ClaimWon {
		beacon.Release(ctx, beaconHold, token.Secret{})
	}
	return why
}

// explainFailure returns what keeps the store from working, and what to do.
func (s *Share) explainFailure() (summary, advice string) {
	store := s.status()
	if store.LastError == "" {
		store.LastError = "the store did not return what was saved"
	}
	return status.ExplainStore(store)
}

func (r checkedStore) print(cmd *cobra.Command) {
	out := cmd.OutOrStdout()
	if !r.OK {
		fmt.Fprintf(out, "✗ store %s (%.2f s): %s\n  %s\n", r.Store, r.Duration, printable(r.Summary), printable(r.Advice))
		return
	}
	fmt.Fprintf(out, "✓ store %s (%.2f s): it saves, loads and deletes, and decides claims\n", r.Store, r.Duration)
}

// sharesAny reports whether one of the credentials is shared.
func (a *App) sharesAny(names []string) bool {
	return slices.ContainsFunc(names, func(name string) bool { return a.clients[name].isShared() })
}

// unopened returns why this replica cannot open what another replica has left for the credential, or "".
func (c *client) unopened(ctx context.Context) string {
	if c.shared == nil {
		return ""
	}
	c.shared.Load(ctx)
	return c.shared.status().Unopened
}
