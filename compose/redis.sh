#!/bin/bash
# Starts Redis. It keeps nothing on disk: what comes back from an old snapshot would be believed. It evicts
# nothing: an evicted burial would let an old value into the cache.
set -euo pipefail
umask 077
printf 'requirepass %s\n' "$(cat /run/secrets/password)" > /tmp/redis.conf
exec redis-server /tmp/redis.conf --save '' --appendonly no --maxmemory 256mb --maxmemory-policy noeviction
