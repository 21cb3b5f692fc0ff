# SPDX-License-Identifier: Apache-2.0
"""FastAPI under uvicorn: four workers, one total.

    export OTEL_SHM_PATH=/dev/shm/my-shop
    uvicorn --app-dir examples --workers 4 uvicorn_fastapi:app

uvicorn starts each worker afresh, so they need a path to meet at.
To see what is exported, run `python examples/receiver.py` in another terminal first.
"""

import os
from contextlib import asynccontextmanager

from fastapi import FastAPI
from opentelemetry import metrics
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

import otel_shm

reader = PeriodicExportingMetricReader(OTLPMetricExporter())
provider = otel_shm.MeterProvider(metric_readers=[reader])
metrics.set_meter_provider(provider)

requests = metrics.get_meter("shop").create_counter("requests", unit="{request}")


@asynccontextmanager
async def lifespan(app: FastAPI):
    """uvicorn's workers run no exit handlers: here the last one out exports the end."""
    yield
    provider.shutdown()


app = FastAPI(lifespan=lifespan)


@app.get("/")
async def root() -> int:
    """Answers with the pid of the worker."""
    requests.add(1, {"method": "GET"})
    return os.getpid()
