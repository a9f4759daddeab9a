#!/bin/sh
# Mount the bucket that the template's downloader would copy, then run what follows.
#
#   start.sh COMMAND [ARGUMENT…]        flags for the mount in TIGRISMOUNT_… variables, such as TIGRISMOUNT_CACHE_DIR
set -eu

[ $# -ge 1 ] || { echo "usage: start.sh COMMAND [ARGUMENT…]" >&2; exit 2; }
: "${MODEL_BUCKET_NAME:?is not set: the bucket with the model}"
: "${MODEL_PATH:?is not set: the model in the bucket, such as ByteDance/SDXL-Lightning}"
export MODEL_CACHE_DIR="${MODEL_CACHE_DIR:-/mnt/tigris/$MODEL_BUCKET_NAME}"

# A mount whose daemon is gone is a mountpoint, and no directory to mkdir: 'tigrismount mount' replaces it.
mkdir -p "$MODEL_CACHE_DIR" 2>/dev/null || :
status=0
tigrismount health "$MODEL_CACHE_DIR" >/dev/null 2>&1 || status=$?
# Returns once the mount answers; fails, and says why, where the template would begin to download.
{ mountpoint -q "$MODEL_CACHE_DIR" && [ "$status" -ne 2 ]; } || tigrismount mount "s3://$MODEL_BUCKET_NAME" "$MODEL_CACHE_DIR"

exec "$@"
