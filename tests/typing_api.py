# SPDX-License-Identifier: Apache-2.0
"""The public API as typed code uses it; only the type checker reads this file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from opentelemetry import metrics
from opentelemetry.context import get_current
from opentelemetry.sdk import metrics as sdk
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource

import otel_shm

buffer: otel_shm.Buffer = otel_shm.Buffer(Path("b"), series=10, lanes=2, record_bytes=4096)
statistics: otel_shm.BufferStatistics = buffer.statistics
series: int = statistics.series
lane: int = buffer.lane

provider: metrics.MeterProvider = otel_shm.MeterProvider(
    [InMemoryMetricReader()],
    Resource.create(),
    sdk.AlwaysOffExemplarFilter(),
    False,
    (),
    buffer=buffer,
)
ours = otel_shm.MeterProvider(metric_readers=(), buffer="path", series=1, lanes=2)
flushed: bool = ours.force_flush(timeout_millis=1.5)
ours.shutdown(timeout_millis=1_000)
metrics.set_meter_provider(ours)

api_meter: metrics.Meter = ours.get_meter("m", "1", "https://schema", {"k": [1, 2]})
meter = ours.get_meter("m")
assert isinstance(meter, otel_shm.Meter)


def observe(options: metrics.CallbackOptions) -> Iterable[metrics.Observation]:
    """A callback."""
    yield metrics.Observation(options.timeout_millis, {"k": 1})


counter: otel_shm.Counter = meter.create_counter("c", unit="1", description="d")
up_down: otel_shm.UpDownCounter = meter.create_up_down_counter("u")
gauge: otel_shm.Gauge = meter.create_gauge("g")
observable: otel_shm.ObservableGauge = meter.create_observable_gauge("o", [observe])

api_counter: metrics.Counter = counter
api_up_down: metrics.UpDownCounter = up_down
api_observable: metrics.ObservableGauge = observable

counter.add(1)
counter.add(1.5, {"route": "/", "codes": [1, 2], "ok": True}, get_current())
counter.add(amount=1, attributes=None, context=None)
up_down.add(-1, attributes={"k": 1.0})
gauge.set(2, {"k": "v"})
name: str = counter.name

bound = counter.bind({"route": "/"})
bound.add(1)
bound.add(amount=1.5, context=None)
same: otel_shm.Counter = bound.instrument
up_down.bind().add(-1)
gauge.bind(attributes=None).set(0.5)

requests = (
    otel_shm.counter_schema("http_requests_total", unit="1", description="d")
    .static_label("service", "my-api")
    .require_dynamic_key("status_code")
    .build()
)
requests.with_labels(status_code="200").increment()
requests.with_labels(status_code=200).increment(1.5)
total: int | float | None = requests.with_labels(status_code="200").get()
memory = otel_shm.gauge_schema("memory").build()
memory.set(1)
otel_shm.gauge_schema("level").require_dynamic_key("k").build().with_labels(k=True).set(1)
load = otel_shm.gauge_schema_float("load").require_dynamic_key("cpu").build()
load.with_labels(cpu=0).set(0.5)

try:
    otel_shm.Buffer("b")
except otel_shm.BufferPathError as path_error:
    number: int | None = path_error.errno
except (otel_shm.BufferFormatError, otel_shm.BufferSizeError, otel_shm.BufferFullError):
    pass
except otel_shm.OtelShmError as error:
    text: str = str(error)

backend: str = otel_shm.backend
version: str = otel_shm.__version__

# What a type checker must refuse; mypy reports a comment that is not needed.
counter.add("1")  # type: ignore[arg-type]
counter.add()  # type: ignore[call-arg]
bound.add(1, {"k": 1})  # type: ignore[arg-type]
gauge.add(1)  # type: ignore[attr-defined]
memory.set(1.5)  # type: ignore[arg-type]
requests.with_labels(status_code=[1])  # type: ignore[arg-type]
otel_shm.Buffer(b"path")  # type: ignore[arg-type]
otel_shm.MeterProvider(None)  # type: ignore[arg-type]
otel_shm.MeterProvider(buffers="x")  # type: ignore[call-arg]
