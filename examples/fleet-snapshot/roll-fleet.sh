#!/bin/sh
# Run roll.sh on every host of a file, one name per line: on the first alone, then on the others.
#
#   roll-fleet.sh HOSTS SOURCE VERSION [flags of 'tigrismount mount']
set -eu

[ $# -ge 3 ] || { echo "usage: roll-fleet.sh HOSTS SOURCE VERSION [flags of tigrismount mount]" >&2; exit 2; }
hosts=$1
shift
script=$(dirname "$0")/roll.sh

# The script travels over standard input, so that hosts need nothing but tigrismount.
roll() {
    host=$1
    shift
    ${SSH:-ssh} "$host" sh -s -- "$@" <"$script" || { echo "roll-fleet.sh: $host failed; stopping here" >&2; exit 1; }
}

while read -r host || [ -n "$host" ]; do # the last line may have no end
    [ -n "$host" ] || continue
    echo "$host:"
    roll "$host" "$@"
done <"$hosts"
