# SPDX-License-Identifier: Apache-2.0
"""What is read from a buffer: the rows of a scan, and the counters it keeps about itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Row(NamedTuple):
    """A series as one scan saw it. `value` is None where it has nothing to report."""

    series: int
    instrument: int
    kind: int
    start_time_unix_nano: int
    value: int | float | None


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
