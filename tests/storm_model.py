# SPDX-License-Identifier: Apache-2.0
"""What may be seen in a storm, from what is in the ledgers before and after somebody looks.

At a quiet point both are the same, so what may be seen is exact but for the updates in doubt: those that
a process was making when it was killed, or is making while it is stopped.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from ledger import (
    BOUNDARIES,
    MEASURED,
    OBSERVED,
    Entry,
    Spec,
    cycle_of,
    own_value,
    owner_of,
    summed,
)
from storm_sink import ZEROS, Seen

from otel_shm._core import lib

Number = int | float
_BOTH_KINDS = ("explicit", "exponential")


class Moment(NamedTuple):
    """All workers that ever were, at one moment."""

    entries: dict[int, Entry]
    alive: frozenset[int]  # neither killed nor told to leave, so far
    gone: dict[int, int]  # since when at the latest, by the monotonic clock
    stopped: frozenset[int]


class Model:
    """What may be seen between two moments; at a quiet point they are one.

    Args:
        before, after: the moments.
    """

    def __init__(self, before: Moment, after: Moment) -> None:
        self._before = before
        self._after = after
        self._workers = after.entries
        self._surely = before.alive & after.alive
        self._maybe = after.entries.keys() - before.gone.keys()

    def faults(self, points: Sequence[Seen]) -> Iterator[str]:
        """What is wrong whenever somebody looks."""
        by_name: dict[str, list[Seen]] = {}
        for point in points:
            by_name.setdefault(point.name, []).append(point)
        for place, spec in enumerate(MEASURED):
            found = by_name.get(spec.name, [])
            yield from (f"{spec.name}: {fault}" for fault in self._measured(place, spec, found))
        for place, spec in enumerate(OBSERVED):
            found = by_name.get(spec.name, [])
            yield from (f"{spec.name}: {fault}" for fault in self._observed(place, spec, found))

    def quiet_faults(self, points: Sequence[Seen]) -> Iterator[str]:
        """What is wrong with the values of the living, when none of them measures."""
        for place, spec in enumerate(MEASURED):
            if spec.is_gauge:
                yield from _one_of(spec, points, self._measured_by(place, spec))

    def quiet_faults_of_observables(self, points: Sequence[Seen]) -> Iterator[str]:
        """The same of observables, when all of the living have answered."""
        shares_lane_0 = any(e.lane == 0 and e.told(0)[1] for e in self._workers.values())
        for place, spec in enumerate(OBSERVED):
            if spec.rule in ("sum", "live_sum"):
                low, high = self._observed_bounds(place, spec, settled=True)
                found = [point.value for point in points if point.name == spec.name]
                if not found and not self._is_waited_for(place):
                    continue
                if len(found) != 1 or not low <= found[0] <= high:
                    yield f"{spec.name}: {found} is not within {low} and {high}"
            elif (
                not shares_lane_0
            ):  # nobody waits for their answers: they have no entry of their own
                yield from _one_of(spec, points, self._observed_by(place, spec))

    # Sums, histograms, and which values a gauge may have.

    def _measured(self, place: int, spec: Spec, found: list[Seen]) -> Iterator[str]:
        if spec.kind in _BOTH_KINDS:
            yield from self._histogram(place, spec, found)
            return
        if spec.is_gauge and spec.rule != "live_sum":
            yield from self._values(spec, found, lambda entry: entry.updates(place))
            return
        low, high = self._measured_bounds(place, spec)
        if not found:
            if any(e.updates(place)[0] for e in self._before.entries.values()) and low > 0:
                yield "it has no point"
            return
        yield from _within(spec, found, low, high)

    def _stays(self, spec: Spec, worker: int) -> bool:
        """True if a worker's share counts for ever."""
        return spec.rule == "sum" or self._workers[worker].lane == 0

    def _updates(self, worker: int, place: int) -> tuple[int, int]:
        """How many were surely done before, and may be begun by now."""
        before = self._before.entries.get(worker)
        done = before.updates(place)[0] if before else 0
        return done, self._workers[worker].updates(place)[1]

    def _measured_bounds(self, place: int, spec: Spec) -> tuple[Number, Number]:
        lows, highs, shared = list[Number](), list[Number](), [0.0]
        for worker, entry in self._workers.items():
            done, begun = self._updates(worker, place)
            if not spec.is_gauge:
                low, high = _span(spec, done, begun)
            elif entry.lane == 0:  # one value for all of them
                shared.append(own_value(spec, worker, begun))
                continue
            else:
                low = own_value(spec, worker, done) if done else 0
                high = own_value(spec, worker, begun) if begun else 0
            self._count(spec, worker, (low, high), (lows, highs))
        return sum(lows), sum(highs) + max(shared)

    def _count(
        self,
        spec: Spec,
        worker: int,
        share: tuple[Number, Number],
        bounds: tuple[list[Number], list[Number]],
    ) -> None:
        """Takes a worker's share into the bounds of a sum, where it counts or may count."""
        if self._stays(spec, worker) or worker in self._surely:
            bounds[0].append(share[0])
            bounds[1].append(share[1])
        elif worker in self._maybe:
            bounds[0].append(min(0, share[0]))
            bounds[1].append(max(0, share[1]))

    def _histogram(self, place: int, spec: Spec, found: list[Seen]) -> Iterator[str]:
        least, most = Counter[float](), Counter[float]()
        cycle = cycle_of(spec)
        for worker in self._workers:
            for updates, into in zip(self._updates(worker, place), (least, most), strict=True):
                for n, amount in enumerate(cycle):
                    into[amount] += updates // len(cycle) + (n < updates % len(cycle))
        if not found:
            if least.total():
                yield "it has no point"
            return
        yield from _within(spec, found, _product(least), _product(most))
        counts = found[0].counts
        if counts is None:
            yield "it is no histogram"
            return
        if not least.total() <= counts.count <= most.total():
            yield f"{counts.count} is not within {least.total()} and {most.total()}"
        if counts.count != sum(count for _, count in counts.buckets):
            yield f"{counts.count} is not the sum of {counts.buckets}"
        fewest, greatest = (_buckets(c, counts.scale) for c in (least, most))
        for bucket, count in counts.buckets:
            if not fewest[bucket] <= count <= greatest[bucket]:
                yield f"bucket {bucket}: {count} not within {fewest[bucket]}, {greatest[bucket]}"
        there, maybe = +least, +most
        if there and not min(maybe) <= counts.low <= min(there):
            yield f"minimum {counts.low}"
        if there and not max(there) <= counts.high <= max(maybe):
            yield f"maximum {counts.high}"

    def _values(self, spec: Spec, found: list[Seen], numbers: object) -> Iterator[str]:
        """Checks values that say whose they are, and the how manieth."""
        if spec.rule == "each":
            if len({point.worker for point in found}) != len(found):
                yield f"a worker twice: {found}"
        elif len(found) > 1:
            yield f"more than one point: {found}"
        owners = set()
        for point in found:
            worker, number = owner_of(spec, point.value)
            entry = self._workers.get(worker)
            if entry is None:
                yield f"{point.value} is nobody's"
                continue
            owners.add(worker)
            if spec.rule == "each" and point.worker != entry.lane:
                yield f"worker {point.worker} has what was set in lane {entry.lane}"
            if spec.rule != "last" and entry.lane != 0 and worker not in self._maybe:
                yield f"{point.value} is of a dead worker"
            before = self._before.entries.get(worker)
            done = numbers(before)[0] if before else 0  # type: ignore[operator]
            begun = numbers(entry)[1]  # type: ignore[operator]
            if not done <= number <= begun:
                yield f"{point.value} is number {number}, not within {done} and {begun}"
        if spec.rule == "each" and spec.kind == "gauge":
            for worker in self._surely:
                if self._workers[worker].lane != 0 and worker not in owners:
                    before = self._before.entries.get(worker)
                    if before and numbers(before)[0]:  # type: ignore[operator]
                        yield f"worker {worker} is missing in {found}"

    # Observables.

    def _observed(self, place: int, spec: Spec, found: list[Seen]) -> Iterator[str]:
        if spec.rule in ("sum", "live_sum"):
            if found:
                yield from _within(spec, found, *self._observed_bounds(place, spec, settled=False))
        elif not any(e.lane == 0 and e.told(0)[1] for e in self._workers.values()):
            steps = lambda e: (max(0, e.told(place)[0] - 1), e.told(place)[1] - 1)  # noqa: E731
            yield from self._values(spec, found, steps)

    def _observed_bounds(self, place: int, spec: Spec, *, settled: bool) -> tuple[Number, Number]:
        lows, highs = list[Number](), list[Number]()
        for worker, entry in self._workers.items():
            before = self._before.entries.get(worker)
            published, told = before.told(place)[0] if before else 0, entry.told(place)[1]
            if settled and self._answers(worker):
                published = told = entry.steps + 1
            ends = sorted(_told(spec, worker, n) or 0 for n in (published, told))
            counts = spec.rule == "sum" or worker in self._surely
            if entry.lane == 0 and (spec.is_gauge or not counts):
                # In lane 0 the living count and the dead, and have one value for all of them if it is a
                # gauge; but the series may be in a lane that its process got before it first observed.
                lows.append(min(0, ends[0]))
                highs.append(max(0, ends[1]))
            else:
                self._count(spec, worker, (ends[0], ends[1]), (lows, highs))
        return sum(lows), sum(highs)

    def _answers(self, worker: int) -> bool:
        """True if at a quiet point a worker's observables are as they are in its ledger."""
        alive = worker in self._surely and worker not in self._after.stopped
        return alive and self._workers[worker].is_ready

    def _is_waited_for(self, place: int) -> bool:
        """True if somebody surely has observed in time, or did so before: not those that share lane 0."""
        return any(
            entry.lane != 0 and worker in self._surely and entry.told(place)[0]
            for worker, entry in self._before.entries.items()
        )

    def _observed_by(self, place: int, spec: Spec) -> list[tuple[int, list[Number | None]]]:
        """By the lanes of the living: the values that they may have."""
        found = []
        for worker in sorted(self._surely):
            entry = self._workers[worker]
            told = {entry.steps + 1} if self._answers(worker) else set(entry.told(place))
            found.append((entry.lane, [_told(spec, worker, n) for n in sorted(told)]))
        return found

    def _measured_by(self, place: int, spec: Spec) -> list[tuple[int, list[Number | None]]]:
        """The same of a gauge; those in lane 0 have one value together, and so have all for "last"."""
        together = []
        found: list[tuple[int, list[Number | None]]] = []
        for worker, entry in self._workers.items():
            done, begun = entry.updates(place)
            if spec.rule == "last" or (entry.lane == 0 and entry.is_ready):
                together.append(entry)
            elif worker in self._surely:
                options = {done, begun}
                found.append(
                    (entry.lane, [own_value(spec, worker, n) if n else None for n in options])
                )
        if together:
            found.append((0, self._last_of(place, spec, together)))
        return found

    def _last_of(self, place: int, spec: Spec, entries: Iterable[Entry]) -> list[Number | None]:
        """The values of which one was set last: those of no update that was over when another began."""
        updates, doubtful = [], []
        for entry in entries:
            done, begun = entry.updates(place)
            if done:
                start, end = entry.times(place, done)
                updates.append((own_value(spec, entry.number, done), start, end))
            if begun > done:
                gone = self._after.gone.get(entry.number, math.inf)
                doubtful.append((own_value(spec, entry.number, begun), gone))
        last_start = max((start for _, start, _ in updates), default=0)
        options: list[Number | None] = [value for value, _, end in updates if end >= last_start]
        options += [value for value, end in doubtful if end >= last_start]
        return options if updates else [*options, None]


def _told(spec: Spec, worker: int, told: int) -> Number | None:
    return own_value(spec, worker, told - 1) if told else None


def _span(spec: Spec, done: int, begun: int) -> tuple[Number, Number]:
    """The least and the greatest sum on the way between so many updates and so many."""
    length = len(cycle_of(spec))
    return (
        min(summed(spec, n) for n in range(done, min(begun, done + length) + 1)),
        max(summed(spec, n) for n in range(max(done, begun - length), begun + 1)),
    )


def _product(counts: Counter[float]) -> float:
    return sum(amount * count for amount, count in counts.items())


def _buckets(counts: Counter[float], scale: int | None) -> Counter[int]:
    """In which buckets amounts are."""
    found = Counter[int]()
    for amount, count in counts.items():
        if scale is None:
            found[sum(amount > boundary for boundary in BOUNDARIES)] += count
        else:
            found[lib.oshm_exponential_index(amount, scale) if amount else ZEROS] += count
    return found


def _within(spec: Spec, found: list[Seen], low: Number, high: Number) -> Iterator[str]:
    if len(found) > 1:
        yield f"more than one point: {found}"
    elif not low <= found[0].value <= high:
        yield f"{found[0].value} is not within {low} and {high}"
    elif found[0].value and type(found[0].value).__name__ != spec.number:
        yield f"{found[0].value!r} is no {spec.number}"


def _fold(rule: str, there: list[tuple[int, Number]]) -> object:
    """What a rule makes of the values in lanes."""
    values = [value for _, value in there]
    if not there:
        return None
    if rule == "each":
        return sorted(there)
    if rule in ("one", "last"):
        return min(there)[1]
    return {"min": min, "max": max, "live_sum": sum}[rule](values)


def _one_of(
    spec: Spec, points: Sequence[Seen], members: list[tuple[int, list[Number | None]]]
) -> Iterator[str]:
    """Checks that what was seen is a fold of values that the lanes may have."""
    found = [point for point in points if point.name == spec.name]
    value: object = found[0].value if found else None
    if spec.rule == "each":
        value = sorted((point.worker or 0, point.value) for point in found) or None
    allowed = []
    for options in itertools.product(*(options for _, options in members)):
        lanes = [lane for lane, _ in members]
        there = [(lane, v) for lane, v in zip(lanes, options, strict=True) if v is not None]
        folded = _fold(spec.rule, there)
        if value == folded:
            return
        allowed.append(folded)
    yield f"{spec.name}: {value} is none of {allowed}"
