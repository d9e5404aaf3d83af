#!/bin/sh
# Makes what the replicas and Redis have in common, in the folder secrets or the one that the first argument names:
#
#	key, other-key   the keys that seal the shared tokens
#	redis-password   the password of the replicas for Redis
#	users.acl        the users of Redis. It has a hash of the password, and the rights that the replicas need
#
# A file that exists stays as it is. To replace one, delete it first.
set -eu
umask 077
mkdir -p "${1:-secrets}"
cd "${1:-secrets}"
for name in key other-key redis-password; do
	[ -s "$name" ] || openssl rand -base64 32 >"$name"
done
hash=$(tr -d '\n' <redis-password | openssl dgst -sha256 -r | cut -d ' ' -f 1)
cat >users.acl <<END
user default off
user token-proxy on #$hash ~token_proxy/* -@all +getrange +get +set +del +eval
END
