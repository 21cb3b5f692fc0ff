# SPDX-License-Identifier: Apache-2.0
"""Who collects a buffer from outside, or only looks at it: it takes no lane, and leaves no trace."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from buffers import SMALL, counter_of, scan
from opentelemetry.sdk import metrics as sdk
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    ExponentialHistogram,
    InMemoryMetricReader,
    MetricReader,
)
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation
from opentelemetry.sdk.resources import Resource
from points import points_of, values
from processes import Gate, Processes, processes, until

import otel_shm
from otel_shm.buffer import COLLECTS, Buffer
from otel_shm.inspection import Inspection, is_buffer, is_in_use
from otel_shm.outside import OutsideExporter

__all__ = ["processes"]  # a fixture: found by its name in this module

DELTA = {sdk.Counter: AggregationTemporality.DELTA}


def measures(path: Path, gate: Gate, ready: Path, readers: Sequence[MetricReader] = ()) -> None:
    """A process of the service: it counts, and lives until the gate opens."""
    provider = otel_shm.MeterProvider(
        readers,
        Resource({"service.name": "inner"}),
        buffer=Buffer(path, **SMALL),
        shutdown_on_exit=False,
    )
    meter = provider.get_meter("m")
    meter.create_counter("c").add(3)
    meter.create_histogram("h").record(2.5)
    meter.create_up_down_counter("u").add(1)
    ready.touch()
    gate.wait()


@pytest.fixture
def service(buffer_path: Path, tmp_path: Path, processes: Processes) -> Gate:
    """A process measures in the buffer until the gate opens."""
    gate = Gate()
    processes.fork(measures, buffer_path, gate, tmp_path / "ready")
    until((tmp_path / "ready").exists)
    return gate


def test_an_exporter_takes_no_lane_and_leaves_the_resource(
    service: Gate, buffer_path: Path
) -> None:
    """It gets everything under the service's resource, and the buffer has no series more."""
    before = Inspection(buffer_path).header.statistics
    buffer = Buffer.outside(buffer_path, COLLECTS)
    reader = InMemoryMetricReader()
    exporter = OutsideExporter(buffer, [reader])
    assert exporter.acquire()
    points = {point.name: point for point in points_of(reader.get_metrics_data())}
    assert {name: point.value for name, point in points.items()} == {"c": 3, "h": 2.5, "u": 1}
    assert points["c"].resource.attributes["service.name"] == "inner"
    assert buffer.lane == 0
    assert buffer.statistics.attached == before.attached
    assert buffer.statistics.series == before.series
    assert [lane.is_live for lane in Inspection(buffer_path).lanes] == [True]
    exporter.close()
    service.open()


def test_a_forked_child_takes_no_lane_either(
    service: Gate, buffer_path: Path, processes: Processes
) -> None:
    """A child of the exporter is no process of the service."""
    buffer = Buffer.outside(buffer_path, COLLECTS)

    def child() -> tuple[int, int]:
        return buffer.lane, sum(lane.is_live for lane in Inspection(buffer_path).lanes)

    assert processes.fork(child).result() == (0, 1)
    assert buffer.statistics.attached == 1
    service.open()


def test_before_the_first_process_there_is_nothing(buffer_path: Path) -> None:
    """An exporter that made the buffer offers no resource, and exports nothing."""
    buffer = Buffer.outside(buffer_path, COLLECTS, dict(SMALL))
    reader = InMemoryMetricReader()
    exporter = OutsideExporter(buffer, [reader])
    assert exporter.acquire()
    assert reader.get_metrics_data() is None
    assert buffer.resource is None
    exporter.close()


def test_deltas_go_on_from_the_service(buffer_path: Path, processes: Processes) -> None:
    """What the service's own reader has had, an exporter with the same reader does not send again."""

    def worker(amount: int) -> Any:
        reader = InMemoryMetricReader(preferred_temporality=DELTA)
        provider = otel_shm.MeterProvider([reader], buffer=buffer_path, shutdown_on_exit=False)
        counter = provider.get_meter("m").create_counter("c")
        counter.add(amount)
        sent = values(reader)
        counter.add(amount)
        return sent

    assert processes.fork(worker, 5).result() == {"{}": 5}
    reader = InMemoryMetricReader(preferred_temporality=DELTA)
    exporter = OutsideExporter(Buffer.outside(buffer_path, COLLECTS), [reader])
    assert values(reader) == {"{}": 5}
    exporter.close()


def test_another_default_aggregation_loses_no_histogram(service: Gate, buffer_path: Path) -> None:
    """The exporter wants exponential histograms, the service makes others: it gets those."""
    reader = InMemoryMetricReader(
        preferred_aggregation={sdk.Histogram: ExponentialBucketHistogramAggregation()}
    )
    exporter = OutsideExporter(Buffer.outside(buffer_path, COLLECTS), [reader])
    assert {point.name for point in points_of(reader.get_metrics_data())} == {"c", "h", "u"}
    exporter.close()
    service.open()


def test_the_default_aggregation_that_it_wants_comes_once(
    buffer_path: Path, tmp_path: Path, processes: Processes
) -> None:
    """Where the service makes several, an exporter gets the one that it asks for."""
    gate, exponential = Gate(), {sdk.Histogram: ExponentialBucketHistogramAggregation()}
    readers = [
        InMemoryMetricReader(),
        InMemoryMetricReader(preferred_aggregation=exponential),
    ]
    processes.fork(measures, buffer_path, gate, tmp_path / "ready", readers)
    until((tmp_path / "ready").exists)
    reader = InMemoryMetricReader(preferred_aggregation=exponential)
    exporter = OutsideExporter(Buffer.outside(buffer_path, COLLECTS), [reader])
    (resource,) = reader.get_metrics_data().resource_metrics
    (scope,) = resource.scope_metrics
    (histogram,) = (metric for metric in scope.metrics if metric.name == "h")
    assert isinstance(histogram.data, ExponentialHistogram)
    exporter.close()
    gate.open()


def test_who_looks_writes_nothing_and_takes_no_lock(service: Gate, buffer_path: Path) -> None:
    """The file is the same to the last byte after all of it was looked at."""
    before = buffer_path.read_bytes()
    inspection = Inspection(buffer_path)
    assert len(inspection.scan()) > 3
    assert inspection.scan_lane(1)
    assert inspection.header.statistics.attached == 1
    assert not inspection.buffer.collector_acquire()
    assert inspection.collector_pid == 0
    assert buffer_path.read_bytes() == before
    service.open()


def test_who_looks_reads_what_a_process_reads(buffer_path: Path, processes: Processes) -> None:
    """A scan of a mapping for reading is the scan that any process makes."""

    def work() -> Any:
        buffer = Buffer(buffer_path, **SMALL)
        counter_of(buffer).measure(7)
        return scan(buffer)

    rows = processes.fork(work).result()
    assert [row.value for row in rows] == [7]
    assert [row for row in Inspection(buffer_path).scan() if row.value is not None] == rows


def test_a_buffer_that_is_looked_at_cannot_be_measured_in(buffer_path: Path) -> None:
    """One mapping a process and file: who wants to write in it is told, instead of killed."""
    Buffer(buffer_path, **SMALL)
    inspection = Inspection(buffer_path)
    with pytest.raises(otel_shm.BufferPathError, match="only looked at in this process"):
        Buffer(buffer_path)
    with pytest.raises(otel_shm.BufferPathError, match="only looked at in this process"):
        Buffer.outside(buffer_path, COLLECTS)
    assert inspection.scan() == []


def test_looking_at_a_buffer_that_is_measured_in_here(buffer_path: Path) -> None:
    """A process may look at its own: it keeps its lane, and every lock."""
    buffer = Buffer(buffer_path, **SMALL)
    assert buffer.collector_acquire()
    assert is_buffer(buffer_path)
    assert is_in_use(buffer_path)
    assert Inspection(buffer_path).buffer is buffer
    pid = os.fork()
    if pid == 0:
        lanes = Inspection(buffer_path).lanes
        os._exit(0 if lanes[0].is_live and lanes[0].pid == os.getppid() else 1)
    assert os.waitpid(pid, 0)[1] == 0


def test_a_buffer_in_use_is_not_removed(
    service: Gate, buffer_path: Path, processes: Processes
) -> None:
    """Only when its last process is gone."""
    buffer = Buffer.outside(buffer_path, COLLECTS)
    assert not buffer.remove()
    assert buffer_path.exists()
    service.open()
    until(buffer.remove)
    assert not buffer_path.exists()
    assert buffer.remove()  # it is gone already
