# SPDX-License-Identifier: Apache-2.0
"""What the workers of a storm export, appended to one file by whichever process exports."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from deltas import ALL_CLASSES
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    ExponentialHistogramDataPoint,
    HistogramDataPoint,
    MetricExporter,
    MetricExportResult,
    MetricsData,
)
from points import points_of

from otel_shm.folds import WORKER


class Counts(NamedTuple):
    """What a histogram's point has beside its sum."""

    count: int
    low: float
    high: float
    scale: int | None  # of an exponential one
    buckets: list[
        list[int]
    ]  # index and count of those that are not empty; of zeros the index is ZEROS


class Seen(NamedTuple):
    """One data point."""

    name: str
    worker: int | None
    start: int | None
    time: int
    value: int | float
    counts: Counts | None


ZEROS = -(2**40)


def _counts(point: Any) -> Counts | None:
    if isinstance(point, HistogramDataPoint):
        filled = [[n, count] for n, count in enumerate(point.bucket_counts) if count]
        return Counts(point.count, point.min, point.max, None, filled)
    if isinstance(point, ExponentialHistogramDataPoint):
        positive = point.positive
        filled = [[positive.offset + n, c] for n, c in enumerate(positive.bucket_counts) if c]
        if point.zero_count:
            filled.append([ZEROS, point.zero_count])
        return Counts(point.count, point.min, point.max, point.scale, filled)
    return None


def seen(data: MetricsData | None) -> tuple[str, list[Seen]]:
    """The service.instance.id, and all points of a collection."""
    instance, found = "", []
    for point in points_of(data):
        instance = str(point.resource.attributes["service.instance.id"])
        assert set(point.attributes) <= {WORKER}, point.attributes
        worker: Any = point.attributes.get(WORKER)
        found.append(
            Seen(point.name, worker, point.start, point.time, point.value, _counts(point.data))
        )
    return instance, found


class Export(NamedTuple):
    """What was written down of one call of an exporter."""

    pid: int
    number: int  # counts the process's
    instance: str
    points: list[Seen]
    is_sent: bool  # it returned


class Sink(MetricExporter):
    """Writes down what it is to send, takes its time, and writes down that it has sent it.

    Args:
        file: of all processes' exporters.
        temporality: of all kinds of instruments.
        seed: of how long it takes.
    """

    def __init__(self, file: Path, temporality: AggregationTemporality, seed: int) -> None:
        super().__init__(preferred_temporality=dict.fromkeys(ALL_CLASSES, temporality))
        self._file = file
        self._chance = random.Random(seed)
        self._number = 0

    def export(self, metrics_data: MetricsData, *_: Any, **__: Any) -> MetricExportResult:
        """Exports one collection."""
        self._number += 1
        self._write([os.getpid(), self._number, *seen(metrics_data)])
        if self._chance.random() < 0.3:
            time.sleep(self._chance.uniform(0, 0.06))
        self._write([os.getpid(), self._number])
        return MetricExportResult.SUCCESS

    def _write(self, record: list[Any]) -> None:
        # One write in append mode; who is killed in the middle of it leaves a line without an end.
        file = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(file, f"\n{json.dumps(record)}\n".encode())
        os.close(file)

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Has nothing waiting."""
        return True

    def shutdown(self, timeout_millis: float = 30_000, **_: Any) -> None:
        """Has nothing to end."""


def _records(file: Path) -> Iterator[list[Any]]:
    for line in file.read_text().split("\n"):
        if line.endswith("]"):
            try:
                yield json.loads(line)
            except ValueError:  # cut off behind a bracket
                continue


def exports(file: Path) -> list[Export]:
    """All exports, in the order in which they were begun."""
    found: dict[tuple[int, int], Export] = {}
    for pid, number, *content in _records(file):
        if content:
            instance, points = content
            parsed = [Seen(*p[:-1], Counts(*p[-1]) if p[-1] else None) for p in points]
            found[pid, number] = Export(pid, number, instance, parsed, is_sent=False)
        else:
            last = next(reversed(found))
            assert last == (pid, number), f"{last} and {pid, number} exported at once"
            found[last] = found[last]._replace(is_sent=True)
    return list(found.values())


def last_exporter(file: Path) -> int | None:
    """The process that exported last, or does."""
    if not file.exists():
        return None
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - 100_000))
        for line in reversed(stream.read().split(b"\n")):
            if line.startswith(b"[") and b"," in line:
                return int(line[1 : line.index(b",")])
    return None
