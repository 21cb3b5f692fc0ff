# SPDX-License-Identifier: Apache-2.0
"""A whole provider from standard environment variables, for `OTEL_PYTHON_METER_PROVIDER=otel_shm`."""

from __future__ import annotations

import os
from typing import Any

from opentelemetry import metrics as api
from opentelemetry.environment_variables import OTEL_METRICS_EXPORTER
from opentelemetry.sdk.environment_variables import (
    OTEL_EXPORTER_OTLP_METRICS_PROTOCOL,
    OTEL_EXPORTER_OTLP_PROTOCOL,
)
from opentelemetry.sdk.metrics.export import (
    MetricExporter,
    MetricReader,
    PeriodicExportingMetricReader,
)
from opentelemetry.util._importlib_metadata import entry_points

from otel_shm.configurator import is_configuring, postpone
from otel_shm.errors import OtelShmError
from otel_shm.provider import MeterProvider

_PROTOCOLS = {"grpc": "otlp_proto_grpc", "http/protobuf": "otlp_proto_http"}


def meter_provider() -> api.MeterProvider:
    """A provider made of standard environment variables: the entry point `otel_shm`.

    `OTEL_METRICS_EXPORTER` names exporters, comma-separated (default `otlp`, as the specification has
    it); each configures itself from its own variables, and so do the readers and the resource.

    A configurator that is at work makes all of that itself: it gets what it would get if no provider
    were named, and ours takes the place of the one that it sets, see `otel_shm.configurator`.

    Raises:
        OtelShmError: an exporter or a protocol is not known, or the buffer cannot be used.
    """
    if is_configuring():
        return postpone()
    return MeterProvider(metric_readers=readers())


def readers() -> list[MetricReader]:
    """The readers that the environment asks for.

    Raises:
        OtelShmError: an exporter or a protocol is not known.
    """
    return [_reader(name) for name in _exporter_names()]


def _exporter_names() -> list[str]:
    text = os.environ.get(OTEL_METRICS_EXPORTER, "").strip() or "otlp"
    names = [name.strip() for name in text.split(",") if name.strip()]
    return [_with_protocol(name) for name in names if name.lower() != "none"]


def _with_protocol(name: str) -> str:
    """The exporter behind `otlp`: the protocol is another variable."""
    if name != "otlp":
        return name
    protocol = (
        os.environ.get(OTEL_EXPORTER_OTLP_METRICS_PROTOCOL)
        or os.environ.get(OTEL_EXPORTER_OTLP_PROTOCOL)
        or "grpc"
    ).strip()
    if protocol not in _PROTOCOLS:
        raise OtelShmError(
            f"{OTEL_EXPORTER_OTLP_METRICS_PROTOCOL} or {OTEL_EXPORTER_OTLP_PROTOCOL} must be one of "
            f"{', '.join(_PROTOCOLS)}, not {protocol!r}"
        )
    return _PROTOCOLS[protocol]


def _reader(name: str) -> MetricReader:
    found = list(entry_points(group="opentelemetry_metrics_exporter", name=name))
    if not found:
        raise OtelShmError(
            f"{OTEL_METRICS_EXPORTER} names {name!r}, but no installed package offers that exporter"
        )
    made: Any = found[0].load()()
    if isinstance(made, MetricReader):
        return made
    if isinstance(made, MetricExporter):
        return PeriodicExportingMetricReader(made)
    raise OtelShmError(
        f"{OTEL_METRICS_EXPORTER}: {name!r} is neither a MetricExporter nor a MetricReader"
    )
