#!/bin/bash
# Makes the secrets of the composed system, once: one directory for each who may read it.
# Letters and digits only: they need no escaping in URLs, files or SQL.
set -euo pipefail
cd /secrets

# Makes a secret, or prints the one that was made before.
secret() {
    local file=all/$1
    if [ ! -s "$file" ]; then
        tr -dc 'A-Za-z0-9' < /dev/urandom | head -c 32 > "$file.draft" || true
        mv "$file.draft" "$file"
    fi
    cat "$file"
}

# Writes a file in one step, so that a half-written one is never read.
put() {
    printf '%s\n' "$2" > "$1.draft"
    chmod 0444 "$1.draft"
    mv "$1.draft" "$1"
}

install -d -m 0700 all
install -d -m 0755 api migrate postgres pgbouncer redis s3 grafana

app=$(secret app)
migrator=$(secret migrator)
redis=$(secret redis)
s3=$(secret s3)

if [ ! -s all/jwt.pem ]; then
    openssl genpkey -algorithm ed25519 -out all/jwt.pem.draft
    mv all/jwt.pem.draft all/jwt.pem
fi

put api/database-url "postgres://shoal_app:$app@pgbouncer-primary:6432/shoal"
put api/database-replica-urls "postgres://shoal_app:$app@pgbouncer-replica:6432/shoal"
put api/redis-url "redis://:$redis@redis:6379"
put api/aws-access-key-id shoal
put api/aws-secret-access-key "$s3"
put api/jwt-private-keys "$(cat all/jwt.pem)"

put migrate/database-direct-url "postgres://shoal_migrator:$migrator@postgres-primary:5432/shoal"

put postgres/superuser "$(secret superuser)"
put postgres/migrator "$migrator"
put postgres/app "$app"
put postgres/replication "$(secret replication)"

put pgbouncer/app "$app"
put pgbouncer/console "$(secret console)"

put redis/password "$redis"

put s3/access-key shoal
put s3/secret-key "$s3"

put grafana/admin "$(secret grafana)"
