# SPDX-License-Identifier: Apache-2.0
"""Settings from the environment: which buffer, and a whole provider for `OTEL_PYTHON_METER_PROVIDER`.

OTEL_SHM_PATH           the buffer's file; unset: an anonymous buffer
OTEL_SHM_SERIES         sizes of a new buffer, see otel_shm.Buffer
OTEL_SHM_LANES
OTEL_SHM_RECORD_BYTES
OTEL_SHM_BACKEND        fast or cffi (read in otel_shm.instruments)
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

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

from otel_shm.errors import BufferSizeError, OtelShmError

if TYPE_CHECKING:
    from otel_shm.provider import MeterProvider

OTEL_SHM_PATH = "OTEL_SHM_PATH"
_SIZES = {
    "series": "OTEL_SHM_SERIES",
    "lanes": "OTEL_SHM_LANES",
    "record_bytes": "OTEL_SHM_RECORD_BYTES",
}
_PROTOCOLS = {"grpc": "otlp_proto_grpc", "http/protobuf": "otlp_proto_http"}


def buffer_options(
    path: str | os.PathLike[str] | None,
    series: int | None = None,
    lanes: int | None = None,
    record_bytes: int | None = None,
) -> tuple[str | os.PathLike[str] | None, dict[str, int]]:
    """Path and sizes of the buffer: what is given, else what the environment says.

    Raises:
        BufferSizeError: an environment variable is not a whole number.
    """
    given = {"series": series, "lanes": lanes, "record_bytes": record_bytes}
    sizes = {name: size for name, size in given.items() if size is not None}
    for name, variable in _SIZES.items():
        text = os.environ.get(variable, "").strip()
        if name in sizes or not text:
            continue
        try:
            sizes[name] = int(text)
        except ValueError:
            raise BufferSizeError(f"{variable} must be a whole number, not {text!r}") from None
    if path is None:
        path = os.environ.get(OTEL_SHM_PATH) or None
    return path, sizes


def meter_provider() -> MeterProvider:
    """A provider made of standard environment variables: the entry point `otel_shm`.

    `OTEL_METRICS_EXPORTER` names exporters, comma-separated (default `otlp`, as the specification has
    it); each configures itself from its own variables, and so do the readers and the resource.

    Raises:
        OtelShmError: an exporter or a protocol is not known, or the buffer cannot be used.
    """
    from otel_shm.provider import MeterProvider

    return MeterProvider(metric_readers=[_reader(name) for name in _exporter_names()])


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
