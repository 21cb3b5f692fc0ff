# SPDX-License-Identifier: Apache-2.0
"""A tiny WSGI service that counts its requests with an ordinary OpenTelemetry counter."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from opentelemetry import metrics
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import MeterProvider as StockMeterProvider
from opentelemetry.sdk.metrics.export import MetricExporter, PeriodicExportingMetricReader

import otel_shm


def make_exporter() -> MetricExporter:
    """The stock OTLP exporter; where it sends to comes from ``OTEL_EXPORTER_OTLP_ENDPOINT``."""
    if os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL") == "grpc":
        # Imported here so that only who asks for gRPC needs it.
        from opentelemetry.exporter.otlp.proto.grpc import metric_exporter

        return metric_exporter.OTLPMetricExporter()
    # The header lets the demo show which process exports; a real service needs nothing like it.
    return OTLPMetricExporter(headers={"x-exporter-pid": str(os.getpid())})


def make_provider() -> metrics.MeterProvider:
    """The provider to show; ``DEMO_PROVIDER=stock`` asks for the SDK's own, to compare."""
    reader = PeriodicExportingMetricReader(make_exporter())
    if os.environ.get("DEMO_PROVIDER") == "stock":
        return StockMeterProvider(metric_readers=[reader])
    return otel_shm.MeterProvider(metric_readers=[reader])


metrics.set_meter_provider(make_provider())
requests_served = metrics.get_meter("demo_app").create_counter(
    "http.server.requests", unit="{request}", description="Requests answered"
)


def app(
    environ: dict[str, Any], start_response: Callable[[str, list[tuple[str, str]]], object]
) -> Iterable[bytes]:
    """Answers a request, counts it and tells which worker process did so."""
    # Counted before the answer leaves: whoever has an answer finds it in the total.
    requests_served.add(1, {"http.route": "/", "http.response.status_code": 200})
    headers = [("Content-Type", "text/plain"), ("X-Worker-Pid", str(os.getpid()))]
    start_response("200 OK", headers)
    return [b"hello\n"]
