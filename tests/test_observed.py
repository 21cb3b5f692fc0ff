# SPDX-License-Identifier: Apache-2.0
"""What observables publish: absolute values, exactly as observed, and the shares of many processes."""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from buffers import claim, claim_stream, shm
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from points import values
from processes import Gate, Processes, processes

import otel_shm
from otel_shm import buffer as rules
from otel_shm._core import lib
from otel_shm.buffer import Buffer
from otel_shm.scanner import Scanner
from otel_shm.series import Share, Stream

__all__ = ["processes", "shm"]

Make = Callable[..., otel_shm.MeterProvider]
Number = int | float

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1


class Source:
    """A series of an observable, and what this process remembers of it."""

    def __init__(self, buffer: Buffer, kind: int = rules.OBSERVABLE_COUNTER) -> None:
        self.buffer = buffer
        self.series = claim(buffer, claim_stream(buffer, kind, f"kind {kind}"))
        self.share = Share()

    def observe(self, amount: Number) -> Number | None:
        """A collection in which this process observes an amount. Returns: what it says."""
        collection = self.buffer.begin_collection()
        self.series.observe(amount, collection, self.share)
        return self.read(collection)

    def read(self, collection: int | None = None) -> Number | None:
        """What a scan says."""
        if collection is None:
            collection = self.buffer.last_collection
        rows = Scanner(self.buffer).scan(collection)
        (row,) = (row for row in rows if row.series == self.series.record)
        return row.value


@pytest.fixture
def buffer(shm: Path) -> Buffer:
    """A buffer that other processes can attach to; this one has lane 1."""
    return Buffer(shm / "buffer", series=64, lanes=4, record_bytes=16384)


KINDS = (
    rules.OBSERVABLE_COUNTER,
    rules.OBSERVABLE_UP_DOWN_COUNTER,
    rules.OBSERVABLE_GAUGE,
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("amounts", "expected"),
    [
        ([5, 7, 7, 3], [5, 7, 7, 3]),
        ([0], [0]),
        ([-1, 1], [-1, 1]),
        ([0.1, 0.2, 0.3, 0.1 + 0.2], [0.1, 0.2, 0.3, 0.1 + 0.2]),
        ([1e300, 1.0, 1e-300], [1e300, 1.0, 1e-300]),
        ([-0.0], [0.0]),
        ([1, 2.5, 3], [1, 2.5, 3.0]),
        ([2**53 + 1, 2**53 + 2], [2**53 + 1, 2**53 + 2]),
        ([INT64_MAX, INT64_MAX - 1], [INT64_MAX, INT64_MAX - 1]),
        ([2**63, 5], [2.0**63, 5.0]),
        ([True], [1]),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_value_is_exactly_what_was_observed(
    buffer: Buffer, kind: int, amounts: list[Number], expected: list[Number]
) -> None:
    """However often and however it changes; once there was a float it is a float."""
    source = Source(buffer, kind)
    assert [repr(source.observe(amount)) for amount in amounts] == list(map(repr, expected))


def test_lowest_int(buffer: Buffer) -> None:
    """It fits into a sum; a last value has it as a float, because of the word that means "not set"."""
    assert Source(buffer, rules.OBSERVABLE_UP_DOWN_COUNTER).observe(INT64_MIN) == INT64_MIN
    assert repr(Source(buffer, rules.OBSERVABLE_GAUGE).observe(INT64_MIN)) == repr(float(INT64_MIN))


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_not_observed_has_no_value(buffer: Buffer, kind: int) -> None:
    """In a collection in which nobody observes a series it is left out, and comes back."""
    source = Source(buffer, kind)
    assert source.observe(5) == 5
    assert source.read(buffer.begin_collection()) is None
    assert source.observe(6) == 6


def test_shares_of_all_processes(buffer: Buffer, processes: Processes) -> None:
    """Every process's value counts while it lives, and of sums that only grow when it is dead too."""
    counter = Source(buffer, rules.OBSERVABLE_COUNTER)
    updown = Source(buffer, rules.OBSERVABLE_UP_DOWN_COUNTER)
    gauge = Source(buffer, rules.OBSERVABLE_GAUGE)
    sources = (counter, updown, gauge)
    seen, go_on = Gate(), Gate()
    collection = buffer.begin_collection()

    def observe(amount: Number) -> None:
        for source in sources:
            source.series.observe(amount, collection, source.share)

    def run() -> None:
        observe(70)
        observe(10)
        seen.open()
        go_on.wait()

    child = processes.fork(run)
    seen.wait()
    observe(1)
    assert [source.read(collection) for source in sources] == [11, 11, 1]
    go_on.open()
    child.result()
    assert [source.read(collection) for source in sources] == [11, 1, 1]


def test_next_owner_of_a_lane_adds_to_what_is_there(buffer: Buffer, processes: Processes) -> None:
    """Process after process has the same lane, and observes ever new values: the total is exact."""
    counter = Source(buffer)
    updown = Source(buffer, rules.OBSERVABLE_UP_DOWN_COUNTER)

    def run(amounts: list[Number]) -> tuple[int, Number | None, Number | None]:
        for amount in amounts:
            found = counter.observe(amount), updown.observe(amount)
        return buffer.lane, *found

    total: Number = 0
    for amounts in ([5, 9], [1, 2, 3], [0.5], [0], [7, 2]):
        total += amounts[-1]
        assert processes.fork(run, amounts).result() == (2, total, amounts[-1])


def test_killed_process_leaves_its_last_value(buffer: Buffer, processes: Processes) -> None:
    """One that is killed while it publishes has left one of the two values between which it was."""
    counter, total = Source(buffer), 0

    def run(end: int) -> None:
        for amount in range(1, end + 1):
            counter.observe(amount)
        os.kill(os.getpid(), signal.SIGKILL)

    for end in (3, 10, 1):
        assert processes.fork(run, end).wait() == -signal.SIGKILL
        total += end
        assert counter.observe(0) == total


def test_processes_without_a_lane_share_one(buffer: Buffer, processes: Processes) -> None:
    """More processes than lanes: those that share lane 0 publish differences, and nothing is lost."""
    counter, go_on, (reader, writer) = Source(buffer), Gate(), os.pipe()
    counter.observe(500_000)  # the parent's, which its children do not take for theirs

    def observe(number: int) -> None:
        for amount in (3, 100 + number, 1 + number, 10**number):
            counter.observe(amount)
        os.write(writer, b".")

    def run(number: int) -> int:
        observe(number)
        if number == 4:  # in lane 0, as is its child
            with Processes() as inner:
                inner.fork(observe, 5).result()
        go_on.wait()
        return buffer.lane

    children = [processes.fork(run, number) for number in range(5)]
    for _ in range(6):
        os.read(reader, 1)
    assert counter.observe(500_000) == 611_111
    go_on.open()
    assert sorted(child.result() for child in children)[:3] == [0, 0, 0]
    assert counter.observe(0) == 111_111
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize(
    "create",
    [
        "create_observable_gauge",
        "create_observable_up_down_counter",
        "create_observable_counter",
    ],
)
def test_live_sum_forgets_what_is_not_observed(
    create: str, make_provider: Make, processes: Processes
) -> None:
    """A live_sum is of what the living observe now, not of what they once did."""
    reader, observes, stay = InMemoryMetricReader(), Gate(), Gate()
    shared = mmap.mmap(-1, 1)  # whether the child still has something to say
    now = [1]

    def callback(_options: CallbackOptions) -> list[Observation]:
        return [Observation(now[0])] if now[0] == 1 or shared[0] == 0 else []

    provider = make_provider(reader)
    getattr(provider.get_meter("m"), create)("g", [callback], fold="live_sum")

    def child() -> None:
        now[0] = 10
        observes.open()
        stay.wait()

    forked = processes.fork(child)
    observes.wait()
    assert values(reader) == {"{}": 11}
    shared[0] = 1
    assert values(reader) == {"{}": 1}
    stay.open()
    forked.result()


def observe_by_path(path: Path, kind: int, amount: int | None) -> int:
    """In a process started on its own: takes a lane, and may observe. Returns: the lane."""
    buffer = Buffer(path)
    if amount is not None:
        Source(buffer, kind).observe(amount)
    return buffer.lane


SUMS = [rules.OBSERVABLE_COUNTER, rules.OBSERVABLE_UP_DOWN_COUNTER]


@pytest.mark.parametrize("amount", [None, 1000])
@pytest.mark.parametrize("kind", SUMS, ids=["counter", "up-down counter"])
def test_lane_that_another_had_meanwhile(
    buffer: Buffer, processes: Processes, kind: int, amount: int | None
) -> None:
    """A process that gets its lane back finds its own share there, and that one's if it stays."""
    source = Source(buffer, kind)
    assert source.observe(5) == 5
    Path(str(buffer.path)).read_bytes()  # drops the locks
    assert processes.spawn(observe_by_path, buffer.path, kind, amount).result() == 1
    assert buffer.collector_acquire()
    assert buffer.lane == 1
    left = amount or 0 if kind == rules.OBSERVABLE_COUNTER else 0
    assert [source.observe(value) for value in (8, 9)] == [8 + left, 9 + left]


@pytest.mark.parametrize("kind", SUMS, ids=["counter", "up-down counter"])
def test_share_goes_along_to_another_lane(buffer: Buffer, kind: int) -> None:
    """A process that lost its lane counts once, with what it observes in the new one."""
    source = Source(buffer, kind)
    assert source.observe(5) == 5
    Path(str(buffer.path)).read_bytes()  # drops the locks
    with lock(buffer, 1):
        assert buffer.collector_acquire()
        assert buffer.lane == 2
        assert [source.observe(value) for value in (8, 9, 0.5, 3)] == [8, 9, 0.5, 3]


@contextlib.contextmanager
def lock(buffer: Buffer, lane: int) -> Iterator[None]:
    """Another process has the lane, and does nothing with it."""
    code = (
        "import fcntl, sys; file = open(sys.argv[1], 'r+b')\n"
        "fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, int(sys.argv[2]))\n"
        "print('locked', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(buffer.path), str(lib.OSHM_LOCK_LANES + lane)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"locked\n"
        yield


def test_series_without_a_place_is_dropped() -> None:
    """Where there is no room for anything, what is observed is counted as dropped."""
    buffer = Buffer(series=1, lanes=2, record_bytes=4096)
    series, _ = Stream(buffer, 0).claim(b"", measured=True)
    series.observe(5, 1, Share())
    assert buffer.statistics.dropped == 1


def observed(amounts: list[Number]) -> Callable[[CallbackOptions], list[Observation]]:
    """A callback that observes one amount after the other, and then the last one for ever."""

    def callback(_options: CallbackOptions) -> list[Observation]:
        amount = amounts.pop(0) if len(amounts) > 1 else amounts[0]
        return [Observation(amount)]

    return callback


@pytest.mark.parametrize(
    "create", ["create_observable_counter", "create_observable_up_down_counter"]
)
def test_streams_that_are_worked_out_anew(make_provider: Make, create: str) -> None:
    """When another reader comes, a process does not take what it observed before for a dead one's."""
    reader, later = InMemoryMetricReader(), InMemoryMetricReader()
    provider = make_provider(reader)
    getattr(provider.get_meter("m"), create)("o", [observed([5, 7])])
    assert values(reader) == {"{}": 5}
    provider.add_metric_reader(later)
    assert values(reader) == values(later) == {"{}": 7}
    provider.remove_metric_reader(later)
    assert values(reader) == {"{}": 7}


def test_overflown_observations_are_added_up(make_provider: Make) -> None:
    """Those of all sets of attributes that have no place, in every collection anew."""

    def callback(_options: CallbackOptions) -> list[Observation]:
        return [Observation(10**n, {"n": n}) for n in range(5)]

    reader = InMemoryMetricReader()
    provider = make_provider(reader, series=2)
    provider.get_meter("m").create_observable_counter("o", [callback])
    for _ in range(3):
        assert values(reader) == {
            "{'n': 0}": 1,
            "{'n': 1}": 10,
            "{'otel.metric.overflow': True}": 11100,
        }
