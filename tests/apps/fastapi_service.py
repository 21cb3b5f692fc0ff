# SPDX-License-Identifier: Apache-2.0
"""A FastAPI service whose /held blocks its worker until it is released; it says who answers.

Uvicorn has its workers killed by the signal that stopped them, so no exit handler runs: a service shuts
its provider down when its lifespan ends.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

os.environ["OTEL_EXPORTER_OTLP_METRICS_HEADERS"] = f"worker={os.getpid()}"  # exports say by whom

import fastapi
from holding import hold
from opentelemetry import metrics
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor


@asynccontextmanager
async def lifespan(_app: fastapi.FastAPI) -> AsyncIterator[None]:
    """Exports what is left at the end."""
    yield
    metrics.get_meter_provider().shutdown()  # type: ignore[attr-defined]


app = fastapi.FastAPI(lifespan=lifespan)
FastAPIInstrumentor.instrument_app(app)


@app.get("/")
async def answer() -> int:
    """Answers at once."""
    return os.getpid()


@app.get("/held")
async def held() -> int:
    """Answers when it may; its worker takes no other request meanwhile."""
    hold()
    return os.getpid()
