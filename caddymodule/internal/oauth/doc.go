// Package oauth talks to token endpoints. It builds requests, sends them within strict limits of size and time, and reads
// the answers tolerantly.
//
// The answers are untrusted. An error contains no text of an answer except its `error` code, and that only if it looks like
// a code.
package oauth
