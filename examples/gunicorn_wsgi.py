# SPDX-License-Identifier: Apache-2.0
"""A WSGI app under gunicorn: four workers, one total.

    cd examples
    gunicorn --workers 4 --preload gunicorn_wsgi:app

With `--preload` gunicorn's master imports this file before it forks, so its workers share the buffer, and
the master exports. Without it, name a buffer for the workers to meet at: OTEL_SHM_PATH=/dev/shm/my-shop.
To see what is exported, run `python examples/receiver.py` in another terminal first.
"""

import os

from opentelemetry import metrics
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

import otel_shm

reader = PeriodicExportingMetricReader(OTLPMetricExporter())
metrics.set_meter_provider(otel_shm.MeterProvider(metric_readers=[reader]))

requests = metrics.get_meter("shop").create_counter("requests", unit="{request}")


def app(environ, start_response):
    """Answers with the pid of the worker."""
    requests.add(1, {"method": environ["REQUEST_METHOD"]})
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
