package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"sync"
)

// profiles writes a CPU profile of each contender with an admin API, if the settings request it, and one more for each
// load. It runs after the rounds, because profiling takes CPU.
//
//	go tool pprof -top -diff_base reverse_proxy.pprof token_proxy.pprof
//	go tool pprof -top -diff_base reverse_proxy-post_64k.pprof token_proxy-post_64k.pprof
func (b *bench) profiles(ctx context.Context) error {
	if !b.settings.profile {
		return nil
	}
	for _, c := range contenders {
		if !c.hasAdmin {
			continue
		}
		if err := b.profile(ctx, c, lasting, c.name); err != nil {
			return err
		}
		for _, w := range b.settings.loads {
			s := lasting
			s.workload = w
			if err := b.profile(ctx, c, s, c.name+"-"+w.name); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *bench) profile(ctx context.Context, c contender, s setup, name string) error {
	b.show.status("profiling: " + name)
	err := b.profileTo(ctx, c, s, filepath.Join(b.settings.out, name+".pprof"))
	if err != nil {
		return fmt.Errorf("profiling %s: %w", name, err)
	}
	return nil
}

func (b *bench) profileTo(ctx context.Context, c contender, s setup, path string) error {
	return b.with(ctx, c, s, func(e *entrant) error {
		b.warmUp(e)
		seconds := math.Ceil(b.settings.duration.Seconds())
		var busy sync.WaitGroup
		stop := make(chan struct{})
		busy.Go(func() {
			for ctx.Err() == nil {
				select {
				case <-stop:
					return
				default:
					e.load.closedLoop(b.settings.duration / slicesOfPhase)
				}
			}
		})
		err := save(ctx, fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%.0f", e.admin, seconds), path)
		close(stop)
		busy.Wait()
		return err
	})
}

// save downloads a URL into a file.
func save(ctx context.Context, url, path string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	content, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d: %s", res.StatusCode, content)
	}
	return os.WriteFile(path, content, 0o644)
}
