# SPDX-License-Identifier: Apache-2.0
"""Claims and scans: one record for one key, what tells keys apart, and every record found once."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import pytest
from buffers import SMALL, claim, claim_instrument, shm
from hypothesis import given
from hypothesis import strategies as st
from processes import Processes, processes

from otel_shm import buffer as rules
from otel_shm.buffer import Buffer, Scanner

__all__ = ["processes", "shm"]


def test_series_is_found_by_every_process(shm: Path, processes: Processes) -> None:
    """The same scope, instrument and attributes are the same records wherever they are claimed."""

    def records(path: Path) -> list[int]:
        buffer = Buffer(path)
        kinds = [(rules.COUNTER, rules.SUM), (rules.UP_DOWN_COUNTER, rules.LIVE_SUM)]
        instruments = [claim_instrument(buffer, kind, fold) for kind, fold in kinds]
        return instruments + [
            claim(buffer, each, {"n": n}).record for each in instruments for n in "ab"
        ]

    buffer = Buffer(shm / "buffer", **SMALL)
    here = records(shm / "buffer")
    assert len(set(here)) == len(here) == 6
    assert processes.fork(records, shm / "buffer").result() == here
    assert buffer.statistics.series == 4


def test_order_of_attributes_does_not_matter() -> None:
    """However the keys are ordered, at any level, it is one series."""
    buffer = Buffer(**SMALL)
    counter = claim_instrument(buffer)
    first = claim(buffer, counter, {"a": 1, "b": {"c": 2, "d": 3}})
    again = claim(buffer, counter, {"b": {"d": 3, "c": 2}, "a": 1})
    assert first.record == again.record


def test_type_of_a_value_matters() -> None:
    """1, True, 1.0, "1" and the like are series of their own."""
    buffer = Buffer(**SMALL)
    counter = claim_instrument(buffer)
    values: list[Any] = [1, True, 1.0, "1", b"1", None, (1,), {"1": 1}]
    assert len({claim(buffer, counter, {"a": value}).record for value in values}) == len(values)


def test_kind_of_instrument_matters() -> None:
    """A counter and a gauge of one name are two instruments; the fold rule is the first one's."""
    buffer = Buffer(**SMALL)
    counter = claim_instrument(buffer, rules.COUNTER, rules.SUM)
    assert claim_instrument(buffer, rules.GAUGE, rules.LAST) != counter
    assert claim_instrument(buffer, rules.COUNTER, rules.LIVE_SUM) == counter


@given(st.lists(st.binary(max_size=64), max_size=40))
def test_any_bytes_are_a_key(keys: list[bytes]) -> None:
    """Different keys are different series, the same key is the same, and each reads back."""
    buffer = Buffer(series=64, lanes=2, record_bytes=65536)
    counter = claim_instrument(buffer)
    found = {key: buffer.claim_series(counter, key, measured=True)[0].record for key in keys}
    assert len(set(found.values())) == len(found)
    for key, record in found.items():
        assert buffer.claim_series(counter, key, measured=True)[0].record == record
        assert buffer.record_key(record) == key
        assert buffer.record_parent(record) == counter


def scan_without_memory() -> tuple[int, set[bool], set[int | float | None]]:
    """A scan that gets no memory and one that does. Returns: what the rows of the latter say."""
    buffer = Buffer(series=100_000, lanes=2, record_bytes=2**24)
    counter = claim_instrument(buffer)
    for n in range(50_000):
        buffer.claim_series(counter, b"%d" % n, measured=True)[0].add(1)
    scanner = Scanner(buffer)
    unlimited = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**20, unlimited[1]))
    with pytest.raises(MemoryError):
        scanner.scan(0)
    resource.setrlimit(resource.RLIMIT_AS, unlimited)
    rows = [row for row in scanner.scan(0) if row.value is not None]
    series = {row.series for row in rows}
    return len(series), {row.instrument == counter for row in rows}, {row.value for row in rows}


def test_scan_that_ran_out_of_memory_is_made_up_for(processes: Processes) -> None:
    """After a scan for which this process had no memory the next one has every series, whole."""
    # glibc: blocks of this size and more come from the system each time, not from what is left over
    fresh = {"MALLOC_MMAP_THRESHOLD_": "65536"}
    found = processes.spawn(scan_without_memory, environment=fresh).result()
    assert found == (50_000, {True}, {1})
