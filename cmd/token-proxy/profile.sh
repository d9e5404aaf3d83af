#!/usr/bin/env bash
# Records default.pgo again, the profile that guides the compiler's optimizations. It merges CPU profiles of token_proxy
# and reverse_proxy under load. Run the script after an update of Go or Caddy, and after a change to the path of a
# request.
#
#	cmd/token-proxy/profile.sh [<duration of each profile>]        30s by default
set -euo pipefail
cd "$(dirname "$0")/../.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# -pgo=off, because the last profile would influence the new one. -trimpath keeps the paths of this machine out of it.
go build -pgo=off -trimpath -o "$scratch/token-proxy" ./cmd/token-proxy
go run ./cmd/token-proxy-bench -rounds 0 -profile -duration "${1:-30s}" -binary "$scratch/token-proxy" -out "$scratch"
go tool pprof -proto "$scratch/token_proxy.pprof" "$scratch/reverse_proxy.pprof" >"$scratch/merged"
mv "$scratch/merged" cmd/token-proxy/default.pgo
