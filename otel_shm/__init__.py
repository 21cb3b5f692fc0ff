# SPDX-License-Identifier: Apache-2.0
"""An OpenTelemetry MeterProvider whose values live in one shared-memory slot buffer.

counter.add(1, {"route": "/"})
  └ attributes → slot?  process-local table, in C ── hit ─────────┐
                        └ miss: claim in the buffer, once a series ┤
                                                                   ▼
                                           one atomic operation in this process's lane

reader.collect()        in the collector process
  └ scan: new records, fold lanes → rows → MetricsData → any SDK reader and exporter
"""

try:
    import otel_shm._core  # noqa: F401  if it is not there that is to be said
except ModuleNotFoundError as _error:
    if _error.name != "otel_shm._core":
        raise
    raise ImportError(
        f"otel_shm is not compiled in {__path__[0]!r}: if that is its source tree, start in another "
        "directory to use the installed package, or `pip install --editable` the tree"
    ) from None

from otel_shm.buffer import Buffer
from otel_shm.errors import (
    BufferFormatError,
    BufferFullError,
    BufferPathError,
    BufferRestartError,
    BufferServiceError,
    BufferSizeError,
    OtelShmError,
)
from otel_shm.instruments import Counter, Gauge, Histogram, UpDownCounter, backend
from otel_shm.labels import counter_schema, gauge_schema, gauge_schema_float
from otel_shm.meter import Meter
from otel_shm.observable import ObservableCounter, ObservableGauge, ObservableUpDownCounter
from otel_shm.producers import MetricProducer
from otel_shm.provider import MeterProvider
from otel_shm.readings import BufferStatistics
from otel_shm.views import View

__version__ = "0.1.0"

__all__ = [
    "Buffer",
    "BufferFormatError",
    "BufferFullError",
    "BufferPathError",
    "BufferRestartError",
    "BufferServiceError",
    "BufferSizeError",
    "BufferStatistics",
    "Counter",
    "Gauge",
    "Histogram",
    "Meter",
    "MeterProvider",
    "MetricProducer",
    "ObservableCounter",
    "ObservableGauge",
    "ObservableUpDownCounter",
    "OtelShmError",
    "UpDownCounter",
    "View",
    "backend",
    "counter_schema",
    "gauge_schema",
    "gauge_schema_float",
]
