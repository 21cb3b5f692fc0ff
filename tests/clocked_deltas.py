# SPDX-License-Identifier: Apache-2.0
"""Delta readers of tests: with a provider, and without one at a clock of their own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from opentelemetry.sdk import metrics as sdk
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from points import exact

from otel_shm.attributes import decode_attributes
from otel_shm.buffer import Buffer
from otel_shm.readings import Row
from otel_shm.scanner import Scanner

KINDS: tuple[type, ...] = (
    sdk.Counter,
    sdk.UpDownCounter,
    sdk.Histogram,
    sdk.ObservableCounter,
    sdk.ObservableUpDownCounter,
    sdk.ObservableGauge,
    sdk._Gauge,
)
ALL_KINDS = range(1, 8)  # as the buffer numbers them
STEP = 2_000_000_000  # nanoseconds; longer than what is retired has to wait for its reuse


def delta_reader(
    limit: int | None = None, aggregation: Mapping[type, Any] | None = None
) -> InMemoryMetricReader:
    """A reader that wants deltas of everything.

    Args:
        limit: most series of a stream that it wants; None: the SDK's.
        aggregation: by the class of an instrument, where it is another than the default.
    """
    reader = InMemoryMetricReader(
        preferred_temporality=dict.fromkeys(KINDS, AggregationTemporality.DELTA),
        preferred_aggregation=dict(aggregation or {}),
    )
    return reader if limit is None else limited(reader, limit)


def limited(reader: InMemoryMetricReader, limit: int) -> InMemoryMetricReader:
    """The reader, which wants no more series of a stream than the limit; with any SDK."""
    reader._instrument_class_cardinality_limit = dict.fromkeys(KINDS, limit)  # type: ignore[attr-defined]
    return reader


class Deltas:
    """A delta reader without a provider, whose every collection comes two seconds after the last.

    Args:
        buffer: that is collected.
        name: of the reader; what it has had is the same in all processes.
    """

    def __init__(self, buffer: Buffer, name: bytes = b"deltas") -> None:
        self.buffer = buffer
        self.number = buffer.claim_reader(name)
        self.scanner = Scanner(buffer)
        self.clock = self.start or 2 * 10**18
        self.reusable = 0  # series whose slots became reusable so far
        self.totals: Counter[str] = Counter()  # of all collections, by attributes

    @property
    def start(self) -> int:
        """Where the next interval begins; 0 before the first."""
        return self.scanner.interval_start(self.number)

    def collect(self) -> dict[str, int | float]:
        """Value or sum by attributes of what was measured since the last one; then series retire."""
        collection, rows = self.scan()
        self.commit(collection)
        return self.note(rows)

    def scan(self) -> tuple[int, list[Row]]:
        """Begins a collection. Returns: its number and the rows that have something to report."""
        collection = self.buffer.begin_collection()
        rows = self.scanner.scan(collection, self.number, ALL_KINDS)
        return collection, [row for row in rows if row.value is not None]

    def commit(self, collection: int) -> None:
        """Ends it: what was scanned counts as sent, and series retire."""
        self.clock += STEP
        self.scanner.commit(self.number, collection, self.clock)
        self.reusable += self.scanner.retire(collection, self.clock)

    def note(self, rows: Iterable[Row]) -> dict[str, int | float]:
        """Adds rows to the totals; no series may be there twice."""
        found: dict[str, int | float] = {}
        for row in rows:
            key = exact(decode_attributes(self.buffer.record_key(row.series)))
            assert key not in found, f"{key} is there twice"
            assert row.value is not None
            found[key] = row.value
            self.totals[key] += row.value  # type: ignore[assignment]
        return found

    def until_reusable(self, count: int) -> None:
        """Collects until so many series more can be used again."""
        wanted = self.reusable + count
        for _ in range(6):
            if self.reusable >= wanted:
                return
            self.collect()
        raise AssertionError(
            f"{self.reusable - wanted + count} of {count} series can be used again"
        )
