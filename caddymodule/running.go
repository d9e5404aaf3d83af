package caddymodule

import (
	"slices"
	"sync"
)

// running has the apps that have been started and not yet cleaned up, the latest last. During a reload these are two, and
// Caddy may still give up the new one.
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

// enterForce makes this the configuration in force.
func (a *App) enterForce() {
	running.Lock()
	defer running.Unlock()
	running.apps = append(running.apps, a)
	replayMemory.limit.Store(a.replayMemory())
}

// leaveForce ends that, and restores the limit of the configuration that is then in force.
func (a *App) leaveForce() {
	running.Lock()
	defer running.Unlock()
	running.apps = slices.DeleteFunc(running.apps, func(other *App) bool { return other == a })
	limit := int64(defaultReplayMemory)
	if n := len(running.apps); n > 0 { // this configuration may have been given up after it set its own limit
		limit = running.apps[n-1].replayMemory()
	}
	replayMemory.limit.Store(limit)
}
