# SPDX-License-Identifier: Apache-2.0
"""What is observed in processes for which there was no lane: it is heard, and forgotten again."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from buffers import SMALL, shm
from opentelemetry.metrics import Observation
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from points import points_of, values
from processes import Processes, processes, until

import otel_shm
from otel_shm.buffer import Buffer

__all__ = ["processes", "shm"]  # fixtures: found by their names in this module


def test_processes_without_a_lane_are_heard(shm: Path, processes: Processes) -> None:
    """What their callbacks say comes with the next collection, and goes a few after they stop."""
    path = shm / "buffer"
    keeper = Buffer(path, **{**SMALL, "lanes": 2})  # in the only lane
    tell, told = os.pipe()

    def run() -> None:
        provider = otel_shm.MeterProvider(buffer=path, shutdown_on_exit=False)
        meter = provider.get_meter("m")
        meter.create_observable_counter("sum", [lambda _: [Observation(10)]])
        meter.create_observable_gauge("gauge", [lambda _: [Observation(7)]])
        assert provider.buffer.lane == 0
        os.write(told, b".")
        signal.pause()

    children = [processes.fork(run) for _ in range(2)]
    for _ in children:
        assert os.read(tell, 1) == b"."
    reader = InMemoryMetricReader()
    provider = otel_shm.MeterProvider([reader], buffer=path, shutdown_on_exit=False)
    assert provider.buffer.lane == keeper.lane == 1

    def found() -> dict[str, int | float]:
        return {point.name: point.value for point in points_of(reader.get_metrics_data())}

    until(lambda: found() == {"sum": 20, "gauge": 7})
    for child in children:
        child.kill()
    until(lambda: found() == {})
    provider.shutdown()
    os.close(tell)
    os.close(told)


def test_gauge_of_all_forgets_processes_without_a_lane(shm: Path, processes: Processes) -> None:
    """What a process observed in lane 0 goes out of a live_sum a few collections after its end."""
    path, (tell, told) = shm / "buffer", os.pipe()
    reader = InMemoryMetricReader()
    provider = otel_shm.MeterProvider(
        [reader], buffer=path, **{**SMALL, "lanes": 2}, shutdown_on_exit=False
    )
    meter, now = provider.get_meter("m"), [1]
    meter.create_observable_gauge("g", [lambda _: [Observation(now[0])]], fold="live_sum")

    def run() -> None:
        now[0] = 10
        assert provider.buffer.lane == 0
        os.write(told, b".")
        signal.pause()

    child = processes.fork(run)
    assert os.read(tell, 1) == b"."
    until(lambda: values(reader) == {"{}": 11})
    child.kill()
    for _ in range(10):
        found = values(reader)
    assert found == {"{}": 1}
    provider.shutdown()
    os.close(tell)
    os.close(told)
