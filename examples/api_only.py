# SPDX-License-Identifier: Apache-2.0
"""A WSGI app that knows nothing but the OpenTelemetry API: for supervisor.sh and sidecar.sh."""

import os

from opentelemetry import metrics

requests = metrics.get_meter("shop").create_counter("requests", unit="{request}")


def app(environ, start_response):
    """Answers with the pid of the worker."""
    requests.add(1, {"method": environ["REQUEST_METHOD"]})
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
