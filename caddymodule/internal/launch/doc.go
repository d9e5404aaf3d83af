// Package launch runs an application together with the sidecar, for the command `token-proxy exec`. It knows no Caddy.
//
// Three processes take part: exec itself, the sidecar, and the application, which are children of exec. The sidecar gets a
// pipe as its standard input and ends when the pipe does, whatever ends exec.
package launch
