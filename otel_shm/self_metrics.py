# SPDX-License-Identifier: Apache-2.0
"""Metrics of the buffer about itself, in the scope `otel_shm`.

Off by default, and switched on with the SDK's own: `OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED=true`. Each
is the whole buffer's, so one process says it.

otel_shm.series                    {series}       series published
otel_shm.series.limit              {series}       series it has room for
otel_shm.measurements.overflowed   {measurement}  went to an overflow series
otel_shm.measurements.dropped      {measurement}  were lost for want of room
otel_shm.collector.changes         {change}       times that another process became the collector
otel_shm.memory.allocated          By             memory in use
otel_shm.collection.duration       s              of collections, without their export
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from opentelemetry.metrics import CallbackOptions, Observation

from otel_shm.buffer import Buffer
from otel_shm.instruments import Histogram
from otel_shm.meter import Meter
from otel_shm.readings import BufferStatistics

SCOPE = "otel_shm"
# As the SDK names it since 1.42; in older versions it says nothing.
_ENABLED = "OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED"
_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)


def is_enabled() -> bool:
    """True if the environment asks for metrics about the metrics."""
    return os.environ.get(_ENABLED, "").strip().lower() == "true"


def observe_buffer(meter: Meter, buffer: Buffer) -> Histogram:
    """Makes the instruments. Returns the one for the duration of collections."""

    def callback(
        read: Callable[[BufferStatistics], int],
    ) -> Callable[[CallbackOptions], Iterable[Observation]]:
        return lambda _options: [Observation(read(buffer.statistics))]

    meter.create_observable_up_down_counter(
        "otel_shm.series", [callback(lambda s: s.series)], "{series}", "Series in the buffer"
    )
    meter.create_observable_up_down_counter(
        "otel_shm.series.limit",
        [callback(lambda s: s.series_capacity)],
        "{series}",
        "Series that the buffer has room for",
    )
    meter.create_observable_counter(
        "otel_shm.measurements.overflowed",
        [callback(lambda s: s.overflowed)],
        "{measurement}",
        "Measurements that went to an overflow series",
    )
    meter.create_observable_counter(
        "otel_shm.measurements.dropped",
        [callback(lambda s: s.dropped)],
        "{measurement}",
        "Measurements that were lost for want of room",
    )
    meter.create_observable_counter(
        "otel_shm.collector.changes",
        [callback(lambda s: s.collector_changes)],
        "{change}",
        "Times that another process became the collector",
    )
    meter.create_observable_up_down_counter(
        "otel_shm.memory.allocated",
        [callback(lambda s: s.allocated_bytes)],
        "By",
        "Memory that the buffer uses",
    )
    return meter.create_histogram(
        "otel_shm.collection.duration",
        "s",
        "Duration of collections",
        explicit_bucket_boundaries_advisory=_SECONDS,
    )
