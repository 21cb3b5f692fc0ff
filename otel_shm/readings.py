# SPDX-License-Identifier: Apache-2.0
"""What is read from a buffer: the rows of a scan, and the counters it keeps about itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Row(NamedTuple):
    """A series as one scan saw it.

    `value` is the value or sum, None where it has nothing to report. What follows it is a histogram's:
    buckets of an exponential one start with index `offset` at `scale`.
    """

    series: int
    stream: int
    generation: int
    kind: int
    aggregation: int
    start_time_unix_nano: int
    value: int | float | None
    minimum: float | None
    maximum: float | None
    measurements: int
    zero_count: int
    scale: int
    offset: int
    buckets: list[int]
    negative_offset: int
    negative_buckets: list[int]
    lane: int = 0  # with the fold rule "each": whose value it is


# What one scan found of a series that has something to report: positions of its record and its stream's,
# generation, start time, value, and of a histogram its row. There are many, so it is a plain tuple.
Found = tuple[int, int, int, int, int | float, Row | None]


@dataclass(frozen=True)
class BufferStatistics:
    """The counters a buffer keeps about itself, over all processes."""

    series: int  # series published
    series_capacity: int
    overflowed: int  # measurements that went to an overflow series
    dropped: int  # measurements of instruments the buffer had no room for
    attached: int  # processes that ever attached
    collector_changes: int  # times a process became the collector
    allocated_bytes: int  # memory in use
