# SPDX-License-Identifier: Apache-2.0
"""Whether the times of points fit together from collection to collection."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from points import exact
from script import DELTA, OVERFLOWN, Script
from streams import Stream


class Intervals:
    """The intervals that the points of each reader have covered so far.

    Args:
        script: whose points are checked.
        contiguous: whether each delta interval must start where the reader's last one ended.
    """

    def __init__(self, script: Script, contiguous: bool) -> None:
        self._script = script
        self._contiguous = contiguous
        self._covered: dict[tuple[object, ...], tuple[int, int]] = {}
        self._last: dict[int, tuple[int, int]] = {}  # first and last time of the last collection
        self._was_empty: set[int] = set()  # readers who got nothing since

    def check(self, reader: int, streams: list[Stream]) -> Iterator[str]:
        """What does not fit in a collection of the reader, which is remembered."""
        sizes = Counter(stream.key for stream in streams)
        times = [point.time for stream in streams for point in stream.points]
        if not times:
            self._was_empty.add(reader)
            return
        for stream in streams:
            known = sizes[stream.key] == 1 and not self._script.is_shared(stream.key)
            observable = self._script.is_observable(stream.key)
            for attributes, point in zip(stream.attributes, stream.points, strict=True):
                text = f"{stream.key} {exact(attributes)}"
                place = (reader, stream.key, exact(attributes))
                if stream.key.kind == "Gauge":
                    if point.start is not None:
                        yield f"{text}: a gauge with a start"
                    continue
                start, time = point.start or 0, point.time
                if not 0 < start <= time:
                    yield f"{text}: from {start} to {time}"
                # What is in the overflow point depends on what is observed.
                changing = observable and attributes == OVERFLOWN
                before = self._covered.get(place) if known and not changing else None
                if stream.key.temporality == DELTA:
                    if not self._follows(reader, start, before):
                        yield (
                            f"{text}: from {start} to {time}, after {before} of its own and "
                            f"{self._last.get(reader)} of the reader"
                        )
                elif before and before[0] != start:
                    yield f"{text}: the start changed from {before[0]} to {start}"
                self._covered[place] = (start, time)
        self._last[reader] = (min(times), max(times))
        self._was_empty.discard(reader)

    def _follows(self, reader: int, start: int, before: tuple[int, int] | None) -> bool:
        """Whether a delta interval may start there, after the series' last one, if that is known."""
        if before and start < before[1]:
            return False
        if not self._contiguous or reader not in self._last:
            return True
        first, last = self._last[reader]
        if reader in self._was_empty:  # when that was is not known
            return start >= first
        if before and first <= before[1] <= last:  # it was in the last collection
            return start == before[1]
        return first <= start <= last
