// Package status records what happens to a credential and reports what it means and what to do. The counters, the history,
// the diagnosis, the log lines, the events and the spans of a credential all come from here.
//
// A record belongs to the name of a credential and outlives reloads of the configuration. It holds no secret and no token.
package status
