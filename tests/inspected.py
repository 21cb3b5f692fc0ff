# SPDX-License-Identifier: Apache-2.0
"""Buffers to look at: one that a process of a service measures in, and one whose process is gone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from buffers import SMALL
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import Histogram
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation
from opentelemetry.sdk.resources import Resource
from processes import Gate, Process, Processes, until

import otel_shm

Capture = pytest.CaptureFixture[str]


def observe(_options: CallbackOptions) -> Iterator[Observation]:
    """Says who is asked."""
    yield Observation(os.getpid())


def serve(path: Path, ready: Path, gate: Gate | None) -> None:
    """A process of a service with one of everything; it lives until the gate opens."""
    reader = InMemoryMetricReader(
        preferred_aggregation={Histogram: ExponentialBucketHistogramAggregation()}
    )
    provider = otel_shm.MeterProvider(
        [reader],
        Resource({"service.name": "shop", "odd": "\x1b[31m"}),
        buffer=otel_shm.Buffer(path, **{**SMALL, "series": 64}),
        shutdown_on_exit=False,
        views=[otel_shm.View(instrument_name="renamed", name="new.name")],
    )
    meter = provider.get_meter("scope", "1.2")
    meter.create_counter("orders", "{order}", "Orders \x1b[2J").add(
        3, {"way": "web\n", "ratio": float("nan"), "raw": b"\0\1"}
    )
    meter.create_up_down_counter("in_flight").add(2)
    meter.create_gauge("depth").set(1.5)
    meter.create_gauge("each", fold="each").set(os.getpid())
    meter.create_histogram("latency", "s").record(0.25)
    meter.create_counter("renamed").add(1)
    meter.create_observable_gauge("pid", [observe])
    reader.get_metrics_data()
    ready.touch()
    if gate is not None:
        gate.wait()


@pytest.fixture
def service(tmp_path: Path, processes: Processes) -> Iterator[tuple[Path, Process]]:
    """A live buffer and the process that measures in it; ended after the test."""
    (tmp_path / "buffers").mkdir()
    path, gate = tmp_path / "buffers" / "live", Gate()
    process = processes.fork(serve, path, tmp_path / "ready", gate)
    until((tmp_path / "ready").exists)
    yield path, process
    gate.open()


@pytest.fixture
def stale(tmp_path: Path, processes: Processes) -> Path:
    """A buffer whose process is gone."""
    (tmp_path / "buffers").mkdir(exist_ok=True)
    path = tmp_path / "buffers" / "stale"
    processes.fork(serve, path, tmp_path / "ready too", None).result()
    return path
