#!/bin/bash
# Relays all runs below a folder. Run it on the login node, in tmux or in the background:
#
#     examples/slurm/relay.sh [RUNS] [COPIES]
#
# The copies are served from port 5700, or PORT, upwards. The relay is restarted if it dies. A second relay on the same
# folder is refused, so this script can also be run by cron.
set -euo pipefail

runs=${1:-runs}
copies=${2:-relayed}
pause=${PAUSE:-5}
mkdir -p "$runs"

relay=
# shellcheck disable=SC2329  # the trap calls it
stop() {
    trap '' TERM INT
    [[ -z $relay ]] || kill -TERM "$relay" 2>/dev/null || true
}
trap stop TERM INT

while true; do
    trainwire relay "$runs" --output "$copies" --bind "tcp://0.0.0.0:${PORT:-5700}" &
    relay=$!
    code=0
    wait "$relay" || code=$?
    while kill -0 "$relay" 2>/dev/null; do
        code=0
        wait "$relay" || code=$?
    done
    case $code in
    0 | 1 | 2 | 130 | 143) exit "$code" ;; # it was stopped, or would fail again
    esac
    echo "the relay ended with exit code $code: starting it again in $pause s" >&2
    sleep "$pause"
done
