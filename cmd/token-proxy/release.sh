#!/usr/bin/env bash
# Builds a release: for each platform an archive and an SBOM (CycloneDX), and checksums of them all. The same commit gives
# the same bytes, wherever it is built with the same Go.
#
#	cmd/token-proxy/release.sh [<os>/<arch>...]        into .build/release; by default for all four platforms
#	cmd/token-proxy/release.sh binary <output file>    the binary alone, for GOOS and GOARCH: for the Dockerfile
#
#	VERSION    what `token-proxy version` says; by default what `git describe` says
#	OUTPUT     where to, instead of .build/release
#
# It needs Go, git, and GNU tar.
set -euo pipefail
trap 'echo "release.sh: line $LINENO failed" >&2' ERR

platforms=(linux/amd64 linux/arm64 darwin/amd64 darwin/arm64)
sbom_tool=github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.10.0
caddy=github.com/caddyserver/caddy/v2

here=$PWD
cd "$(dirname "$0")/../.."
root=$PWD
version=${VERSION:-$(git describe --tags --always --dirty)}

# build_binary builds for GOOS and GOARCH. Nothing of this machine gets into the binary: no C, no path, no build id; but
# the commit does.
build_binary() {
	CGO_ENABLED=0 GOAMD64=v1 GOARM64=v8.0 GOFLAGS='' GOWORK=off go build -trimpath -buildvcs=true \
		-ldflags "-s -w -buildid= -X $caddy.CustomVersion=$version -X $caddy.CustomBinaryName=token-proxy" \
		-o "$1" ./cmd/token-proxy
}

if [ "${1:-}" = binary ]; then
	build_binary "$(cd "$here" && realpath -m "$2")"
	exit
fi

if [ $# -gt 0 ]; then
	platforms=("$@")
fi
output=$(cd "$here" && realpath -m "${OUTPUT:-$root/.build/release}")
if [ -n "$(git status --porcelain)" ]; then
	echo "release.sh: there are changes that are not committed: the binaries say so, and nobody can build them again" >&2
fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
rm -rf "$output"
mkdir -p "$output"

GOBIN=$scratch/bin go install "$sbom_tool" # not `go run`, which would build it for the platform of the release
commit_time=$(git log -1 --format=%ct)

for platform in "${platforms[@]}"; do
	export GOOS=${platform%/*} GOARCH=${platform#*/}
	name=token-proxy_${version}_${GOOS}_$GOARCH
	echo "-- $name"
	mkdir "$scratch/$name"
	build_binary "$scratch/$name/token-proxy"
	cp --parents LICENSE README.md CHANGELOG.md Caddyfile.example caddymodule/README.md "$scratch/$name"
	tar --create --directory "$scratch" --format=gnu --sort=name --mtime="@$commit_time" --owner=0 --group=0 --numeric-owner \
		--mode=go=u-w "$name" | gzip --no-name --best >"$output/$name.tar.gz"
	"$scratch/bin/cyclonedx-gomod" bin -json -std -noserial -notimestamp -version "$version" \
		-output "$output/$name.cdx.json" "$scratch/$name/token-proxy"
done

(cd "$output" && sha256sum -- * >"$scratch/checksums" && mv "$scratch/checksums" "token-proxy_${version}_checksums.txt")
cat "$output/token-proxy_${version}_checksums.txt"
