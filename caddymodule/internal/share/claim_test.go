package share

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/share/sharetest"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// wantClaim claims and compares.
func wantClaim(t *testing.T, ctx context.Context, c *Credential, want token.Claim, secret string) {
	t.Helper()
	if got := c.Claim(ctx, proof(secret)); got != want {
		t.Fatalf("claim %s, want %s", ClaimLabel(got), ClaimLabel(want))
	}
}

func TestClaimHasOneWinner(t *testing.T) {
	latencies := map[string]func() time.Duration{
		"fast":   func() time.Duration { return time.Millisecond },
		"uneven": func() time.Duration { return 8*time.Millisecond + rand.N(16*time.Millisecond) },
		"slow":   func() time.Duration { return 60 * time.Millisecond << (rand.N(2)) },
	}
	for name, latency := range latencies {
		for replicas, rounds := range map[int]int{100: 5, 3: 300} { // the fewer replicas, the longer may be a gap between two writes
			stores(t, func(t *testing.T, s Store, memory *sharetest.Store) {
				t.Run(fmt.Sprint(name, replicas), func(t *testing.T) {
					bubble(t, func(t *testing.T, ctx context.Context) {
						memory.Latency = latency
						all := make([]*Credential, replicas)
						for i := range all {
							all[i] = replica(t, ctx, s)
						}
						for round := range rounds {
							if n := race(ctx, all, "s")[token.ClaimWon]; n != 1 {
								t.Fatalf("round %d has %d winners", round, n)
							}
							time.Sleep(ClaimLife + time.Second) // the winner has died; what it has left is in view of all
						}
					})
				})
			})
		}
	}
}

// race lets all replicas claim within 50 ms, and counts the outcomes.
func race(ctx context.Context, replicas []*Credential, secret string) map[token.Claim]int {
	var mu sync.Mutex
	counts := make(map[token.Claim]int)
	var all sync.WaitGroup
	for _, c := range replicas {
		all.Go(func() {
			time.Sleep(rand.N(50 * time.Millisecond))
			got := c.Claim(ctx, proof(secret))
			mu.Lock()
			counts[got]++
			mu.Unlock()
		})
	}
	all.Wait()
	return counts
}

// The holder of a claim dies in its call.
func TestClaimOfDeadReplicaEnds(t *testing.T) {
	stores(t, func(t *testing.T, s Store, memory *sharetest.Store) {
		bubble(t, func(t *testing.T, ctx context.Context) {
			dead, other := replica(t, ctx, s), replica(t, ctx, s)
			wantClaim(t, ctx, dead, token.ClaimWon, "s")
			begun := time.Now()
			for other.Claim(ctx, proof("s")) != token.ClaimWon {
				time.Sleep(100 * time.Millisecond)
			}
			if took := time.Since(begun); took < ClaimLife-200*time.Millisecond || took > ClaimLife+300*time.Millisecond {
				t.Errorf("the claim of a dead replica ended after %v", took)
			}
		})
	})
}

// A fleet has died an hour ago.
func TestClaimOfLongAgoIsNone(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context) {
		store := &sharetest.Store{Eternal: true}
		dead := replica(t, ctx, store)
		wantClaim(t, ctx, dead, token.ClaimWon, "s")
		time.Sleep(59 * time.Minute)
		wantClaim(t, ctx, replica(t, ctx, store), token.ClaimWon, "s")
	})
}

// A call takes longer than its claim lasts.
func TestReleaseLeavesClaimsOfOthers(t *testing.T) {
	for _, hold := range []time.Duration{0, time.Minute} {
		stores(t, func(t *testing.T, s Store, memory *sharetest.Store) {
			bubble(t, func(t *testing.T, ctx context.Context) {
				slow, second, third := replica(t, ctx, s), replica(t, ctx, s), replica(t, ctx, s)
				wantClaim(t, ctx, slow, token.ClaimWon, "s")
				wantClaim(t, ctx, second, token.ClaimLost, "s")
				time.Sleep(ClaimLife + time.Millisecond)
				wantClaim(t, ctx, second, token.ClaimWon, "s")
				time.Sleep(2 * time.Second)
				slow.Release(ctx, hold, token.Secret{})
				wantClaim(t, ctx, third, token.ClaimLost, "s")
				second.Release(ctx, 0, token.Secret{})
				wantClaim(t, ctx, third, token.ClaimWon, "s")
			})
		})
	}
}

func TestReleaseFreesTheClaim(t *testing.T) {
	stores(t, func(t *testing.T, s Store, memory *sharetest.Store) {
		bubble(t, func(t *testing.T, ctx context.Context) {
			one, other := replica(t, ctx, s), replica(t, ctx, s)
			one.Release(ctx, 0, token.Secret{}) // nothing to release
			wantClaim(t, ctx, one, token.ClaimWon, "s")
			wantClaim(t, ctx, other, token.ClaimLost, "s")
			canceled, cancel := context.WithCancel(ctx)
			cancel() // the time of the flight is over
			one.Release(canceled, 0, token.Secret{})
			calls := memory.Calls("load") + memory.Calls("replace")
			one.Release(ctx, 0, token.Secret{})
			if memory.Calls("load")+memory.Calls("replace") != calls {
				t.Error("a claim is released twice")
			}
			wantClaim(t, ctx, other, token.ClaimWon, "s")
		})
	})
}

func TestHold(t *testing.T) {
	stores(t, func(t *testing.T, s Store, memory *sharetest.Store) {
		bubble(t, func(t *testing.T, ctx context.Context) {
			one, other := replica(t, ctx, s), replica(t, ctx, s)
			wantClaim(t, ctx, one, token.ClaimWon, "s")
			one.Release(ctx, time.Minute, token.Secret{})
			wantClaim(t, ctx, other, token.ClaimHeld, "s")
			wantClaim(t, ctx, other, token.ClaimHeld, "another")
			time.Sleep(59 * time.Second)
			wantClaim(t, ctx, other, token.ClaimHeld, "s")
			time.Sleep(time.Second)
			wantClaim(t, ctx, other, token.ClaimWon, "s")

			other.Release(ctx, time.Hour, token.Secret{}) // longer than any hold
			wantClaim(t, ctx, one, token.ClaimHeld, "s")
			time.Sleep(maxHold)
			wantClaim(t, ctx, one, token.ClaimWon, "s")
		})
	})
}

// Whatever a claim says, for example that of a later version, it holds up nobody for longer.
func TestHoldIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context) {
		store := new(sharetest.Store)
		c := replica(t, ctx, store)
		at := place{c.names.claimName(""), c.spec.Identity}
		day := newClaim(time.Now())
		day.Hold = (24 * time.Hour).Milliseconds()
		store.Put(at.name, at.seal(c.share.Ring.current().sealing(), day.text()))
		wantClaim(t, ctx, c, token.ClaimHeld, "s")
		time.Sleep(maxHold)
		wantClaim(t, ctx, c, token.ClaimWon, "s")
	})
}

// A claim that the store has taken, but not in time, is the replica's own.
func TestClaimThatCameLateIsOurs(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context) {
		store := new(sharetest.Claimer)
		c := replica(t, ctx, store)
		time.Sleep(time.Millisecond) // the store is open
		store.Change(func(s *sharetest.Store) { s.Latency = func() time.Duration { return callBudget * 3 / 2 } })
		wantClaim(t, ctx, c, token.ClaimUnknown, "s")
		if len(store.Values()) != 1 {
			t.Fatal("the store has not taken the claim")
		}
		store.Change(func(s *sharetest.Store) { s.Latency = nil })
		time.Sleep(2 * minRest)
		wantClaim(t, ctx, c, token.ClaimWon, "s")
	})
}

// The proof is compared between processes. The keys of the replicas may be in rotation.
func TestHoldOfRefusedProofBindsTheSameProof(t *testing.T) {
	stores(t, func(t *testing.T, s Store, memory *sharetest.Store) {
		bubble(t, func(t *testing.T, ctx context.Context) {
			refused, same, other := replica(t, ctx, s, keyA, keyB), replica(t, ctx, s, keyB, keyA), replica(t, ctx, s, keyB, keyA)
			wantClaim(t, ctx, refused, token.ClaimWon, "old")
			refused.Release(ctx, time.Minute, token.NewSecret("old"))
			wantClaim(t, ctx, same, token.ClaimHeld, "old")
			wantClaim(t, ctx, other, token.ClaimWon, "new")
			wantClaim(t, ctx, same, token.ClaimLost, "old")
			for _, value := range memory.Values() {
				if strings.Contains(string(value), "old") {
					t.Error("the store has the proof")
				}
			}
		})
	})
}

// The secret has been rotated, and all replicas but one have the new one.
func TestOneReplicaTakesOverAHold(t *testing.T) {
	stores(t, func(t *testing.T, s Store, memory *sharetest.Store) {
		bubble(t, func(t *testing.T, ctx context.Context) {
			memory.Latency = func() time.Duration { return 20 * time.Millisecond }
			refused := replica(t, ctx, s)
			wantClaim(t, ctx, refused, token.ClaimWon, "old")
			refused.Release(ctx, time.Minute, token.NewSecret("old"))
			all := make([]*Credential, 100)
			for i := range all {
				all[i] = replica(t, ctx, s)
			}
			if got := race(ctx, all, "new"); got[token.ClaimWon] != 1 || got[token.ClaimLost] != 99 {
				t.Errorf("outcomes %v", got)
			}
		})
	})
}

// Only the monotonic clock of the reader counts.
func TestClaimsOfReplicasWithOtherClocks(t *testing.T) {
	stores(t, func(t *testing.T, s Store, memory *sharetest.Store) {
		for _, apart := range []time.Duration{-10 * time.Minute, -ClaimLife, ClaimLife, 10 * time.Minute} {
			t.Run(fmt.Sprint(apart), func(t *testing.T) {
				bubble(t, func(t *testing.T, ctx context.Context) {
					here := replica(t, ctx, s)
					there := Share{
						Ring: ring(t, keyA), Guard: guard(ctx, s),
						now: func() time.Time { return time.Now().Add(apart) },
					}.Credential(spec())
					wantClaim(t, ctx, there, token.ClaimWon, "s")
					wantClaim(t, ctx, here, token.ClaimLost, "s")
					time.Sleep(ClaimLife - 100*time.Millisecond)
					wantClaim(t, ctx, here, token.ClaimLost, "s")
					time.Sleep(100 * time.Millisecond)
					wantClaim(t, ctx, here, token.ClaimWon, "s")
					wantClaim(t, ctx, there, token.ClaimLost, "s")
					here.Release(ctx, time.Minute, token.Secret{})
					wantClaim(t, ctx, there, token.ClaimHeld, "s")
					time.Sleep(time.Minute)
					wantClaim(t, ctx, there, token.ClaimWon, "s")
					there.Release(ctx, 0, token.Secret{})
				})
			})
		}
	})
}

// Containers from one volume have one instance id. Replicas in this test have one process.
func TestOwnersOfClaimsAreUnique(t *testing.T) {
	stores(t, func(t *testing.T, s Store, memory *sharetest.Store) {
		bubble(t, func(t *testing.T, ctx context.Context) {
			one, other := replica(t, ctx, s), replica(t, ctx, s)
			wantClaim(t, ctx, one, token.ClaimWon, "s")
			wantClaim(t, ctx, other, token.ClaimLost, "s")
		})
	})
	owners := make(map[string]bool)
	for range 1000 {
		owners[newClaim(time.Now()).Owner] = true
	}
	if len(owners) != 1000 || len(process) < 26 {
		t.Errorf("%d owners of 1000 claims, process %q", len(owners), process)
	}
}

// A replica does not wait for a claim of its own that it could not release.
func TestOwnClaimThatWasLeft(t *testing.T) {
	stores(t, func(t *testing.T, s Store, memory *sharetest.Store) {
		bubble(t, func(t *testing.T, ctx context.Context) {
			c := replica(t, ctx, s)
			wantClaim(t, ctx, c, token.ClaimWon, "s")
			c.held = nil // as after a release that the store did not answer
			wantClaim(t, ctx, c, token.ClaimWon, "s")
			c.Release(ctx, 0, token.Secret{})
			if left := memory.Values(); len(left) != 0 {
				t.Errorf("left in the store: %v", left)
			}
		})
	})
}

// No replica waits for what it cannot open.
func TestClaimThatCannotBeOpened(t *testing.T) {
	stores(t, func(t *testing.T, s Store, memory *sharetest.Store) {
		bubble(t, func(t *testing.T, ctx context.Context) {
			stranger, c := replica(t, ctx, s, keyB), replica(t, ctx, s)
			wantClaim(t, ctx, stranger, token.ClaimWon, "s")
			wantClaim(t, ctx, c, token.ClaimUnknown, "s")
			stranger.Release(ctx, 0, token.Secret{})
			wantClaim(t, ctx, c, token.ClaimUnknown, "s") // distrust
			if n := memory.Calls("save") + memory.Calls("replace"); n > 1 {
				t.Errorf("the claim of another was overwritten: %d writes", n)
			}
			c.Save(ctx, found("T1")) // all the same
			if loads(ctx, replica(t, ctx, s)) != "T1" {
				t.Error("nothing was saved in distrust")
			}
			time.Sleep(distrustTime)
			wantClaim(t, ctx, c, token.ClaimWon, "s")
			if n := c.Stats().Unopened[UnopenedKey]; n != 1 {
				t.Errorf("%d values are counted as sealed with an unknown key", n)
			}
		})
	})
}

// The key of a claim is lost while the claim is in a store in which nothing expires.
func TestClaimThatIsNeverOpenedIsReplaced(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context) {
		store := &sharetest.Store{Eternal: true}
		wantClaim(t, ctx, replica(t, ctx, store, keyB), token.ClaimWon, "s")
		c := replica(t, ctx, store)
		wantClaim(t, ctx, c, token.ClaimUnknown, "s")
		time.Sleep(maxHold - time.Second)
		wantClaim(t, ctx, c, token.ClaimUnknown, "s")
		time.Sleep(distrustTime)
		wantClaim(t, ctx, c, token.ClaimWon, "s")
	})
}

// A replica that wins finds what was saved before.
func TestWinnerFindsWhatWasSavedBefore(t *testing.T) {
	stores(t, func(t *testing.T, s Store, memory *sharetest.Store) {
		bubble(t, func(t *testing.T, ctx context.Context) {
			memory.Latency = func() time.Duration { return 5 * time.Millisecond }
			one, other := replica(t, ctx, s), replica(t, ctx, s)
			wantClaim(t, ctx, one, token.ClaimWon, "s")
			if loads(ctx, other) != "" {
				t.Fatal("a token before any was saved")
			}
			one.Save(ctx, found("T1"))
			one.Release(ctx, 0, token.Secret{})
			wantClaim(t, ctx, other, token.ClaimWon, "s")
			if loads(ctx, other) != "T1" {
				t.Error("the winner does not find the token")
			}
		})
	})
}

// A store that damages every value holds up no request for longer than the claim takes.
func TestStoreThatDamagesValues(t *testing.T) {
	stores(t, func(t *testing.T, s Store, memory *sharetest.Store) {
		bubble(t, func(t *testing.T, ctx context.Context) {
			memory.Latency = func() time.Duration { return time.Millisecond }
			damage := func(_ string, value []byte) []byte { value[len(value)-1] ^= 1; return value }
			memory.Alter = damage
			for range 10 {
				c := replica(t, ctx, s)
				for range 3 {
					if took := wholeFlight(ctx, c); took > 50*time.Millisecond {
						t.Errorf("held up for %v", took)
					}
					if c.Stats().Claims[token.ClaimLost] > 0 {
						t.Error("lost to a claim that cannot be opened")
					}
				}
			}
		})
	})
}

// A storage is slow, and the flight has little time: it must not be spent on a claim.
func TestClaimWithoutTime(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context) {
		store := &sharetest.Store{Eternal: true, Latency: func() time.Duration { return 100 * time.Millisecond }}
		c := replica(t, ctx, store)
		short, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
		defer cancel()
		if answer := c.Claim(short, proof("s")); answer != token.ClaimUnknown || len(store.Values()) != 0 || short.Err() != nil {
			t.Errorf("claim %d, %d values in the store, the time is over: %v", answer, len(store.Values()), short.Err())
		}
		long, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if answer := c.Claim(long, proof("s")); answer != token.ClaimWon {
			t.Errorf("claim %d with enough time", answer)
		}
	})
}
