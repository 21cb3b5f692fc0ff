#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# A sidecar: the service only counts, into a buffer at a path, and a process beside it exports the buffer.
# They may be started in any order, and in two containers that share a volume in memory.
#
#     python examples/receiver.py     # in another terminal: shows what is exported
#     sh examples/sidecar.sh

cd "$(dirname "$0")" || exit
export OTEL_SHM_PATH="${OTEL_SHM_PATH:-/dev/shm/my-shop}"

# In a session of its own: Ctrl-C is for the service, after which this one is ended.
setsid otel-shm export --wait "$OTEL_SHM_PATH" &
sidecar=$!

OTEL_PYTHON_METER_PROVIDER=otel_shm OTEL_METRICS_EXPORTER=none \
    gunicorn --workers 4 api_only:app &
service=$!

# Told to end, the service ends first, so that the sidecar's last export has everything.
trap 'kill "$service"' INT TERM
wait "$service" # until it ends or the trap was run,
wait "$service" # and then until it has ended
kill "$sidecar"
wait "$sidecar"
