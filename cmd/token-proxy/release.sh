#!/usr/bin/env bash
# Builds a release: for each platform an archive and an SBOM (CycloneDX), and one file with all checksums. The same
# commit, built with the same Go, gives the same bytes on any machine.
#
#	cmd/token-proxy/release.sh [<os>/<arch>...]        a release, for all six platforms by default
#	cmd/token-proxy/release.sh binary <output file>    the binary alone, for GOOS and GOARCH, as the Dockerfile needs it
#	cmd/token-proxy/release.sh sbom <binary> <output file>    the SBOM of a binary alone
#	cmd/token-proxy/release.sh documents <folder>      the documents alone, as they are in an archive
#	cmd/token-proxy/release.sh archive <os> <folder> <output file without extension>    an archive of a folder alone
#
#	VERSION    the version that `token-proxy version` reports (default: the output of `git describe`)
#	OUTPUT     the folder for the release (default: .build/release)
#
# The archives for Windows are ZIP files, those for the other systems are .tar.gz files. The script requires Go, git, zip
# (Info-ZIP), and GNU tar and coreutils.
set -euo pipefail
trap 'echo "release.sh: line $LINENO failed" >&2' ERR

platforms=(linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64 windows/arm64)
documents=(LICENSE README.md CHANGELOG.md Caddyfile.example caddymodule/README.md)
repository=https://github.com/tokenproxy/caddy-token-proxy
sbom_tool=github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.10.0
caddy=github.com/caddyserver/caddy/v2

here=$PWD
cd "$(dirname "$0")/../.."
root=$PWD
version=${VERSION:-$(git describe --tags --always --dirty)}

# build_binary builds for GOOS and GOARCH. The binary contains the commit, but nothing of this machine, because the
# build has no C, no paths and no build id.
build_binary() {
	CGO_ENABLED=0 GOAMD64=v1 GOARM64=v8.0 GOFLAGS='' GOWORK=off go build -trimpath -buildvcs=true \
		-ldflags "-s -w -buildid= -X $caddy.CustomVersion=$version -X $caddy.CustomBinaryName=token-proxy" \
		-o "$1" ./cmd/token-proxy
}

# make_sbom lists the modules in a binary. The tool is built for this machine, whatever GOOS and GOARCH are. The list would
# have the tool's hashes, which are different on each machine.
make_sbom() {
	[ -x "$scratch/bin/cyclonedx-gomod" ] || env -u GOOS -u GOARCH CGO_ENABLED=0 GOBIN="$scratch/bin" go install "$sbom_tool"
	mkdir -p "$(dirname "$2")"
	"$scratch/bin/cyclonedx-gomod" bin -json -std -noserial -notimestamp -version "$version" -output "$2" "$1"
	sed -i '/^ \{8\}"hashes": \[$/,/^ \{8\}\],$/d' "$2"
}

# copy_documents copies the documents into a folder.
copy_documents() {
	cp --parents "${documents[@]}" "$1"
	local document
	for document in "${documents[@]}"; do
		if [[ $document == *.md ]]; then
			mend_links "$document" "$1"
		fi
	done
}

# mend_links replaces the relative links of a document whose files are not in the folder, with links to the same files
# in the repository at this commit. It fails if the repository does not have such a file either.
mend_links() {
	local document=$1 folder=$2 text commit link file kind
	text=$(<"$document")
	commit=$(git rev-parse HEAD)
	for link in $(grep -oE '\]\([^)[:space:]]+\)' "$document" | sed -E 's/^\]\(|\)$//g' | grep -vE '://|^#' | sort -u); do
		file=$(realpath --canonicalize-missing --relative-to="$root" "$(dirname "$document")/${link%%#*}")
		if [ -e "$folder/$file" ]; then
			continue
		elif [ -d "$file" ]; then
			kind=tree
		elif [ -f "$file" ]; then
			kind=blob
		else
			echo "release.sh: $document links to $link, which does not exist" >&2
			return 1
		fi
		file+=${link#"${link%%#*}"} # the anchor
		text=${text//"]($link)"/"]($repository/$kind/$commit/$file)"}
	done
	printf '%s\n' "$text" >"$folder/$document"
}

# make_archive makes an archive of a folder for an operating system. Every file has the time of the commit. A ZIP file has no
# owners, and its times are local times, so they are set in UTC.
make_archive() {
	local system=$1 folder=$2 archive=$3 name time
	name=$(basename "$folder")
	time=@$(git log -1 --format=%ct)
	if [ "$system" != windows ]; then
		tar --create --directory "$folder/.." --format=gnu --sort=name --mtime="$time" --owner=0 --group=0 --numeric-owner \
			--mode=go=u-w "$name" | gzip --no-name --best >"$archive.tar.gz"
		return
	fi
	export TZ=UTC
	chmod -R u=rwX,go=rX "$folder"
	find "$folder" -exec touch --date="$time" {} +
	(cd "$folder/.." && find "$name" -type f | LC_ALL=C sort | zip -9 -X -D -q "$archive.zip" -@)
}

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

case ${1:-} in
sbom)
	make_sbom "$(cd "$here" && realpath "$2")" "$(cd "$here" && realpath -m "$3")"
	exit
	;;
binary)
	build_binary "$(cd "$here" && realpath -m "$2")"
	exit
	;;
documents)
	copy_documents "$(cd "$here" && realpath -m "$2")"
	exit
	;;
archive)
	make_archive "$2" "$(cd "$here" && realpath -m "$3")" "$(cd "$here" && realpath -m "$4")"
	exit
	;;
esac

if [ $# -gt 0 ]; then
	platforms=("$@")
fi
output=$(cd "$here" && realpath -m "${OUTPUT:-$root/.build/release}")
if [ -n "$(git status --porcelain)" ]; then
	echo "release.sh: the tree has changes that are not committed. The binaries report this, and cannot be built again" >&2
fi
rm -rf "$output"
mkdir -p "$output"

for platform in "${platforms[@]}"; do
	export GOOS=${platform%/*} GOARCH=${platform#*/}
	name=token-proxy_${version}_${GOOS}_$GOARCH
	binary=token-proxy
	[ "$GOOS" != windows ] || binary=token-proxy.exe
	echo "-- $name"
	mkdir "$scratch/$name"
	build_binary "$scratch/$name/$binary"
	copy_documents "$scratch/$name"
	make_archive "$GOOS" "$scratch/$name" "$output/$name"
	make_sbom "$scratch/$name/$binary" "$output/$name.cdx.json"
done

(cd "$output" && sha256sum -- * >"$scratch/checksums" && mv "$scratch/checksums" "token-proxy_${version}_checksums.txt")
cat "$output/token-proxy_${version}_checksums.txt"
