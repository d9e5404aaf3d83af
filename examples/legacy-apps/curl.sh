#!/bin/sh
# curl: the call has an address, and no auth code.
set -eu
curl --fail --silent --show-error "${ORDERS_API:-http://127.0.0.1:8080}/orders"
