# SPDX-License-Identifier: Apache-2.0
"""Celery's prefork workers: four processes, one total.

    celery --workdir examples --app celery_tasks worker --concurrency 4 --loglevel INFO
    python examples/celery_tasks.py     # in another terminal: sends 20 tasks

The broker is a folder, so nothing else has to run; CELERY_BROKER_URL names another one.
To see what is exported, run `python examples/receiver.py` in another terminal first.
"""

import os

from celery import Celery
from celery.signals import worker_init
from opentelemetry import metrics
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

import otel_shm

app = Celery("celery_tasks", broker="filesystem://")
if "CELERY_BROKER_URL" not in os.environ:
    folder = os.environ.get("BROKER_FOLDER", "/tmp/celery_tasks")
    os.makedirs(folder, exist_ok=True)
    app.conf.broker_transport_options = {
        "data_folder_in": folder,
        "data_folder_out": folder,
        "control_folder": folder,
        "polling_interval": 0.1,  # seconds
    }

# Until there is a provider this counter does nothing: who only sends tasks exports nothing.
tasks = metrics.get_meter("shop").create_counter("tasks", unit="{task}")


@worker_init.connect
def set_provider(**_):
    """In the worker's main process, before it forks: its children share the buffer, it exports."""
    reader = PeriodicExportingMetricReader(OTLPMetricExporter())
    metrics.set_meter_provider(otel_shm.MeterProvider(metric_readers=[reader]))


@app.task(ignore_result=True)
def place_order(number):
    """The work."""
    tasks.add(1, {"task": "place_order"})


if __name__ == "__main__":
    for number in range(20):
        place_order.delay(number)
