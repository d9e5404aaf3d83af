package main

import (
	"fmt"
	"net/http"
	"os"
)

// The program starts itself again for what is measured against, and says by these variables what to be.
const (
	roleVariable     = "TOKEN_PROXY_BENCH_ROLE"
	listenVariable   = "TOKEN_PROXY_BENCH_LISTEN"
	upstreamVariable = "TOKEN_PROXY_BENCH_UPSTREAM"
	tokenVariable    = "TOKEN_PROXY_BENCH_TOKEN_URL"
	marginVariable   = "TOKEN_PROXY_BENCH_MARGIN"
	latencyVariable  = "TOKEN_PROXY_BENCH_TOKEN_LATENCY"

	roleServices   = "services"
	roleFortyLines = "forty-lines"
)

func playRole(role string) error {
	handler, err := roleHandler(role)
	if err != nil {
		return err
	}
	return http.ListenAndServe(os.Getenv(listenVariable), handler)
}

func roleHandler(role string) (http.Handler, error) {
	switch role {
	case roleServices:
		return newServices(os.Getenv(latencyVariable))
	case roleFortyLines:
		return fortyLines(os.Getenv(upstreamVariable), os.Getenv(tokenVariable), os.Getenv(marginVariable))
	default:
		return nil, fmt.Errorf("%s: unknown role %q", roleVariable, role)
	}
}
