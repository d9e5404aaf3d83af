package caddymodule

import (
	"slices"
	"sync"
)

// running knows the apps that have been started and not been cleaned up, the latest last: while a configuration is
// replaced there are two, and the new one may still be given up.
var running struct {
	sync.Mutex
	apps []*App
}

// runningApp returns the app of the configuration in force, or nil.
func runningApp() *App {
	running.Lock()
	defer running.Unlock()
	if len(running.apps) == 0 {
		return nil
	}
	return running.apps[len(running.apps)-1]
}

func (a *App) enterForce() {
	running.Lock()
	defer running.Unlock()
	running.apps = append(running.apps, a)
	replayMemory.limit.Store(a.replayMemory())
}

func (a *App) leaveForce() {
	running.Lock()
	defer running.Unlock()
	running.apps = slices.DeleteFunc(running.apps, func(other *App) bool { return other == a })
	limit := int64(defaultReplayMemory)
	if n := len(running.apps); n > 0 { // a configuration that is given up has set its own limit
		limit = running.apps[n-1].replayMemory()
	}
	replayMemory.limit.Store(limit)
}
