#!/bin/sh
# Mount the bucket that the template's downloader would copy, then run what follows.
#
#   start.sh COMMAND [ARGUMENT…]        flags for the mount in TIGRISMOUNT_… variables, such as TIGRISMOUNT_CACHE_DIR
set -eu

[ $# -ge 1 ] || { echo "usage: start.sh COMMAND [ARGUMENT…]" >&2; exit 2; }
: "${MODEL_BUCKET_NAME:?is not set: the bucket with the model}"
: "${MODEL_PATH:?is not set: the model in the bucket, such as ByteDance/SDXL-Lightning}"
export MODEL_CACHE_DIR="${MODEL_CACHE_DIR:-/mnt/tigris/$MODEL_BUCKET_NAME}"

mkdir -p "$MODEL_CACHE_DIR"
# Returns once the mount answers; fails, and says why, where the template would begin to download.
mountpoint -q "$MODEL_CACHE_DIR" || tigrismount mount "s3://$MODEL_BUCKET_NAME" "$MODEL_CACHE_DIR"

exec "$@"
