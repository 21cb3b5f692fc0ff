# SPDX-License-Identifier: Apache-2.0
"""Ever new sets of attributes, with readers that want deltas only: all stays bounded, nothing is lost."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from itertools import count
from time import time_ns
from types import ModuleType
from typing import Any

import pytest
from clocked_deltas import STEP, delta_reader, limited
from opentelemetry.sdk import metrics as sdk
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation
from points import OVERFLOW, exact, measure_of, points_of
from processes import Processes, processes, until

import otel_shm

__all__ = ["processes"]

pytestmark = pytest.mark.usefixtures("seconds_fly_by")

Make = Callable[..., otel_shm.MeterProvider]
LIMIT = 20  # series of a stream that a reader wants
BEFORE = "bound before the fork"

EXPONENTIAL = {sdk.Histogram: ExponentialBucketHistogramAggregation(max_size=20)}
INSTRUMENTS: dict[str, tuple[str, dict[type, Any]]] = {
    "counter": ("create_counter", {}),
    "up-down counter": ("create_up_down_counter", {}),
    "explicit histogram": ("create_histogram", {}),
    "exponential histogram": ("create_histogram", EXPONENTIAL),
}


@pytest.fixture
def seconds_fly_by(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each collection comes seconds after the last."""
    clock = count(time_ns(), STEP)
    monkeypatch.setattr("otel_shm.collector.time_ns", lambda: next(clock))


class Endless:
    """An instrument whose measurements are counted, and the deltas that two readers got of it."""

    def __init__(self, make_provider: Make, how: str = "counter", limit: int = LIMIT) -> None:
        create, aggregation = INSTRUMENTS[how]
        self.limit = limit
        self.readers = [delta_reader(limit, aggregation) for _ in range(2)]
        self.provider = make_provider(*self.readers, series=512, record_bytes=2**19)
        self.instrument = getattr(self.provider.get_meter("m"), create)("i")
        self.measure = measure_of(self.instrument)
        self.measured: Counter[str] = Counter()
        self.got: list[Counter[str]] = [Counter(), Counter()]

    def add(self, *keys: object) -> None:
        """Measures 1 in each set {"n": key}."""
        for key in keys:
            self.measure(1, {"n": key})
            self.measured[exact({"n": key})] += 1

    def collect(self, only: int | None = None) -> None:
        """Both readers collect, or one of them: no set twice, and not more than the reader wants."""
        for reader in (0, 1) if only is None else (only,):
            points = points_of(self.readers[reader].get_metrics_data())
            found = {exact(point.attributes): point for point in points}
            assert len(found) == len(points) <= self.limit + 1
            for attributes, point in found.items():
                self.got[reader][attributes] += point.value
                count = getattr(point.data, "count", point.value)
                assert count == point.value

    @property
    def series(self) -> int:
        """How many there are now, for all instruments."""
        return self.provider.buffer.statistics.series


@pytest.fixture(params=INSTRUMENTS)
def endless(request: pytest.FixtureRequest, make_provider: Make, backend: ModuleType) -> Endless:
    """Each instrument, of each backend."""
    return Endless(make_provider, request.param)


def test_ever_new_sets_stay_bounded(endless: Endless) -> None:
    """Memory, series and points do; each measurement is in one point of each reader, under its set."""
    allocated = []
    for turn in range(60):
        endless.add(*range(turn * 15, turn * 15 + 15), turn // 10, "always")
        endless.collect()
        allocated.append(endless.provider.buffer.statistics.allocated_bytes)
        assert endless.series <= 6 * LIMIT
    assert allocated[-1] == allocated[29]
    assert endless.got == [endless.measured] * 2
    assert endless.provider.buffer.statistics.overflowed == 0
    known = getattr(endless.instrument, "_targets", None)
    assert known is None or len(known) <= 6 * LIMIT


def test_what_is_too_much_for_one_interval_overflows(endless: Endless) -> None:
    """The sum over all points is that of the measurements, however many sets there are at once."""
    statistics = endless.provider.buffer.statistics
    for turn in range(30):
        endless.add(*range(turn * 300, turn * 300 + (300 if turn % 3 == 0 else 10)))
        endless.collect()
        assert endless.series <= 6 * LIMIT
    for got in endless.got:
        overflow = got.pop(OVERFLOW)
        assert sum(got.values()) + overflow == sum(endless.measured.values())
        assert got <= endless.measured
    assert endless.provider.buffer.statistics.overflowed > statistics.overflowed


def test_reader_that_collects_seldom_gets_everything(endless: Endless) -> None:
    """A series is needed until each reader has had all of it."""
    for turn in range(60):
        endless.add(*range(turn * 4, turn * 4 + 4))
        endless.collect(0)
        if turn % 4 == 3:
            endless.collect(1)
    endless.collect(1)
    assert endless.got == [endless.measured] * 2
    assert endless.series <= 6 * LIMIT


def test_attributes_of_any_length(make_provider: Make, backend: ModuleType) -> None:
    """Short and long sets use each other's room, and none of them is used up."""
    endless, noise = Endless(make_provider), random.Random(4)
    for turn in range(120):
        endless.add(*(f"{turn} {n} " + "x" * noise.randrange(1000) for n in range(15)))
        endless.collect()
    assert endless.got == [endless.measured] * 2
    assert endless.provider.buffer.statistics.overflowed == 0


def test_bound_series_stays(make_provider: Make, backend: ModuleType) -> None:
    """However long it is idle, a bound instrument adds to its own series."""
    endless = Endless(make_provider)
    idle, used = (endless.instrument.bind({"bound": name}) for name in ("idle", "used"))
    used.add(1)
    endless.measured["{'bound': 'used'}"] += 1
    for turn in range(40):
        endless.add(*range(turn * 15, turn * 15 + 15))
        endless.collect()
    for bound, name in ((idle, "idle"), (used, "used")):
        bound.add(5)
        endless.measured[exact({"bound": name})] += 5
    endless.instrument.add(1, {"bound": "idle"})
    endless.measured["{'bound': 'idle'}"] += 1
    endless.collect()
    assert endless.got == [endless.measured] * 2
    del idle, used, bound
    for turn in range(40, 60):
        endless.add(*range(turn * 15, turn * 15 + 15))
        endless.collect()
    assert endless.got == [endless.measured] * 2


def test_cumulative_reader_needs_every_series(make_provider: Make, backend: ModuleType) -> None:
    """Where one reader wants totals nothing is used again; what there is no room for overflows."""
    endless = Endless(make_provider)
    totals = limited(InMemoryMetricReader(), LIMIT)
    endless.provider.add_metric_reader(totals)
    for turn in range(20):
        endless.add(*range(turn * 15, turn * 15 + 15))
        endless.collect()
    assert endless.series == 6 * LIMIT
    found = {exact(p.attributes): p.value for p in points_of(totals.get_metrics_data())}
    assert sum(found.values()) == sum(endless.measured.values())
    assert all(found[exact({"n": n})] == 1 for n in range(LIMIT))
    for got in endless.got:
        assert sum(got.values()) == sum(endless.measured.values())


def test_only_the_kinds_that_all_readers_want_deltas_of(make_provider: Make) -> None:
    """Totals of one kind of instrument do not keep the series of another."""
    endless = Endless(make_provider)
    mixed = limited(InMemoryMetricReader({sdk.Counter: AggregationTemporality.DELTA}), LIMIT)
    endless.provider.add_metric_reader(mixed)
    up_down = endless.provider.get_meter("m").create_up_down_counter("u")
    for turn in range(30):
        up_down.add(1, {"n": turn % LIMIT})
        endless.add(*range(turn * 15, turn * 15 + 15))
        for reader in endless.readers:
            reader.get_metrics_data()
        mixed.get_metrics_data()
    assert endless.series <= 6 * LIMIT + LIMIT
    found = [p for p in points_of(mixed.get_metrics_data()) if p.name == "u"]
    assert len(found) == LIMIT
    assert sum(point.value for point in found) == 30


def test_workers_make_ever_new_sets(
    make_provider: Make, backend: ModuleType, processes: Processes
) -> None:
    """Of their own, all the same ones, and bound ones: the collector's readers get what they measured."""
    endless = Endless(make_provider, limit=60)
    buffer = endless.provider.buffer
    before = endless.instrument.bind({"n": BEFORE})

    def work(me: int) -> dict[str, int]:
        mine, measured = endless.instrument.bind({"n": f"bound in {me}"}), Counter[str]()
        for turn in range(40):
            seen = buffer.last_collection
            for key in (f"{me} {turn}", f"{me} {turn // 6}", f"all {turn}", f"all {turn // 6}"):
                endless.instrument.add(1, {"n": key})
                measured[exact({"n": key})] += 1
            if turn in (0, 39):
                before.add(1)
                mine.add(1)
                measured.update({exact({"n": f"bound in {me}"}): 1, exact({"n": BEFORE}): 1})
            until(lambda seen=seen: buffer.last_collection > seen)  # that of one of the two readers
        return dict(measured)

    workers = [processes.fork(work, me) for me in range(3)]
    while not all(worker.is_answered for worker in workers):
        endless.collect()
    for worker in workers:
        endless.measured.update(worker.result())
    endless.collect()
    assert endless.got == [endless.measured] * 2
    assert endless.series <= 6 * endless.limit
