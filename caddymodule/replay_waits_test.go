package caddymodule

import (
	"strings"
	"testing"
)

// reverse_proxy counts requests that wait for another token as requests to the upstream.
func TestWarningOfWaits(t *testing.T) {
	const message = "while a request waits for another token"
	for options, want := range map[string]string{
		"unhealthy_request_count 5":                              `"options":["unhealthy_request_count"]`,
		"unhealthy_request_count 5\n on_unauthorized pass":       "",
		"fail_duration 10s\n max_fails 3\n unhealthy_status 5xx": "",
	} {
		t.Run(options, func(t *testing.T) {
			tokens := newTokenServer(t)
			server, _ := startProxy(t, tokens.credential("api"), "token_proxy api 127.0.0.1:1 {\n "+options+"\n}")
			logs := server.logs()
			if got := strings.Contains(logs, message); got != (want != "") || !strings.Contains(logs, want) {
				t.Errorf("warned: %t, want %q", got, want)
			}
		})
	}
}
