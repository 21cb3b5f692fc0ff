# SPDX-License-Identifier: Apache-2.0
"""Collecting deltas of a buffer without a provider, and readers that want deltas of everything."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import pytest
from buffers import claim, claim_stream
from opentelemetry.sdk import metrics as sdk
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader

from otel_shm import buffer as rules
from otel_shm.buffer import Buffer
from otel_shm.readings import Row
from otel_shm.scanner import Scanner
from otel_shm.series import Series
from otel_shm.streams import Aggregated

Number = int | float

CUMULATIVE, DELTA = AggregationTemporality.CUMULATIVE, AggregationTemporality.DELTA
KINDS = range(1, 8)
ALL_CLASSES = (
    sdk.Counter,
    sdk.UpDownCounter,
    sdk.Histogram,
    sdk._Gauge,
    sdk.ObservableCounter,
    sdk.ObservableUpDownCounter,
    sdk.ObservableGauge,
)
EXPLICIT = Aggregated(rules.AGGREGATION_EXPLICIT, (1.0, 10.0, 100.0))
EXPONENTIAL = Aggregated(rules.AGGREGATION_EXPONENTIAL, max_size=160, max_scale=20)


class DeltaReader:
    """Collects deltas of a buffer, as the collector does it, with a clock of its own."""

    clock = count(1_000)

    def __init__(self, buffer: Buffer, key: bytes = b"reader", kinds: Any = KINDS) -> None:
        self.buffer = buffer
        self.number = buffer.claim_reader(key)
        self.kinds = kinds
        self.scanner = Scanner(buffer)
        self.collection = 0

    def scan(self) -> dict[int, Row]:
        """What would be sent, by series; nothing counts as sent yet."""
        self.collection = self.buffer.begin_collection()
        rows = self.scanner.scan(self.collection, reader=self.number, delta_kinds=self.kinds)
        return {row.series: row for row in rows if row.value is not None}

    def commit(self, now: int | None = None) -> None:
        """What the last scan gave counts as sent."""
        self.scanner.commit(self.number, self.collection, now or next(self.clock))

    def collect(self) -> dict[int, Row]:
        """A whole collection."""
        rows = self.scan()
        self.commit()
        return rows

    def value(self, series: Series) -> Number | None:
        """A whole collection: what it says of a series; None if that is left out."""
        row = self.collect().get(series.record)
        return None if row is None else row.value


@pytest.fixture
def buffer(shm: Path) -> Buffer:
    """A buffer that other processes can attach to."""
    return Buffer(shm / "buffer", series=256, lanes=6, record_bytes=65536)


def histogram_of(buffer: Buffer, how: Aggregated = EXPLICIT) -> Series:
    """A series of a histogram."""
    return claim(buffer, claim_stream(buffer, rules.HISTOGRAM, "duration", how))


def gauge_of(buffer: Buffer) -> Series:
    """A series of a gauge."""
    return claim(buffer, claim_stream(buffer, rules.GAUGE, "level"))


def all_deltas() -> InMemoryMetricReader:
    """A reader that wants deltas of everything."""
    return InMemoryMetricReader(dict.fromkeys(ALL_CLASSES, DELTA))
