# SPDX-License-Identifier: Apache-2.0
"""Claims and scans: one record for one key, what tells keys apart, and every record found once."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import pytest
from buffers import SMALL, claim, claim_instrument, claim_stream, shm
from hypothesis import given
from hypothesis import strategies as st
from processes import Processes, processes

from otel_shm import buffer as rules
from otel_shm.buffer import Buffer
from otel_shm.scanner import Scanner
from otel_shm.series import Stream

__all__ = ["processes", "shm"]


def test_series_is_found_by_every_process(shm: Path, processes: Processes) -> None:
    """The same scope, instrument, stream and attributes are the same records everywhere."""

    def records(path: Path) -> list[int]:
        buffer = Buffer(path)
        kinds = (rules.COUNTER, rules.UP_DOWN_COUNTER, rules.HISTOGRAM)
        instruments = [claim_instrument(buffer, kind) for kind in kinds]
        streams = [claim_stream(buffer, kind) for kind in kinds]
        series = [claim(buffer, each, {"n": n}).record for each in streams for n in "ab"]
        return instruments + streams + series

    buffer = Buffer(shm / "buffer", **SMALL)
    here = records(shm / "buffer")
    assert len(set(here)) == len(here) == 12
    assert processes.fork(records, shm / "buffer").result() == here
    assert buffer.statistics.series == 6


def test_order_of_attributes_does_not_matter() -> None:
    """However the keys are ordered, at any level, it is one series."""
    buffer = Buffer(**SMALL)
    counter = claim_stream(buffer)
    first = claim(buffer, counter, {"a": 1, "b": {"c": 2, "d": 3}})
    again = claim(buffer, counter, {"b": {"d": 3, "c": 2}, "a": 1})
    assert first.record == again.record


def test_type_of_a_value_matters() -> None:
    """1, True, 1.0, "1" and the like are series of their own."""
    buffer = Buffer(**SMALL)
    counter = claim_stream(buffer)
    values: list[Any] = [1, True, 1.0, "1", b"1", None, (1,), {"1": 1}]
    assert len({claim(buffer, counter, {"a": value}).record for value in values}) == len(values)


def test_kind_of_instrument_matters() -> None:
    """A counter and a gauge of one name are two instruments, and each has streams of its own."""
    buffer = Buffer(**SMALL)
    counter = claim_instrument(buffer, rules.COUNTER)
    assert claim_instrument(buffer, rules.GAUGE) != counter
    assert claim_instrument(buffer, rules.COUNTER) == counter
    assert claim_stream(buffer, rules.GAUGE) != claim_stream(buffer, rules.COUNTER)


def test_first_wishes_stand() -> None:
    """The fold rule of a stream and the boundaries of an instrument are no part of their identity."""
    buffer = Buffer(**SMALL)
    assert claim_stream(buffer, fold=rules.SUM) == claim_stream(buffer, fold=rules.LIVE_SUM)
    assert buffer.record_fold(claim_stream(buffer, fold=rules.LIVE_SUM)) == rules.SUM
    first = claim_instrument(buffer, rules.HISTOGRAM, boundaries=[1, 2.5])
    assert claim_instrument(buffer, rules.HISTOGRAM, boundaries=[3]) == first
    assert buffer.boundaries(first) == [1, 2.5]


@given(st.lists(st.binary(max_size=64), max_size=40))
def test_any_bytes_are_a_key(keys: list[bytes]) -> None:
    """Different keys are different series, the same key is the same, and each reads back."""
    buffer = Buffer(series=64, lanes=2, record_bytes=65536)
    counter = claim_stream(buffer)
    stream = Stream(buffer, counter)
    found = {key: stream.claim(key, measured=True)[0].record for key in keys}
    assert len(set(found.values())) == len(found)
    for key, record in found.items():
        assert stream.claim(key, measured=True)[0].record == record
        assert buffer.record_key(record) == key
        assert buffer.record_parent(record) == counter


def scan_without_memory() -> tuple[int, set[bool], set[int | float | None]]:
    """A scan that gets no memory and one that does. Returns: what the rows of the latter say."""
    buffer = Buffer(series=100_000, lanes=2, record_bytes=2**24)
    counter = claim_stream(buffer)
    stream = Stream(buffer, counter)
    for n in range(50_000):
        stream.claim(b"%d" % n, measured=True)[0].measure(1)
    scanner = Scanner(buffer)
    unlimited = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**20, unlimited[1]))
    with pytest.raises(MemoryError):
        scanner.scan(0)
    resource.setrlimit(resource.RLIMIT_AS, unlimited)
    rows = [row for row in scanner.scan(0) if row.value is not None]
    series = {row.series for row in rows}
    return len(series), {row.stream == counter for row in rows}, {row.value for row in rows}


def test_scan_that_ran_out_of_memory_is_made_up_for(processes: Processes) -> None:
    """After a scan for which this process had no memory the next one has every series, whole."""
    # glibc: blocks of this size and more come from the system each time, not from what is left over
    fresh = {"MALLOC_MMAP_THRESHOLD_": "65536"}
    found = processes.spawn(scan_without_memory, environment=fresh).result()
    assert found == (50_000, {True}, {1})
