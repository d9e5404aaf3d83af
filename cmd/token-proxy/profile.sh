#!/usr/bin/env bash
# Records default.pgo again, the profile that guides the compiler's optimizations. It merges CPU profiles of token_proxy
# and reverse_proxy under four loads: small requests, without and with TLS, and uploads. Run the script after an update of Go
# or Caddy, and after a change to the path of a request.
#
#	cmd/token-proxy/profile.sh [<duration of each profile>]        15s by default
set -euo pipefail
cd "$(dirname "$0")/../.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# -pgo=off, because the last profile would influence the new one. -trimpath keeps the paths of this machine out of it.
go build -pgo=off -trimpath -o "$scratch/token-proxy" ./cmd/token-proxy
go run ./cmd/token-proxy-bench -rounds 0 -profile -loads get_tls1,get_tls2,post_64k -duration "${1:-15s}" -binary "$scratch/token-proxy" -out "$scratch"
go tool pprof -proto "$scratch"/*.pprof >"$scratch/merged"
mv "$scratch/merged" cmd/token-proxy/default.pgo
