package main

import (
	"fmt"
	"strings"
)

// workload is what the clients send, and how the contenders reach the API. The zero value is what the other phases
// use: small GETs to an API without TLS.
type workload struct {
	name        string // in -loads and in the keys of the metrics
	title       string
	versions    string // of HTTP to the API behind TLS, as Caddy names them; "" without TLS
	path        string // default: apiPath
	body        int    // of each request, in bytes
	connections int    // default: those of the settings
	credentials int    // used in turn; 0 for a single one
	streams     bool   // each connection has one event stream, and all of them are idle
}

const (
	overHTTP1 = "1.1"
	overHTTP2 = "1.1 2"

	keyThousand    = "connections_1000"
	keyStreams     = "streams_1000"
	keyCredentials = "credentials_100"

	startsName = "starts"
	redisName  = "redis"
)

var workloads = []workload{
	{name: "get", title: "GET, plain"},
	{name: "get_tls1", title: "GET, TLS, HTTP/1.1", versions: overHTTP1},
	{name: "get_tls2", title: "GET, TLS, HTTP/2", versions: overHTTP2},
	{name: "post_1k", title: "POST 1 KiB, TLS", versions: overHTTP1, body: 1 << 10},
	{name: "post_64k", title: "POST 64 KiB, TLS", versions: overHTTP1, body: 64 << 10},
	{name: "post_1m", title: "POST 1 MiB, TLS", versions: overHTTP1, body: 1 << 20},
	{name: "answer_1m", title: "answer of 1 MiB, TLS", versions: overHTTP1, path: answerPath + "1048576"},
	{name: keyThousand, title: "GET, plain, 1,000 connections", connections: 1000},
	{name: keyStreams, title: "1,000 idle event streams", connections: 1000, path: streamPath, streams: true},
	{name: keyCredentials, title: "GET, plain, 100 credentials", credentials: 100},
}

// loadNames returns what -loads accepts: the workloads, the first requests after a start, and token_proxy with Redis.
func loadNames() string {
	var names []string
	for _, w := range workloads {
		names = append(names, w.name)
	}
	return strings.Join(append(names, startsName, redisName), ",")
}

// requests returns the requests that a connection sends in turn.
func (w *workload) requests(addr string) (all [][]byte) {
	if w.credentials == 0 {
		return [][]byte{requestFor(addr, w.requestPath(), w.body)}
	}
	for n := range w.credentials {
		all = append(all, requestFor(addr, credentialPath(n), w.body))
	}
	return all
}

func (w *workload) requestPath() string {
	if w.path == "" {
		return apiPath
	}
	return w.path
}

// credentialPath is the path whose requests carry the token of credential n.
func credentialPath(n int) string { return fmt.Sprint(ordersPath, n) }

// key returns the key of a metric of this workload.
func (w *workload) key(metric string) string { return w.name + "_" + metric }
