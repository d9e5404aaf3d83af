package token

import (
	"context"
	"fmt"
	"runtime"
	"testing"
	"time"
)

// TestAcquireFreshAllocatesNothing guards the path of nearly every request.
func TestAcquireFreshAllocatesNothing(t *testing.T) {
	s := freshSource(t)
	ctx := context.Background()
	if n := testing.AllocsPerRun(1000, func() {
		if _, err := s.Acquire(ctx); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations for each request, want none", n)
	}
}

// TestAcquireFreshTakesNoLock says that nothing that holds the source's lock makes such a request wait.
func TestAcquireFreshTakesNoLock(t *testing.T) {
	s := freshSource(t)
	s.mu.Lock()
	defer s.mu.Unlock()
	done := make(chan error, 1)
	go func() {
		_, err := s.Acquire(context.Background())
		done <- err
	}()
	select {
	case err := <-done:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it waits for the lock")
	}
}

// TestColdHerd says on the real scheduler, where nobody waits politely, that a herd costs one call.
func TestColdHerd(t *testing.T) {
	for range 20 {
		e := newEndpoint(grants(hour))
		s := NewSource(e.config(Policy{}))
		got := herd(500, func() string {
			l, err := s.Acquire(context.Background())
			return fmt.Sprint(l.Value().Reveal(), err)
		})
		s.Rest()
		if len(got) != 1 {
			t.Fatalf("callers got %v, want all the same", got)
		}
		e.wantCalls(t, 1)
	}
}

// freshSource makes a source on the real clock that holds a token for an hour and does nothing by itself.
func freshSource(t testing.TB) *Source {
	t.Helper()
	s := NewSource(newEndpoint(grants(hour)).config(Policy{}))
	mustAcquire(t, s)
	s.Rest()
	return s
}

func BenchmarkAcquireFresh(b *testing.B) {
	ctx := context.Background()
	s := freshSource(b)
	b.Run("serial", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, _ = s.Acquire(ctx)
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				_, _ = s.Acquire(ctx)
			}
		})
	})
	for _, size := range sizes {
		b.Run(fmt.Sprintf("one of %d sources", size), func(b *testing.B) {
			all := make([]*Source, size)
			for n := range all {
				all[n] = NewSource(Config{Fetcher: fixed("a token")})
				mustAcquire(b, all[n])
				all[n].Rest()
			}
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				_, _ = all[n%size].Acquire(ctx)
				n++
			}
		})
	}
}

// sizes are how many sources a benchmark looks among.
var sizes = []int{10, 1000, 100_000}

// fixed is a Fetcher that knows one token.
type fixed string

func (f fixed) Fetch(context.Context) (Issued, error) {
	return Issued{Token: NewSecret(string(f)), Lifetime: hour}, nil
}

func (f fixed) Prepare() Call { return Call{Proof: NewSecret(f.Proof()), Fetch: f.Fetch} }

func (fixed) Proof() string { return "" }

func BenchmarkColdHerd500(b *testing.B) {
	b.ReportAllocs()
	calls := 0
	for b.Loop() {
		e := newEndpoint(grants(hour))
		s := NewSource(e.config(Policy{}))
		herd(500, func() string {
			_, err := s.Acquire(context.Background())
			return fmt.Sprint(err)
		})
		s.Rest()
		calls += e.count()
	}
	b.ReportMetric(float64(calls)/float64(b.N), "calls/op")
}

func BenchmarkVaultSource(b *testing.B) {
	for _, size := range sizes {
		b.Run(fmt.Sprintf("one of %d", size), func(b *testing.B) {
			v := newVault(b, int64(size))
			keys := make([]Key, size)
			for n := range keys {
				keys[n] = numbered(n)
				v.Source(keys[n], sleeping)
			}
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				v.Source(keys[n%size], sleeping)
				n++
			}
		})
	}
}

// BenchmarkStorm500 is 500 requests at once whose token the API has refused.
func BenchmarkStorm500(b *testing.B) {
	b.ReportAllocs()
	calls := 0
	for b.Loop() {
		e := newEndpoint(grants(hour))
		s := NewSource(e.config(Policy{}))
		l := mustAcquire(b, s)
		herd(500, func() string {
			_, ok := l.Reject(context.Background(), Certain)
			return fmt.Sprint(ok)
		})
		s.Rest()
		calls += e.count() - 1
	}
	b.ReportMetric(float64(calls)/float64(b.N), "calls/op")
}

// TestSourcesAreSmall bounds the memory of sources that hold a token, in a vault, beyond the tokens' own text.
func TestSourcesAreSmall(t *testing.T) {
	const count, most = 100_000, 1024
	v := newVault(t, count)
	before := heapInUse()
	for n := range count {
		s := v.Source(numbered(n), func() *Source { return NewSource(Config{Fetcher: fixed("a token")}) })
		mustAcquire(t, s)
		s.Rest()
	}
	per := float64(heapInUse()-before) / float64(v.size())
	t.Logf("%.0f bytes for each of %d sources", per, v.size())
	if per > most {
		t.Errorf("%.0f bytes for each source, want %d at most", per, most)
	}
	runtime.KeepAlive(v)
}

// TestVaultIsSmall says what an empty vault takes, because every process with a credential has one.
func TestVaultIsSmall(t *testing.T) {
	const most = 400 << 10
	before := heapInUse()
	v := newVault(t, 10_000)
	if took := int64(heapInUse()) - int64(before); took > most {
		t.Errorf("an empty vault takes %d KiB, want at most %d", took>>10, most>>10)
	}
	runtime.KeepAlive(v)
}

// heapInUse returns the bytes of all reachable objects.
func heapInUse() uint64 {
	runtime.GC()
	runtime.GC() // frees what the first one only finds unreachable
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
