#!/bin/bash
# Fills in the configuration and becomes nginx.
set -euo pipefail

RUN_DIR=/tmp
UPSTREAMS_FILE=/usr/share/shoal/upstreams.conf
LISTEN=8080

text=$(< /usr/share/shoal/nginx.conf)
for name in RUN_DIR UPSTREAMS_FILE LISTEN; do
    text=${text//"\${$name}"/"${!name}"}
done
printf '%s\n' "$text" > /tmp/nginx.conf

exec nginx -c /tmp/nginx.conf -e stderr
