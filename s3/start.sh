#!/bin/bash
# Serves /data, one directory per bucket. The root may be read-only.
#
#   BUCKET                            made if it is not there
#   ACCESS_KEY_FILE, SECRET_KEY_FILE  of the one account
set -euo pipefail

: "${BUCKET:?the name of the bucket}"
: "${ACCESS_KEY_FILE:?a file with the id of the access key}"
: "${SECRET_KEY_FILE:?a file with the secret key}"

mkdir -p "/data/$BUCKET"
ROOT_ACCESS_KEY=$(< "$ACCESS_KEY_FILE")
ROOT_SECRET_KEY=$(< "$SECRET_KEY_FILE")
export ROOT_ACCESS_KEY ROOT_SECRET_KEY

exec versitygw --port :7070 --quiet posix /data
