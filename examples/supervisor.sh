#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# A supervisor: it gives the service a buffer by environment, exports for it from outside, and removes the
# buffer when all its processes are gone. The service sets nothing, and none of its processes exports.
#
#     python examples/receiver.py     # in another terminal: shows what is exported
#     sh examples/supervisor.sh

cd "$(dirname "$0")" || exit
exec otel-shm run -- gunicorn --workers 4 api_only:app
