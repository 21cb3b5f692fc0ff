# SPDX-License-Identifier: Apache-2.0
"""Delta temporality of a provider: its instruments, its readers, and its processes."""

from __future__ import annotations

import mmap
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from deltas import CUMULATIVE, DELTA, Number, all_deltas
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk import metrics as sdk
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from points import exact, points_of, values
from processes import Gate, Processes, processes, until

import otel_shm
from otel_shm import buffer as rules
from otel_shm.errors import BufferSizeError

__all__ = ["processes"]

Make = Callable[..., otel_shm.MeterProvider]


def seen(reader: InMemoryMetricReader) -> dict[str, Number]:
    """The values by name of a collection in which no metric has two points."""
    points = points_of(reader.get_metrics_data())
    found = {point.name: point.value for point in points}
    assert len(found) == len(points)
    return found


@pytest.mark.usefixtures("backend")
def test_instruments_and_temporalities(make_provider: Make) -> None:
    """Every kind has its deltas, and says so; a cumulative reader beside gets the totals."""
    deltas, totals = all_deltas(), InMemoryMetricReader()
    meter = make_provider(deltas, totals).get_meter("m")
    counter, updown = meter.create_counter("c"), meter.create_up_down_counter("u")
    histogram, gauge = meter.create_histogram("h"), meter.create_gauge("g")
    bound = counter.bind()

    def measure() -> None:
        counter.add(1)
        bound.add(2)
        updown.add(-1)
        histogram.record(4)
        gauge.set(5)

    for times in (1, 2, 3):
        measure()
        points = points_of(deltas.get_metrics_data())
        assert {p.name: p.value for p in points} == {"c": 3, "u": -1, "h": 4, "g": 5}
        assert {p.temporality for p in points if p.kind != "Gauge"} == {DELTA}
        assert [p.data.count for p in points if p.name == "h"] == [1]
        assert deltas.get_metrics_data() is None
        total = {"c": 3 * times, "u": -times, "h": 4 * times, "g": 5}
        assert seen(totals) == seen(totals) == total


@pytest.mark.usefixtures("backend")
def test_temporality_is_a_matter_of_the_kind(make_provider: Make) -> None:
    """One reader may have deltas of counters and totals of the rest."""
    reader = InMemoryMetricReader({sdk.Counter: DELTA})
    meter = make_provider(reader).get_meter("m")
    counter, updown = meter.create_counter("c"), meter.create_up_down_counter("u")
    for total in (1, 2):
        counter.add(1)
        updown.add(1)
        points = {p.name: p for p in points_of(reader.get_metrics_data())}
        assert (points["c"].value, points["c"].temporality) == (1, DELTA)
        assert (points["u"].value, points["u"].temporality) == (total, CUMULATIVE)
    assert seen(reader) == {"u": 2}


def test_intervals_of_a_provider_are_contiguous(make_provider: Make) -> None:
    """Each begins at the time at which the one before ended, with measurements in it or without."""
    reader = all_deltas()
    counter = make_provider(reader).get_meter("m").create_counter("c")
    ends = []
    for amounts in ([1], [1, 2], [3]):
        for amount in amounts:
            counter.add(amount)
        (point,) = points_of(reader.get_metrics_data())
        assert point.start is not None
        assert point.start <= point.time
        if ends:
            assert point.start == ends[-1]
        ends.append(point.time)
    assert reader.get_metrics_data() is None
    counter.add(1, {"new": True})
    (point,) = points_of(reader.get_metrics_data())
    assert point.start is not None
    assert ends[-1] < point.start < point.time


def test_reader_that_is_added_later(make_provider: Make) -> None:
    """It gets what is measured from then on; a cumulative one gets everything."""
    provider = make_provider()
    counter = provider.get_meter("m").create_counter("c")
    histogram = provider.get_meter("m").create_histogram("h")
    counter.add(100)
    histogram.record(100)
    late = all_deltas(), InMemoryMetricReader()
    for reader in late:
        provider.add_metric_reader(reader)
    assert late[0].get_metrics_data() is None
    counter.add(1)
    histogram.record(5)
    (of_counter, of_histogram) = points_of(late[0].get_metrics_data())
    assert of_counter.value == 1
    assert (of_histogram.data.count, of_histogram.data.max) == (1, 5)
    assert seen(late[1]) == {"c": 101, "h": 105}


def test_too_many_delta_readers_are_said(make_provider: Make) -> None:
    """A provider with more of them than there can be is refused, naming one."""
    readers = [InMemoryMetricReader({sdk.Counter: DELTA}) for _ in range(rules.READERS + 1)]
    with pytest.raises(BufferSizeError, match="wants deltas, but the buffer has baselines for 8"):
        make_provider(*readers)


class Observing:
    """A callback that observes what it is told; nothing where that is None."""

    def __init__(self) -> None:
        self.value: Number | None = None

    def __call__(self, _options: CallbackOptions) -> Iterator[Observation]:
        if self.value is not None:
            yield Observation(self.value)


OBSERVED: list[tuple[str, list[Number | None], list[Number | None]]] = [
    ("create_observable_counter", [5, 7, 7, 10], [5, 2, 0, 3]),
    ("create_observable_counter", [5, None, 9, None, None, 9], [5, None, 4, None, None, 0]),
    ("create_observable_counter", [10, 3, 4], [10, 3, 1]),  # counting began anew
    ("create_observable_counter", [0.5, 1.0, 0.25], [0.5, 0.5, 0.25]),
    ("create_observable_counter", [2**53 + 1, 2**53 + 2], [2**53 + 1, 1]),
    ("create_observable_up_down_counter", [5, 3, None, 8, 8], [5, -2, None, 5, 0]),
    ("create_observable_up_down_counter", [-1.5, 1.5], [-1.5, 3.0]),
    ("create_observable_gauge", [5, 5, None, 3, 0], [5, 5, None, 3, 0]),
]


@pytest.mark.parametrize(("create", "observed", "expected"), OBSERVED)
def test_what_is_observed(
    make_provider: Make,
    create: str,
    observed: list[Number | None],
    expected: list[Number | None],
) -> None:
    """An interval has the difference to what was observed before, if anything was observed in it; a sum
    that only grows and is smaller began anew."""
    reader, source = all_deltas(), Observing()
    getattr(make_provider(reader).get_meter("m"), create)("o", [source])
    for value, difference in zip(observed, expected, strict=True):
        source.value = value
        assert seen(reader) == ({} if difference is None else {"o": difference})


def test_readers_observe_apart(make_provider: Make) -> None:
    """Each reader's collection has the difference to its own last one."""
    readers, source = [all_deltas(), all_deltas()], Observing()
    make_provider(*readers).get_meter("m").create_observable_counter("o", [source])
    had = [0, 0]
    for value, which in ((5, 0), (7, 1), (9, 1), (10, 0), (10, 0), (20, 1), (21, 0)):
        source.value = value
        assert seen(readers[which]) == {"o": value - had[which]}
        had[which] = value


# Processes with providers.


def test_next_collector_goes_on(buffer_path: Path, processes: Processes) -> None:
    """When the process that collects is killed, the next one's interval begins where that one's ended,
    and has what was measured since, in the dead process too."""
    times = memoryview(mmap.mmap(-1, 16)).cast("Q")
    ready = Gate()

    def first() -> None:
        reader = all_deltas()
        provider = otel_shm.MeterProvider([reader], buffer=buffer_path, shutdown_on_exit=False)
        counter = provider.get_meter("m").create_counter("c")
        histogram = provider.get_meter("m").create_histogram("h")
        counter.add(1)
        histogram.record(1)
        times[0] = points_of(reader.get_metrics_data())[0].time
        counter.add(100)
        histogram.record(9)
        ready.open()
        signal.pause()

    child = processes.fork(first)
    ready.wait()
    reader = all_deltas()
    provider = otel_shm.MeterProvider([reader], buffer=buffer_path, shutdown_on_exit=False)
    provider.get_meter("m").create_counter("c").add(10)
    assert reader.get_metrics_data() is None, "the other one collects"
    child.kill()
    points = {point.name: point for point in points_of(reader.get_metrics_data())}
    assert (points["c"].value, points["c"].start) == (110, times[0])
    data = points["h"].data
    assert (data.count, data.sum, data.min, data.max) == (1, 9, 9, 9)
    assert points["h"].start == times[0]
    assert reader.get_metrics_data() is None
    provider.shutdown()


def test_children_of_a_provider_collect_its_deltas(
    make_provider: Make, processes: Processes
) -> None:
    """A forked child that takes over has its parent's readers, and their intervals."""
    reader = all_deltas()
    provider = make_provider(reader)
    counter = provider.get_meter("m").create_counter("c")
    counter.add(1)
    assert seen(reader) == {"c": 1}
    counter.add(2)

    def child() -> dict[str, Number]:
        counter.add(4)
        until(provider.buffer.collector_acquire)
        return seen(reader)

    forked = processes.fork(child)
    provider.buffer.collector_release()
    assert forked.result() == {"c": 6}
    counter.add(8)
    assert seen(reader) == {"c": 8}


def test_share_of_a_dead_process_is_taken_off(make_provider: Make, processes: Processes) -> None:
    """What a dead process had in an UpDownCounter goes, and the interval in which it goes says so."""
    reader, stay = all_deltas(), Gate()
    updown = make_provider(reader).get_meter("m").create_up_down_counter("u")
    updown.add(1)
    added = Gate()

    def child() -> None:
        updown.add(10)
        added.open()
        stay.wait()

    forked = processes.fork(child)
    added.wait()
    assert values(reader) == {exact({}): 11}
    stay.open()
    forked.result()
    assert values(reader) == {exact({}): -10}
    assert values(reader) == {}


def test_share_of_a_dead_process_is_taken_off_an_observed_one(
    make_provider: Make, processes: Processes
) -> None:
    """A live_sum of an ObservableCounter falls by what the dead process had: it is not counted anew."""
    reader, stay, now = all_deltas(), Gate(), [5]
    provider = make_provider(reader)
    observed = Gate()
    provider.get_meter("m").create_observable_counter(
        "c", [lambda _: [Observation(now[0])]], fold="live_sum"
    )
    assert values(reader) == {exact({}): 5}

    def child() -> None:
        now[0] = 100
        observed.open()
        stay.wait()

    forked = processes.fork(child)
    observed.wait()
    assert values(reader) == {exact({}): 100}
    stay.open()
    forked.result()
    assert values(reader) == {exact({}): -100}
