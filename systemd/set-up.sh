#!/bin/bash
# Makes one Debian 13 machine a whole installation: Postgres, PgBouncer, Redis, nginx, and Shoal under systemd.
# Run by root from the repository, after `cargo build --release --locked`; again for a new version, which replaces the
# replicas one after the other and restarts nothing else that has not changed.
#
#   AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY   of the bucket that systemd/shoal.env names
#   PORTS                                      of the replicas: "3001 3002" if left out; any others are ended
set -euo pipefail
umask 077
cd "$(dirname "$0")/.."

: "${AWS_ACCESS_KEY_ID:?the id of a key for the bucket}"
: "${AWS_SECRET_ACCESS_KEY:?the secret of that key}"
PORTS=${PORTS:-3001 3002}
WORKER=3100
CHANGED=/etc/shoal/changed

export DEBIAN_FRONTEND=noninteractive
apt-get install --yes --no-install-recommends postgresql pgbouncer redis-server nginx gettext-base openssl
DATA_DIRECTORY=$(runuser -u postgres -- psql -Atc 'show data_directory')
HBA_FILE=$(runuser -u postgres -- psql -Atc 'show hba_file')

# Writes the standard input to file $3, for the group $2; if that changes it, notes so for the unit $4. Not to be called
# in a condition, where `set -e` does nothing.
put() {
    install -m "$1" -g "$2" /dev/stdin "$3.new"
    if cmp --silent "$3.new" "$3"; then
        rm "$3.new"
    else
        touch "$CHANGED/$4"
        mv "$3.new" "$3"
    fi
}
# Does $1 to the unit $2 if a file of it has changed since: in this run, or in one that was interrupted.
if_changed() {
    [ -e "$CHANGED/$2" ] || return 0
    systemctl "$1" "$2"
    rm "$CHANGED/$2"
}

# Secrets, made once: letters and digits, which need no escaping. The group shoal may read what the service needs.
id shoal > /dev/null 2>&1 || useradd --system --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin shoal
install -d -m 0755 /etc/shoal
install -d -m 0750 -g shoal /etc/shoal/secrets
install -d -m 0700 /etc/shoal/passwords "$CHANGED"
password() {
    local file=/etc/shoal/passwords/$1
    [ -s "$file" ] || openssl rand -hex 16 > "$file"
    cat "$file"
}
secret() {
    install -m 0640 -g shoal /dev/stdin "/etc/shoal/secrets/$1"
}
app=$(password app)
migrator=$(password migrator)
redis=$(password redis)
install -m 0755 target/release/shoal /usr/local/bin/shoal.new
mv /usr/local/bin/shoal.new /usr/local/bin/shoal
[ -s /etc/shoal/passwords/jwt ] || shoal keys generate > /etc/shoal/passwords/jwt
secret jwt-private-keys < /etc/shoal/passwords/jwt
secret database-url <<< "postgres://shoal_app:$app@127.0.0.1:6432/shoal"
secret redis-url <<< "redis://:$redis@127.0.0.1:6379"
secret aws-access-key-id <<< "$AWS_ACCESS_KEY_ID"
secret aws-secret-access-key <<< "$AWS_SECRET_ACCESS_KEY"
echo "postgres://shoal_migrator:$migrator@127.0.0.1:5432/shoal" > /etc/shoal/database-direct-url

# Postgres: the roles first, over its socket, which the distribution's tools go on using.
SHOAL_DATABASE=shoal SHOAL_MIGRATOR_PASSWORD=$migrator SHOAL_APP_PASSWORD=$app \
    SHOAL_REPLICATION_PASSWORD=$(password replication) \
    runuser -u postgres -- psql --no-psqlrc --set=ON_ERROR_STOP=1 --quiet --file=- < postgres/roles.sql
export DATA_DIRECTORY HBA_FILE NAME=primary LISTEN_ADDRESS=127.0.0.1 PORT=5432 MAX_CONNECTIONS=100
export SHARED_BUFFERS=256MB DURABLE=on PRIMARY_CONNINFO='' PRIMARY_SLOT=''
envsubst < postgres/postgresql.conf | sed '/^unix_socket_directories/d' \
    | put 0644 root "$(dirname "$HBA_FILE")/conf.d/shoal.conf" postgresql
if_changed restart postgresql

# PgBouncer, whose server connections fit into those of Postgres.
export POSTGRES_HOST=127.0.0.1 POSTGRES_PORT=5432 LISTEN_PORT=6432 AUTH_FILE=/etc/pgbouncer/userlist.txt
export MAX_CLIENT_CONN=1000 DEFAULT_POOL_SIZE=80 SERVER_IDLE_TIMEOUT=600
printf '"shoal_app" "%s"\n' "$app" | install -m 0640 -g postgres /dev/stdin "$AUTH_FILE"
envsubst < pgbouncer/pgbouncer.ini | put 0640 postgres /etc/pgbouncer/pgbouncer.ini pgbouncer
if_changed restart pgbouncer

# Redis keeps nothing on disk, and evicts nothing: compose/redis.sh says why.
grep -q shoal.conf /etc/redis/redis.conf || echo 'include /etc/redis/shoal.conf' >> /etc/redis/redis.conf
printf '%s\n' "requirepass $redis" 'save ""' 'appendonly no' 'maxmemory 256mb' 'maxmemory-policy noeviction' \
    | put 0640 redis /etc/redis/shoal.conf redis-server
if_changed restart redis-server

# Shoal: the schema, then the replicas one after the other, so that the others serve.
[ -e /etc/shoal/shoal.env ] || install -m 0644 systemd/shoal.env /etc/shoal/shoal.env
install -m 0644 systemd/*.service /etc/systemd/system/
systemctl daemon-reload
systemctl start shoal-migrate
wanted=
for port in $PORTS; do
    wanted+=" shoal-api@$port.service "
    systemctl enable --quiet "shoal-api@$port"
    systemctl restart "shoal-api@$port"
    timeout 60 bash -c "until shoal healthcheck http://127.0.0.1:$port/health/ready 2> /dev/null; do sleep 1; done"
done
systemctl enable --quiet "shoal-worker@$WORKER"
systemctl restart "shoal-worker@$WORKER"

# nginx, without what its unit says already. A reload closes idle connections of clients, so only if it is needed.
export RUN_DIR=/run UPSTREAMS_FILE=/etc/nginx/shoal-upstreams.conf LISTEN=8080
for port in $PORTS; do echo "server 127.0.0.1:$port max_fails=1 fail_timeout=3s;"; done \
    | put 0644 root "$UPSTREAMS_FILE" nginx
# shellcheck disable=SC2016
envsubst '${RUN_DIR} ${UPSTREAMS_FILE} ${LISTEN}' < nginx/nginx.conf | sed '/^daemon off;/d' \
    | put 0644 root /etc/nginx/nginx.conf nginx
if_changed reload-or-restart nginx

# Replicas of ports that are not in PORTS any more, once nginx knows them no more.
units=$(systemctl list-units --all --full --plain --no-legend 'shoal-api@*.service' | cut -d ' ' -f 1)
for unit in $units; do
    [[ $wanted = *" $unit "* ]] || systemctl disable --now --quiet "$unit"
done
echo "http://127.0.0.1:$LISTEN serves"
