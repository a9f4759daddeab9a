#!/bin/sh
# Show VERSION of SOURCE as $MODELS_ROOT/current (default /srv/models), and let go of older ones that nobody reads.
#
#   roll.sh SOURCE VERSION [flags of 'tigrismount mount']
set -eu

[ $# -ge 2 ] || { echo "usage: roll.sh SOURCE VERSION [flags of tigrismount mount]" >&2; exit 2; }
source=$1 version=$2
shift 2
case $version in
    *[!0-9]* | '') echo "roll.sh: '$version' is no version: 'tigrismount snapshots' lists them" >&2; exit 2 ;;
esac
root=${MODELS_ROOT:-/srv/models}

# A version is of the whole bucket: another part of it may be what is mounted there.
shown=$(findmnt -n -o SOURCE --mountpoint "$root/$version" | tail -n 1)
case $source in
    *://*) wanted=s3://${source#*://} && wanted=${wanted%/} ;;
    *) wanted=$shown ;;
esac
if [ -n "$shown" ] && [ "$shown" != "$wanted" ]; then
    echo "roll.sh: $root/$version shows $shown, not $wanted: unmount it first" >&2
    exit 1
fi

# A mount whose daemon is gone is a mountpoint, and no directory to mkdir: 'tigrismount mount' replaces it.
mkdir -p "$root/$version" 2>/dev/null || :
tigrismount health "$root/$version" --degraded-ok >/dev/null 2>&1 ||
    tigrismount mount "$source" "$root/$version" --snapshot "$version" "$@" >/dev/null

# A rename is one step: there is always a 'current', and it is always a whole mount.
ln -sfn "$version" "$root/.next"
mv -T "$root/.next" "$root/current"
echo "$root/current is $version"

for old in "$root"/[0-9]*; do
    [ "$old" != "$root/$version" ] || continue
    if mountpoint -q "$old" && ! tigrismount unmount "$old" --timeout 5 2>/dev/null; then
        echo "$old is still in use, and stays until the next time"
        continue
    fi
    rmdir "$old" 2>/dev/null || echo "$old holds something, and stays"
done
