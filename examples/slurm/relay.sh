#!/bin/bash
# A relay on the login node, for all runs below a folder; in tmux, or in the background:
#
#     examples/slurm/relay.sh [RUNS] [COPIES]
#
# The copies are served at port 5700 and those after it, or at PORT. It is started again if it dies; a second one on the
# same folder is refused, so it does no harm to start it from cron.
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
    0 | 1 | 2 | 130 | 143) exit "$code" ;; # it was told to end, or would fail again
    esac
    echo "the relay ended with exit code $code: starting it again in $pause s" >&2
    sleep "$pause"
done
