package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strconv"
)

// The program starts itself again, as the services and as a contender. These variables set the role and its options.
const (
	roleVariable     = "TOKEN_PROXY_BENCH_ROLE"
	listenVariable   = "TOKEN_PROXY_BENCH_LISTEN"
	upstreamVariable = "TOKEN_PROXY_BENCH_UPSTREAM"
	tokenVariable    = "TOKEN_PROXY_BENCH_TOKEN_URL"
	marginVariable   = "TOKEN_PROXY_BENCH_MARGIN"
	latencyVariable  = "TOKEN_PROXY_BENCH_TOKEN_LATENCY"

	secureVariable      = "TOKEN_PROXY_BENCH_SECURE_LISTEN"
	authorityVariable   = "TOKEN_PROXY_BENCH_AUTHORITY"
	keyVariable         = "TOKEN_PROXY_BENCH_KEY"
	versionsVariable    = "TOKEN_PROXY_BENCH_VERSIONS"
	credentialsVariable = "TOKEN_PROXY_BENCH_CREDENTIALS"

	roleServices   = "services"
	roleFortyLines = "forty-lines"
)

func playRole(role string) error {
	handler, err := roleHandler(role)
	if err != nil {
		return err
	}
	failed := make(chan error)
	go func() { failed <- http.ListenAndServe(os.Getenv(listenVariable), handler) }()
	if secure := os.Getenv(secureVariable); secure != "" {
		go func() {
			failed <- http.ListenAndServeTLS(secure, os.Getenv(authorityVariable), os.Getenv(keyVariable), handler)
		}()
	}
	return <-failed
}

func roleHandler(role string) (http.Handler, error) {
	switch role {
	case roleServices:
		return newServices(os.Getenv(latencyVariable))
	case roleFortyLines:
		return manyFortyLines()
	default:
		return nil, fmt.Errorf("%s: unknown role %q", roleVariable, role)
	}
}

// manyFortyLines returns forty lines for each credential.
func manyFortyLines() (http.Handler, error) {
	transport, err := fortyTransport(os.Getenv(authorityVariable), os.Getenv(versionsVariable))
	if err != nil {
		return nil, err
	}
	count, _ := strconv.Atoi(os.Getenv(credentialsVariable))
	mux := http.NewServeMux()
	for n := range max(count, 1) {
		path := credentialPath(n)
		if n == 0 {
			path = "/"
		}
		h, err := fortyLines(os.Getenv(upstreamVariable), os.Getenv(tokenVariable), os.Getenv(marginVariable), clientIDOf(n, count), transport)
		if err != nil {
			return nil, err
		}
		mux.Handle(path, h)
	}
	return mux, nil
}

// fortyTransport returns the transport of the forty lines. It has Go's defaults, except that it keeps as many idle
// connections to a host as the others do. With Go's default of 2, most requests would open a connection.
func fortyTransport(authority, versions string) (*http.Transport, error) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConns, transport.MaxIdleConnsPerHost = 0, idleConnections
	transport.ForceAttemptHTTP2 = versions == overHTTP2
	if versions == "" {
		return transport, nil
	}
	certificate, err := os.ReadFile(authority)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(certificate)
	transport.TLSClientConfig = &tls.Config{RootCAs: pool}
	return transport, nil
}

// self returns the command that runs this program in a role.
func self(ctx context.Context, role, listen string, env ...string) (*exec.Cmd, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, program)
	cmd.Env = append(environment(), roleVariable+"="+role, listenVariable+"="+listen)
	cmd.Env = append(cmd.Env, env...)
	return cmd, nil
}
