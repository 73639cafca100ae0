#!/bin/bash
# Starts Postgres with the configuration of the repository: the primary, or, with PRIMARY_HOST, a replica of it,
# by the slot SLOT. With SYNCHRONOUS_STANDBYS, commits wait for one of those.
# Data is made in a directory beside and then renamed, so that what was never finished is not taken for data.
set -euo pipefail
umask 077

ROLE=${PRIMARY_HOST:+replica}
DATA=/var/lib/postgresql/data/main
SLOT=${SLOT:-replica}

password() {
    cat "/run/secrets/$1"
}

# Fills in ${NAME} of the template $1 with the variables named after it.
render() {
    local text name
    text=$(< "/usr/share/shoal/$1")
    for name in "${@:2}"; do
        text=${text//"\${$name}"/"${!name}"}
    done
    printf '%s\n' "$text" > "/tmp/$1"
}

CONNINFO=
if [ "$ROLE" = replica ]; then
    CONNINFO="host=$PRIMARY_HOST port=5432 user=shoal_replication password=$(password replication) application_name=$HOSTNAME connect_timeout=3"
fi

make_primary() {
    initdb --pgdata="$DATA.new" --username=postgres --pwfile=<(password superuser) --auth=scram-sha-256 \
        --encoding=UTF8 --locale=C.UTF-8 --data-checksums
    # Reached by a socket alone until the roles are there.
    pg_ctl --pgdata="$DATA.new" --options="-c listen_addresses='' -c unix_socket_directories=/tmp" --wait start
    export PGHOST=/tmp PGUSER=postgres PGPASSWORD SHOAL_DATABASE=shoal
    PGPASSWORD=$(password superuser)
    SHOAL_MIGRATOR_PASSWORD=$(password migrator) SHOAL_APP_PASSWORD=$(password app) \
        SHOAL_REPLICATION_PASSWORD=$(password replication) \
        psql --no-psqlrc --set=ON_ERROR_STOP=1 --file=/usr/share/shoal/roles.sql
    psql --no-psqlrc --command="select pg_create_physical_replication_slot('$SLOT', true)"
    pg_ctl --pgdata="$DATA.new" --wait stop
}

make_replica() {
    # The primary has made one slot only. If there is this one, what follows finds it.
    psql --dbname="$CONNINFO replication=true" --no-psqlrc \
        --command="CREATE_REPLICATION_SLOT $SLOT PHYSICAL RESERVE_WAL" 2> /tmp/slot.log || true
    pg_basebackup --dbname="$CONNINFO" --pgdata="$DATA.new" --slot="$SLOT" --checkpoint=fast
    touch "$DATA.new/standby.signal"
}

if [ ! -d "$DATA" ]; then
    rm -rf "$DATA.new"
    "make_${ROLE:-primary}"
    mv "$DATA.new" "$DATA"
fi

NAME=$HOSTNAME
DATA_DIRECTORY=$DATA
HBA_FILE=/tmp/pg_hba.conf
LISTEN_ADDRESS='*'
PORT=5432
# PgBouncer's pool of 80 connections, and 20 to spare for migrations, replication and people.
MAX_CONNECTIONS=100
SHARED_BUFFERS=256MB
DURABLE=on
PRIMARY_CONNINFO=$CONNINFO
PRIMARY_SLOT=${ROLE:+$SLOT}
# Whoever is on a network with it, which the compose file limits.
CLIENT_NETWORK=all
REPLICA_NETWORK=all
render pg_hba.conf CLIENT_NETWORK REPLICA_NETWORK
render postgresql.conf DATA_DIRECTORY HBA_FILE NAME LISTEN_ADDRESS PORT MAX_CONNECTIONS SHARED_BUFFERS DURABLE \
    PRIMARY_CONNINFO PRIMARY_SLOT
if [ -n "${SYNCHRONOUS_STANDBYS:-}" ]; then
    STANDBYS=$SYNCHRONOUS_STANDBYS
    render synchronous.conf STANDBYS
    cat /tmp/synchronous.conf >> /tmp/postgresql.conf
fi

exec postgres --config-file=/tmp/postgresql.conf
