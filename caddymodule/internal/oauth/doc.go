// Package oauth speaks to token endpoints: it builds the requests, sends them within strict limits, and reads the
// answers tolerantly but boundedly.
//
// What a token endpoint sends is untrusted. Nothing of it reaches an error but its `error` code, and that only if
// it looks like one.
package oauth
