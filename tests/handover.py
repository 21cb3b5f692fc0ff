# SPDX-License-Identifier: Apache-2.0
"""Whether what many processes exported, one after the other, is one stream without a gap or a double."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from ledger import SPECS, owner_of
from storm_sink import Export, Seen
from storm_workers import BEAT

_MONOTONIC = ("counter", "observable_counter", "explicit", "exponential")


class Kill(NamedTuple):
    """The end of a process by a signal, by the wall clock."""

    begun: int
    over: int


Kills = Mapping[int, Kill]  # by pid


def _only_grows(name: str) -> bool:
    spec = SPECS.get(name)
    return name == BEAT or (spec is not None and spec.rule == "sum" and spec.kind in _MONOTONIC)


def one_at_a_time(exports: Sequence[Export], kills: Kills) -> Iterator[str]:
    """An exporter that does not return was killed; all export under one service.instance.id."""
    for export in exports:
        if not export.is_sent and export.pid not in kills:
            yield f"{export.pid} did not end its export {export.number}"
    if len({export.instance for export in exports if export.points}) > 1:
        yield f"several instances: { {export.instance for export in exports} }"


def cumulative_faults(exports: Sequence[Export], lanes: int) -> Iterator[str]:
    """Sums never go back, start times never change, no series is there twice."""
    last: dict[tuple[str, int | None], Seen] = {}
    for export in exports:
        keys = [(point.name, point.worker) for point in export.points]
        if len(set(keys)) < len(keys):
            yield f"a series twice: {keys}"
        for point in export.points:
            if point.worker is not None and not 0 <= point.worker < lanes:
                yield f"{point.name}: worker {point.worker}"
            before = last.get((point.name, point.worker))
            last[point.name, point.worker] = point
            if before is None:
                continue
            if before.start != point.start:
                yield f"{point.name}: started at {before.start}, then at {point.start}"
            if before.time > point.time:
                yield f"{point.name}: {before.time} comes before {point.time}"
            if _only_grows(point.name) and point.value < before.value:
                yield f"{point.name}: {before.value}, then {point.value}"
            if point.counts and before.counts and point.counts.count < before.counts.count:
                yield f"{point.name}: {before.counts.count} measured, then {point.counts.count}"


def values_of_the_dead(exports: Sequence[Export], ends: Mapping[int, int]) -> Iterator[str]:
    """What gauges say is of workers that had not ended when it was collected.

    Args:
        exports: of any reader.
        ends: when each worker was gone, by the wall clock; not of those whose values stay.
    """
    for export in exports:
        for point in export.points:
            spec = SPECS.get(point.name)
            if spec is None or spec.kind != "gauge" or spec.rule in ("last", "live_sum"):
                continue
            worker, _ = owner_of(spec, point.value)
            if ends.get(worker, point.time) < point.time:
                yield f"{point.name}: {worker} ended {ends[worker]}, collected {point.time}"


class Deltas:
    """What the delta reader exported.

    Args:
        exports: of it, in order.
        totals: what the cumulative reader exported, which knows when series started.
        kills: of processes that may have been collecting.
    """

    def __init__(self, exports: Sequence[Export], totals: Sequence[Export], kills: Kills) -> None:
        self._exports = exports
        self._began = {p.name: p.start or 0 for export in totals for p in export.points}
        self._kills = kills
        self.lost = 0  # intervals that were lost before they were written down, at least
        self.sums: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()

    def faults(self) -> Iterator[str]:
        """Each interval starts where the one before it ended; adds all of them up."""
        end: int | None = None
        for export in self._exports:
            starts = {point.start for point in export.points if point.start is not None}
            times = {point.time for point in export.points}
            if not starts:
                continue
            if end is None:
                # The beat is older than all workers, so it is in the first interval that there was.
                end = self._began[BEAT]
                starts = {point.start or 0 for point in export.points if point.name == BEAT}
            if starts != {end}:
                start = min(starts)
                if len(starts) > 1 or start < end:
                    yield f"after {end} comes an interval from {starts}"
                elif not any(
                    k.begun <= max(times) and k.over >= start for k in self._kills.values()
                ):
                    yield f"from {end} to {start} nothing, and nobody was killed"
                else:
                    self.lost += 1
            end = max(*times, *starts)
            for point in export.points:
                self.sums[point.name] += point.value  # type: ignore[assignment]
                if point.counts:
                    self.counts[point.name] += point.counts.count

    def not_all(self, points: Sequence[Seen]) -> Iterator[str]:
        """What the deltas do not add up to, of the totals at the end."""
        for point in points:
            spec = SPECS.get(point.name)
            if spec is None or spec.rule != "sum":
                continue
            if self.lost == 0 or not _only_grows(point.name):
                wrong = self.lost == 0 and self.sums[point.name] != point.value
            else:
                wrong = self.sums[point.name] > point.value
            if wrong:
                yield f"{point.name}: deltas of {self.sums[point.name]}, and in all {point.value}"
            if point.counts and self.lost == 0 and self.counts[point.name] != point.counts.count:
                yield f"{point.name}: {self.counts[point.name]} of {point.counts.count} measured"
