# SPDX-License-Identifier: Apache-2.0
"""Series that no reader needs any more: when they go, who keeps them, and what is never mixed up."""

from __future__ import annotations

import mmap
import random

import pytest
from clocked_deltas import Deltas
from points import OVERFLOW, exact
from processes import Gate, Processes, processes, until
from reused import AGGREGATED, LIMIT, SIZES, add, hold, stream, stream_of

from otel_shm import buffer as rules
from otel_shm._core import ffi, lib
from otel_shm.buffer import Buffer
from otel_shm.series import Series, Stream

__all__ = ["processes", "stream"]


def test_idle_series_are_used_again(stream: Stream) -> None:
    """What was not measured for some collections gives its record and slots to new sets."""
    buffer = stream._buffer
    deltas = Deltas(buffer)
    expected = add(stream, *range(8))
    records = {hold(stream, n).record for n in range(8)}
    assert deltas.collect() == expected
    deltas.until_reusable(8)
    assert buffer.statistics.series == 0
    allocated = buffer.statistics.allocated_bytes
    for begin in range(100, 900, 8):
        keys = range(begin, begin + 8)
        expected = add(stream, *keys)
        assert {hold(stream, key).record for key in keys} == records
        assert deltas.collect() == expected
        deltas.until_reusable(8)
    assert buffer.statistics.allocated_bytes == allocated
    assert buffer.statistics.overflowed == 0


def test_same_set_comes_back(stream: Stream) -> None:
    """A set that gets its record back before anybody has looked is not taken for the old one."""
    deltas = Deltas(stream._buffer)
    for _ in range(5):
        expected = add(stream, *range(8))
        assert deltas.collect() == expected
        deltas.until_reusable(8)


def test_sets_of_any_length_use_the_same_slots(stream: Stream) -> None:
    """A set that is longer than those before it gets a longer record, for the slots that there are."""
    buffer, deltas, noise = stream._buffer, Deltas(stream._buffer), random.Random(3)
    header = lib.oshm_buffer_header(buffer._handle)
    for turn in range(200):
        expected = add(stream, *(f"{turn} {n} {'x' * noise.randrange(400)}" for n in range(8)))
        assert deltas.collect() == expected
        deltas.until_reusable(8)
        if turn == 0:
            slots = header.slot_cursor
        assert header.slot_cursor == slots
    assert header.record_cursor < 8 * 2048 + 2048
    assert buffer.statistics.overflowed == 0


def test_cells_that_were_used_do_not_make_claims_slow() -> None:
    """When there were more sets than the index has cells, a new one is still looked for in a few only."""
    stream = stream_of(Buffer(series=128, lanes=2, record_bytes=65536), limit=100)
    deltas, cells = Deltas(stream._buffer), 1024
    for turn in range(100):
        assert add(stream, *range(turn * 60, turn * 60 + 60)) == deltas.collect()
        deltas.until_reusable(60)
    assert lib.oshm_buffer_header(stream._buffer._handle).reach < cells // 16


def test_retired_series_reports_nothing(stream: Stream) -> None:
    """Another one may be measured in its slots before anybody has looked."""
    deltas, series = Deltas(stream._buffer), hold(stream, 1)
    words = ffi.cast("uint64_t *", series._target.run)
    del series
    add(stream, *range(8))
    deltas.collect()
    deltas.until_reusable(8)
    words[lib.OSHM_INT] += 1
    if stream.aggregation != rules.AGGREGATION_SUM:
        words[lib.OSHM_BUCKETS] += 1
    assert deltas.collect() == {}


def test_overflow_series_stays(stream: Stream) -> None:
    """It is idle more often than not, and there when it is needed."""
    deltas, statistics = Deltas(stream._buffer), stream._buffer.statistics
    for _ in range(5):
        assert deltas.collect() == {}
    for turn in range(10):
        keys = range(turn * 100, turn * 100 + LIMIT + 5)
        expected = {**add(stream, *keys[:LIMIT]), OVERFLOW: 5}
        add(stream, *keys[LIMIT:])
        assert deltas.collect() == expected
        deltas.until_reusable(LIMIT)
        assert stream._buffer.statistics.series == statistics.series == 0


# Who keeps a series.


def test_measured_series_comes_back_to_life(stream: Stream) -> None:
    """One that is held only retires as far as it can go on as the series that it was."""
    deltas, kept = Deltas(stream._buffer), hold(stream, "kept")
    for _ in range(5):
        kept.measure(1)
        assert {**add(stream, *range(8)), exact({"n": "kept"}): 1} == deltas.collect()
        assert deltas.collect() == {}
        assert kept.retires
        kept.measure(1)
        assert deltas.collect() == {exact({"n": "kept"}): 1}
        assert not kept.retires


def test_claimed_series_comes_back_to_life(stream: Stream) -> None:
    """Who claims a series wants to measure in it."""
    deltas, kept = Deltas(stream._buffer), hold(stream, "kept")
    add(stream, "kept", *range(8))
    deltas.collect()
    deltas.collect()
    assert kept.retires
    assert hold(stream, "kept").record == kept.record
    assert not kept.retires


class Holder:
    """A process that holds {"n": 0} to {"n": 3}, measures 1 in each when it is told, and waits to end."""

    def __init__(self, stream: Stream, processes: Processes, held: list[Series]) -> None:
        self._measure, self._end = Gate(), Gate()
        self._steps = mmap.mmap(-1, mmap.PAGESIZE)

        def run() -> None:
            series = held or [hold(stream, n) for n in range(4)]
            self._steps[0] = 1
            self._measure.wait()
            for each in series:
                each.measure(1)
            self._steps[0] = 2
            self._end.wait()

        self.process = processes.fork(run)
        until(lambda: self._steps[0] == 1)

    def measure(self) -> None:
        """Has it measure."""
        self._measure.open()
        until(lambda: self._steps[0] == 2)


def use_and_reuse(stream: Stream, deltas: Deltas) -> None:
    """Other series come and go, and leave the held ones where they are."""
    for begin in range(100, 160, 6):
        assert add(stream, *range(begin, begin + 6)) == deltas.collect()
        deltas.until_reusable(6)
    assert stream._buffer.statistics.series == 4


HELD = {exact({"n": n}): 1 for n in range(4)}


def test_series_that_another_process_holds_stays(stream: Stream, processes: Processes) -> None:
    """However long it is idle, what that process then measures is its own series'."""
    deltas, holder = Deltas(stream._buffer), Holder(stream, processes, [])
    assert set(deltas.collect().values()) <= {0}  # they were started
    use_and_reuse(stream, deltas)
    holder.measure()
    assert deltas.collect() == HELD


@pytest.mark.parametrize("how", AGGREGATED)
@pytest.mark.parametrize("lanes", [4, 2], ids=["own lane", "no lane"])
def test_series_that_a_child_inherited_stays(lanes: int, how: str, processes: Processes) -> None:
    """A forked child may use what its parent held before, and has let go of since."""
    stream = stream_of(Buffer(**{**SIZES, "lanes": lanes}), how)
    deltas, held = Deltas(stream._buffer), [hold(stream, n) for n in range(4)]
    holder = Holder(stream, processes, held)
    held.clear()
    assert set(deltas.collect().values()) <= {0}
    use_and_reuse(stream, deltas)
    holder.measure()
    assert deltas.collect() == HELD


def test_process_without_a_lane_lets_go(processes: Processes) -> None:
    """However often it has looked for a lane meanwhile, as it does with each collection."""
    stream = stream_of(Buffer(**{**SIZES, "lanes": 2}))

    def run() -> int:
        buffer, deltas = stream._buffer, Deltas(stream._buffer)
        held = [hold(stream, n) for n in range(6)]
        for _ in range(3):
            assert buffer.collector_acquire()
            assert buffer.lane == 0
        deltas.collect()
        held.clear()
        deltas.collect()
        deltas.until_reusable(6)
        return buffer.statistics.series

    assert processes.fork(run).result() == 0


def test_dead_process_holds_nothing(stream: Stream, processes: Processes) -> None:
    """What it held is there for others, and its lane's next owner does not hold it."""
    deltas, holder = Deltas(stream._buffer), Holder(stream, processes, [])
    deltas.collect()
    add(stream, *range(100, 106))
    deltas.collect()
    deltas.until_reusable(6)
    holder.process.kill()
    add(stream, *range(200, 206))
    deltas.collect()
    deltas.until_reusable(10)
    assert stream._buffer.statistics.series == 0
    records = {hold(stream, n).record for n in range(10)}
    assert processes.fork(lambda: {hold(stream, n).record for n in range(10)}).result() == records
    add(stream, *range(10))
    deltas.collect()
    deltas.until_reusable(10)
