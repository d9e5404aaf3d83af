// Package status is the one home of what is known of a credential: what has happened to it, how often, what that means,
// and what to do. Counters, history, diagnosis, log lines, events and spans all come from here.
//
// What is known belongs to the credential's name and outlives reloads of the configuration. None of it is secret.
package status
