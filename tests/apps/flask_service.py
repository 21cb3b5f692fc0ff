# SPDX-License-Identifier: Apache-2.0
"""A Flask service whose /held answers when it is released; it says who answers.

INSTRUMENT names what it instruments itself: flask, and the system metrics; else its launcher does.
"""

from __future__ import annotations

import os

# Exports say by whom. Of no effect where the launcher has made the exporter before.
os.environ["OTEL_EXPORTER_OTLP_METRICS_HEADERS"] = f"worker={os.getpid()}"

import flask
from holding import hold
from opentelemetry import metrics

app = flask.Flask(__name__)


@app.get("/")
def answer() -> str:
    """Answers at once."""
    return str(os.getpid())


@app.get("/held")
def held() -> str:
    """Answers when it may."""
    hold()
    return str(os.getpid())


@app.get("/flush")
def flush() -> str:
    """Exports, where the worker that answers is the one that does."""
    metrics.get_meter_provider().force_flush()  # type: ignore[attr-defined]
    return str(os.getpid())


for library in os.environ.get("INSTRUMENT", "").split():
    if library == "flask":
        from opentelemetry.instrumentation.flask import FlaskInstrumentor

        FlaskInstrumentor().instrument_app(app)
    else:
        from opentelemetry.instrumentation.system_metrics import SystemMetricsInstrumentor

        SystemMetricsInstrumentor().instrument()
