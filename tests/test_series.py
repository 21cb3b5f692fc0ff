# SPDX-License-Identifier: Apache-2.0
"""Streams and series through cffi: what a handle of one keeps alive, and for how long."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
from buffers import SMALL, claim, claim_stream, shm, totals
from processes import Processes, processes

from otel_shm import buffer as rules
from otel_shm._core import ffi, lib
from otel_shm.buffer import Buffer
from otel_shm.errors import BufferFormatError
from otel_shm.series import Series, Stream

__all__ = ["processes", "shm"]


def held(series: Series) -> int:
    """How many handles to it this process's lane says there are."""
    return int(ffi.cast("uint64_t *", series._target.run)[lib.OSHM_HELD])


def test_series_is_held_while_there_are_handles() -> None:
    """Every handle is noted in the lane of its process, and gone from there when it goes."""
    buffer = Buffer(**SMALL)
    stream = claim_stream(buffer)
    first = claim(buffer, stream)
    assert held(first) == 1
    second = claim(buffer, stream)
    assert held(first) == held(second) == 2
    del second
    gc.collect()
    assert held(first) == 1


def test_series_of_a_dead_process_is_not_held(shm: Path, processes: Processes) -> None:
    """Who takes over the lane of a killed process does not inherit what that one held."""
    buffer = Buffer(shm / "buffer", **SMALL)
    stream = claim_stream(buffer)

    def run() -> tuple[int, int]:
        series = claim(buffer, stream)
        before = held(series)
        kept = [claim(buffer, stream) for _ in range(3)]
        assert held(kept[0]) == before + 3
        return buffer.lane, before

    assert [processes.fork(run).result() for _ in range(3)] == [(2, 1)] * 3


def test_series_outlives_its_buffer_and_stream() -> None:
    """A series can be measured as long as it is there: it keeps the mapping."""
    buffer = Buffer(**SMALL)
    series = claim(buffer, claim_stream(buffer))
    del buffer
    gc.collect()
    assert series.measure(1) == 0
    assert held(series) == 1


def test_garbage_goes_in_any_order(processes: Processes) -> None:
    """A buffer, its streams and their series that are garbage together are let go, and once."""

    def run() -> int:
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            buffer = Buffer(**SMALL)
            stream = Stream(buffer, claim_stream(buffer, rules.HISTOGRAM))
            series, _ = stream.claim(b"", measured=True)
            series.measure(1)
            cycle = [buffer, stream, series]
            cycle.append(cycle)  # type: ignore[arg-type]
            del buffer, stream, series, cycle
            gc.collect()
        return len(os.listdir("/proc/self/fd")) - before

    assert processes.fork(run).result() == 0


def test_stream_without_a_record_drops() -> None:
    """What is measured in a stream that had no room is counted, and nowhere else."""
    buffer = Buffer(**SMALL)
    series, status = Stream(buffer, 0).claim(b"", measured=True)
    assert status != 0
    assert series.record == 0
    for amount in (1, 0.5):
        assert series.measure(amount) == 0
    assert buffer.statistics.dropped == 2
    assert totals(buffer) == {}


def test_what_is_no_stream_is_refused() -> None:
    """The record of an instrument, of a series, or none at all cannot be measured in."""
    buffer = Buffer(**SMALL)
    stream = claim_stream(buffer)
    series = claim(buffer, stream).record
    for position in (buffer.record_parent(stream), series, 4, 2**40):
        with pytest.raises(BufferFormatError, match=f"no stream at {position}"):
            Stream(buffer, position)
