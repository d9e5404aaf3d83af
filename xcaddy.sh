#!/usr/bin/env bash
# Builds Caddy with the token_proxy modules of this tree, as `xcaddy build` does with a released version, and lists
# these modules.
#
#	./xcaddy.sh [<output file>]        default: ./caddy
set -euo pipefail
trap 'echo "xcaddy.sh: line $LINENO failed" >&2' ERR

caddy_version=v2.11.9
xcaddy_version=v0.4.7
module=github.com/tokenproxy/caddy-token-proxy

# install_xcaddy works in a module of its own, because `go install xcaddy@version` requests the list of all versions,
# which some module mirrors do not have.
install_xcaddy() {
	local scratch
	scratch=$(mktemp -d)
	(
		cd "$scratch"
		go mod init scratch
		go mod edit -require="github.com/caddyserver/xcaddy@$xcaddy_version"
		go install -mod=mod github.com/caddyserver/xcaddy/cmd/xcaddy
	)
	rm -rf "$scratch"
}

output=$(realpath -m "${1:-$(dirname "$0")/caddy}")
cd "$(dirname "$0")"

gobin=$(go env GOBIN)
PATH=$PATH:${gobin:-$(go env GOPATH)/bin}
if ! command -v xcaddy >/dev/null; then
	echo "installing xcaddy $xcaddy_version"
	install_xcaddy
fi

# The module is this tree, so Go must not look for a released version of it.
govcs=$(go env GOVCS)
export GONOPROXY="$module,$(go env GONOPROXY)" GOVCS="$module:off${govcs:+,$govcs}"

xcaddy build "$caddy_version" --output "$output" --with "$module/caddymodule" --replace "$module=."

echo "token_proxy modules in $output:"
"$output" list-modules --packages | grep -F "$module"
