#!/usr/bin/env bash
# Refreshes default.pgo, by which the compiler knows what is worth optimizing: CPU profiles of token_proxy and of
# reverse_proxy under load, merged. To be run when Go, Caddy or the request's path has changed much.
#
#	cmd/token-proxy/profile.sh [<duration of each profile>]        30s by default
set -euo pipefail
cd "$(dirname "$0")/../.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# Without the last profile, whose effects it would measure, and without the paths of this machine's sources.
go build -pgo=off -trimpath -o "$scratch/token-proxy" ./cmd/token-proxy
go run ./cmd/token-proxy-bench -rounds 0 -profile -duration "${1:-30s}" -binary "$scratch/token-proxy" -out "$scratch"
go tool pprof -proto "$scratch/token_proxy.pprof" "$scratch/reverse_proxy.pprof" >"$scratch/merged"
mv "$scratch/merged" cmd/token-proxy/default.pgo
