# SPDX-License-Identifier: Apache-2.0
"""An exporter that writes down in a file which process exported which totals, for all processes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from opentelemetry.sdk.metrics.export import (
    MetricExporter,
    MetricExportResult,
    MetricsData,
    PeriodicExportingMetricReader,
)
from points import exact, points_of

import otel_shm

NEVER = 1e9  # milliseconds between exports: only flush and shutdown export


class Line(NamedTuple):
    """One exported point."""

    pid: int
    instance: str
    name: str
    attributes: str
    start: int
    value: float


class Recorder(MetricExporter):
    """Appends to the file, one write an export; first calls `before`, where a test may hold it up."""

    def __init__(self, file: Path, before: Callable[[], object] = lambda: None) -> None:
        super().__init__()
        self.file = file
        self.before = before

    def export(self, metrics_data: MetricsData, *_: Any, **__: Any) -> MetricExportResult:
        """Writes one collection."""
        self.before()
        text = "".join(
            f"{os.getpid()}|{point.resource.attributes.get('service.instance.id')}|{point.name}|"
            f"{exact(point.attributes)}|{point.start or 0}|{point.value}\n"
            for point in points_of(metrics_data)
        )
        file = os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, text.encode())
        os.close(file)
        return MetricExportResult.SUCCESS

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Has nothing waiting."""
        return True

    def shutdown(self, timeout_millis: float = 30_000, **_: Any) -> None:
        """Has nothing to end."""


def recorded(file: Path) -> list[Line]:
    """All that was exported, in the order it was written."""
    lines = file.read_text().splitlines() if file.exists() else []
    return [
        Line(int(pid), instance, name, attributes, int(start), float(value))
        for pid, instance, name, attributes, start, value in (line.split("|") for line in lines)
    ]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Where recorders of all processes write."""
    return tmp_path / "exports"


def fellow(path: Path, log: Path, interval: float = NEVER) -> otel_shm.MeterProvider:
    """A provider of a process of its own, on the buffer that all fellows name."""
    return otel_shm.MeterProvider(
        [PeriodicExportingMetricReader(Recorder(log), interval)],
        buffer=path,
        shutdown_on_exit=False,
    )
