# SPDX-License-Identifier: Apache-2.0
"""Exemplars of other processes: they arrive where metrics are collected, each once, under its series."""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from clocked_deltas import delta_reader
from exemplified import Sampled, exemplars_of, in_span, in_trace
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricReader
from opentelemetry.sdk.metrics.view import View
from points import values
from processes import Gate, Processes, processes, until

import otel_shm

__all__ = ["processes"]

pytestmark = pytest.mark.usefixtures("backend")

Make = Callable[..., otel_shm.MeterProvider]
Key = tuple[str, str]

VIEWS = [View(instrument_name="h", attribute_keys={"worker"})]
AMOUNTS = (1, 20, 300, 4000)  # in a bucket each


def measure(provider: otel_shm.MeterProvider, me: int, turn: int) -> None:
    """Measures in traces of its own, in a series that all have and in one of its own."""
    histogram = provider.get_meter("m").create_histogram("h")
    for n, amount in enumerate(AMOUNTS):
        with in_span(trace_of(me, turn, n)):
            histogram.record(amount, {"worker": me, "n": n})


def trace_of(me: int, turn: int, n: int) -> int:
    """Tells in which measurement a trace id was used."""
    return (me + 1) * 10_000 + turn * 100 + n


def expected_of(me: int, turns: int) -> dict[tuple[Key, Sampled], int]:
    """The exemplars of a process, each once."""
    return {
        (("h", f"{{'worker': {me}}}"), in_trace(amount, trace_of(me, turn, n), {"n": n})): 1
        for turn in range(turns)
        for n, amount in enumerate(AMOUNTS)
    }


class Got:
    """All the exemplars that readers got, and how often.

    Args:
        readers: in the order in which they collect.
        before: called before each collection.
    """

    def __init__(
        self, *readers: InMemoryMetricReader, before: Callable[[], object] = lambda: None
    ) -> None:
        self._before = before
        self.found: list[tuple[InMemoryMetricReader, Counter[tuple[Key, Sampled]]]] = [
            (reader, Counter()) for reader in readers
        ]

    def everything(self, count: int) -> bool:
        """Has every reader collect once. Returns: whether each has got so many exemplars."""
        for reader, found in self.found:
            self._before()
            for key, exemplars in exemplars_of(reader.get_metrics_data()).items():
                found.update((key, exemplar) for exemplar in exemplars)
        return all(found.total() >= count for _, found in self.found)


def collect_from(got: Got, workers: int, turns: int, told: Callable[[int], object]) -> None:
    """Collects what workers 0, 1, ... measure, turn by turn, and checks that nothing comes twice."""
    for turn in range(turns):
        told(turn)
        until(lambda turn=turn: got.everything(workers * len(AMOUNTS) * (turn + 1)))
    for _ in range(3):
        got.everything(0)
    expected: dict[Any, int] = {}
    for me in range(workers):
        expected.update(expected_of(me, turns))
    for _, found in got.found:
        assert found == expected


@pytest.mark.parametrize("workers", [1, 3])
def test_exemplars_of_forked_workers(
    workers: int, make_provider: Make, reader: InMemoryMetricReader, processes: Processes
) -> None:
    """All of them, to each reader, while the collector samples measurements of its own."""
    deltas = delta_reader()
    provider = make_provider(reader, deltas, views=VIEWS)
    turn_of_all, end = mmap.mmap(-1, mmap.PAGESIZE), Gate()

    def work(me: int) -> None:
        for turn in range(3):
            until(lambda turn=turn: turn_of_all[0] > turn)
            measure(provider, me, turn)
        end.wait()

    children = [processes.fork(work, me) for me in range(1, workers + 1)]

    def told(turn: int) -> None:
        turn_of_all[0] = turn + 1
        measure(provider, 0, turn)

    def measure_in_all() -> None:
        """A delta reader gets exemplars with a point, and may have had the measurements' before."""
        for me in range(workers + 1):
            provider.get_meter("m").create_histogram("h").record(0, {"worker": me})

    collect_from(Got(reader, deltas, before=measure_in_all), workers + 1, 3, told)
    end.open()
    for child in children:
        child.result()


def spawned(path: Path, me: int) -> None:
    """A worker that was not forked: it takes its turns when there is a file that says so."""
    provider = otel_shm.MeterProvider(buffer=path, views=VIEWS)
    for turn in range(2):
        until((path.parent / f"turn {turn}").exists)
        measure(provider, me, turn)
    until((path.parent / "end").exists)


def test_exemplars_of_spawned_workers(
    make_provider: Make, reader: InMemoryMetricReader, tmp_path: Path, processes: Processes
) -> None:
    """Processes that name the same buffer need not be related."""
    make_provider(reader, buffer=tmp_path / "buffer", views=VIEWS)
    children = [processes.spawn(spawned, tmp_path / "buffer", me) for me in range(2)]
    collect_from(Got(reader), 2, 2, lambda turn: (tmp_path / f"turn {turn}").touch())
    (tmp_path / "end").touch()
    for child in children:
        child.result()


def test_child_does_not_send_what_its_parent_sampled(
    make_provider: Make, reader: InMemoryMetricReader, processes: Processes
) -> None:
    """What waits in reservoirs when a process forks is its own."""
    provider = make_provider(reader, views=VIEWS)
    measure(provider, 0, 0)
    end = Gate()

    def work() -> None:
        measure(provider, 1, 0)
        end.wait()

    child = processes.fork(work)
    collect_from(Got(reader), 2, 1, lambda _turn: None)
    end.open()
    child.result()


def test_child_that_collects_gets_its_parents(make_provider: Make, processes: Processes) -> None:
    """Whoever collects asks all the others, whose child it may be."""
    provider = make_provider(views=VIEWS)
    measure(provider, 0, 0)

    def work() -> Any:
        reader = InMemoryMetricReader()
        provider.add_metric_reader(reader)
        measure(provider, 1, 0)
        got = Got(reader)
        until(lambda: got.everything(2 * len(AMOUNTS)))
        return dict(got.found[0][1])

    assert processes.fork(work).result() == {**expected_of(0, 1), **expected_of(1, 1)}


def test_more_exemplars_than_a_mailbox_holds(
    make_provider: Make, reader: MetricReader, processes: Processes
) -> None:
    """As many as there is room for arrive, and the measurements of all."""
    views = [View(instrument_name="c", attribute_keys={"n"})]
    provider = make_provider(reader, views=views)
    is_done, end = mmap.mmap(-1, mmap.PAGESIZE), Gate()

    def work() -> None:
        counter = provider.get_meter("m").create_counter("c")
        for n in range(1500):
            with in_span(n + 1):
                counter.add(1, {"n": n, "text": "x" * 100})
        is_done[0] = 1
        end.wait()

    child = processes.fork(work)
    until(lambda: is_done[0])
    got = Got(reader)
    until(lambda: got.everything(300))
    (found,) = (found for _, found in got.found)
    assert set(found.values()) == {1}
    assert all(key == ("c", f"{{'n': {exemplar.trace - 1}}}") for key, exemplar in found)
    assert sum(values(reader).values()) == 1500
    end.open()
    child.result()
