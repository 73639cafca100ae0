#!/bin/bash
# Fills in the configuration and becomes PgBouncer. The root may be read-only: it writes to /tmp alone.
#
#   POSTGRES_HOST                                      the Postgres behind it
#   APP_PASSWORD_FILE, CONSOLE_PASSWORD_FILE           of the roles shoal_app and pgbouncer
#   POSTGRES_PORT, MAX_CLIENT_CONN, DEFAULT_POOL_SIZE  may be left out
set -euo pipefail
umask 077

: "${POSTGRES_HOST:?the host of the Postgres behind it}"
: "${APP_PASSWORD_FILE:?a file with the password of shoal_app}"
: "${CONSOLE_PASSWORD_FILE:?a file with the password of the console}"

AUTH_FILE=/tmp/users
printf '"shoal_app" "%s"\n"pgbouncer" "%s"\n' "$(< "$APP_PASSWORD_FILE")" "$(< "$CONSOLE_PASSWORD_FILE")" \
    > "$AUTH_FILE"

POSTGRES_PORT=${POSTGRES_PORT:-5432}
LISTEN_ADDRESS=0.0.0.0
LISTEN_PORT=6432
MAX_CLIENT_CONN=${MAX_CLIENT_CONN:-1000}
DEFAULT_POOL_SIZE=${DEFAULT_POOL_SIZE:-40}
SERVER_IDLE_TIMEOUT=600

text=$(< /usr/share/shoal/pgbouncer.ini)
for name in POSTGRES_HOST POSTGRES_PORT LISTEN_ADDRESS LISTEN_PORT AUTH_FILE MAX_CLIENT_CONN \
    DEFAULT_POOL_SIZE SERVER_IDLE_TIMEOUT; do
    text=${text//"\${$name}"/"${!name}"}
done
printf '%s\n' "$text" > /tmp/pgbouncer.ini

exec pgbouncer /tmp/pgbouncer.ini
