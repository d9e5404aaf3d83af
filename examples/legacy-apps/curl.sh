#!/bin/sh
# A call without auth code, with curl.
set -eu
curl --fail --silent --show-error "${ORDERS_API:-http://127.0.0.1:8080}/orders"
