package devserver

// granted is what a token is issued for.
type granted struct {
	grant      string
	thumbprint string // of the key that the token is bound to, or empty
	claims     string // the parameter claims, or empty
}
