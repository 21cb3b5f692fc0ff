# SPDX-License-Identifier: Apache-2.0
"""When there is no room: every measurement is in a total, counted and logged once, and nobody dies."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest
from buffers import claim_instrument, in_small_tmpfs, meter_of, shm, totals
from processes import Gate, Processes, processes

from otel_shm.buffer import Buffer
from otel_shm.errors import BufferFullError

__all__ = ["processes", "shm"]

pytestmark = pytest.mark.usefixtures("backend")

OVERFLOW = "{'otel.metric.overflow': True}"


def of_requests(buffer: Buffer) -> dict[str, int | float]:
    """The totals of the instrument `requests` by attributes."""
    return {attributes: value for (_, attributes), value in totals(buffer).items()}


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Our log lines so far, which are all about overflow."""
    return [r.getMessage() for r in caplog.records if r.name.startswith("otel_shm")]


# Too many series.


def test_series_past_the_capacity_are_one(caplog: pytest.LogCaptureFixture) -> None:
    """The fifth of four series and all behind it go to the overflow series, counted, logged once."""
    buffer = Buffer(series=4, lanes=2, record_bytes=4096)
    counter = meter_of(buffer).create_counter("requests")
    for _ in range(3):
        for n in range(10):
            counter.add(1, {"n": n})
    expected = {f"{{'n': {n}}}": 3 for n in range(4)} | {OVERFLOW: 18}
    assert of_requests(buffer) == expected
    assert buffer.statistics.overflowed == 18
    assert buffer.statistics.dropped == 0
    assert buffer.statistics.series == buffer.statistics.series_capacity == 4
    (line,) = lines(caplog)
    assert "requests" in line
    assert "option series" in line


def test_every_instrument_and_process_says_it_once(
    caplog: pytest.LogCaptureFixture, processes: Processes, shm: Path
) -> None:
    """Each instrument has an overflow series and a log line of its own, and so has each process."""
    buffer = Buffer(shm / "buffer", series=2, lanes=4, record_bytes=4096)
    meter = meter_of(buffer)
    first, second = meter.create_counter("first"), meter.create_up_down_counter("second")
    first.add(1, {"n": 1})
    first.add(1, {"n": 2})
    for n in range(3, 6):
        first.add(1, {"n": n})
        second.add(-1, {"n": n})
    assert totals(buffer)["first", OVERFLOW] == 3
    assert totals(buffer)["second", OVERFLOW] == -3
    assert [line.split(":")[0] for line in lines(caplog)] == [
        "Counter first",
        "UpDownCounter second",
    ]

    assert processes.spawn(overflow_by_path, shm / "buffer").result() == 1
    assert totals(buffer)["first", OVERFLOW] == 53
    assert buffer.statistics.overflowed == 56


def overflow_by_path(path: Path) -> int:
    """Adds 50 new series in a full buffer. Returns: the number of log lines about it."""
    said: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = said.append  # type: ignore[method-assign]
    logging.getLogger("otel_shm").addHandler(handler)
    counter = meter_of(Buffer(path)).create_counter("first")
    for n in range(100, 150):
        counter.add(1, {"n": n})
    return len(said)


def test_bound_instruments_overflow_too(caplog: pytest.LogCaptureFixture) -> None:
    """A bound set of attributes without a place adds to the overflow series, each time counted."""
    buffer = Buffer(series=1, lanes=2, record_bytes=4096)
    counter = meter_of(buffer).create_counter("requests")
    kept, refused = counter.bind({"n": 1}), counter.bind({"n": 2})
    assert of_requests(buffer) == {}
    for _ in range(5):
        kept.add(1)
        refused.add(0.5)
    assert of_requests(buffer) == {"{'n': 1}": 5, OVERFLOW: 2.5}
    assert buffer.statistics.overflowed == 5
    assert len(lines(caplog)) == 1


def test_gauge_overflows_too() -> None:
    """A gauge without a place sets the overflow series; the last set value stands there."""
    buffer = Buffer(series=1, lanes=2, record_bytes=4096)
    gauge = meter_of(buffer).create_gauge("level")
    for n in range(4):
        gauge.set(n, {"n": n})
    assert of_requests(buffer) == {"{'n': 0}": 0, OVERFLOW: 3}
    assert buffer.statistics.overflowed == 3


def test_attribute_free_series_overflows_too() -> None:
    """So does the series without attributes, when it comes too late."""
    buffer = Buffer(series=1, lanes=2, record_bytes=4096)
    counter = meter_of(buffer).create_counter("requests")
    counter.add(1, {"n": 1})
    for _ in range(3):
        counter.add(1)
        counter.add(1, {})
        counter.bind().add(1)
    assert of_requests(buffer) == {"{'n': 1}": 1, OVERFLOW: 9}
    assert buffer.statistics.overflowed == 9


def test_series_of_a_full_buffer_go_on() -> None:
    """A full buffer changes nothing for the series that have their place, or for the asked-for one."""
    buffer = Buffer(series=2, lanes=2, record_bytes=4096)
    counter = meter_of(buffer).create_counter("requests")
    for n in range(100):
        counter.add(1, {"n": n})
        counter.add(1, {"n": n % 2})
    counter.add(1, {"otel.metric.overflow": True})  # is that series, and no overflow
    assert of_requests(buffer) == {"{'n': 0}": 51, "{'n': 1}": 51, OVERFLOW: 99}
    assert buffer.statistics.overflowed == 98


def test_flood_of_series_keeps_every_measurement(processes: Processes) -> None:
    """Thousands of attribute sets from several processes: the total over all points is exact."""
    buffer = Buffer(series=50, lanes=4, record_bytes=16384)
    counter = meter_of(buffer).create_counter("requests")

    def flood(who: int) -> None:
        for n in range(3_000):
            counter.add(1, {"who": who, "n": n})

    for child in [processes.fork(flood, who) for who in range(3)]:
        child.result()
    found = of_requests(buffer)
    assert sum(found.values()) == 9_000
    assert found[OVERFLOW] == buffer.statistics.overflowed == 9_000 - 50
    assert len(found) == 51


# Too few bytes.


def test_records_that_are_full_overflow(caplog: pytest.LogCaptureFixture) -> None:
    """Attributes that do not fit into the records go to the overflow series; shorter ones still fit."""
    buffer = Buffer(series=100, lanes=2, record_bytes=4096)
    counter = meter_of(buffer).create_counter("requests")
    for n in range(10):
        counter.add(1, {"long": f"{n}" * 1000})
    counter.add(1, {"short": 1})
    found = of_requests(buffer)
    assert sum(found.values()) == 11
    assert found[OVERFLOW] == buffer.statistics.overflowed == 7
    assert found["{'short': 1}"] == 1
    (line,) = lines(caplog)
    assert "option record_bytes" in line


def test_attributes_larger_than_all_records_overflow() -> None:
    """One attribute of a megabyte is an overflow and leaves the records as they are."""
    buffer = Buffer(series=4, lanes=2, record_bytes=4096)
    counter = meter_of(buffer).create_counter("requests")
    counter.add(1, {"huge": "x" * 2**20})
    for n in range(4):
        counter.add(1, {"n": n})
    assert of_requests(buffer) == {f"{{'n': {n}}}": 1 for n in range(4)} | {OVERFLOW: 1}


def test_instrument_without_room_drops(caplog: pytest.LogCaptureFixture) -> None:
    """An instrument that has no record itself counts what it dropped, logs it, and never raises."""
    buffer = Buffer(series=4, lanes=2, record_bytes=4096)
    meter = meter_of(buffer)
    meter.create_counter("first").add(1)
    with pytest.raises(BufferFullError, match="option record_bytes"):
        all(claim_instrument(buffer, name=f"filler {n}") for n in range(500))
    caplog.clear()
    late = meter.create_counter("late" * 60)  # more than is left of 4096 bytes after all of those
    bound = late.bind({"n": 1})
    for _ in range(3):
        late.add(1)
        late.add(1, {"n": 1})
        bound.add(1)
    assert buffer.statistics.dropped == 9
    assert buffer.statistics.overflowed == 0
    assert list(totals(buffer).values()) == [1]
    assert len([line for line in lines(caplog) if "are dropped" in line]) == 1


# More processes than lanes.


def test_more_processes_than_lanes_are_exact(processes: Processes) -> None:
    """With one lane and the shared one, six processes at once lose nothing."""
    buffer = Buffer(series=16, lanes=2, record_bytes=4096)
    meter = meter_of(buffer)
    counter, level = meter.create_counter("requests"), meter.create_gauge("level")
    bound = counter.bind({"bound": True})
    gate = Gate()

    def run(who: int) -> int:
        gate.wait()
        for _ in range(2_000):
            counter.add(1, {"shared": True})
            counter.add(0.5, {"float": True})
            counter.add(1, {"who": who})
            bound.add(1)
            level.set(7)
        return buffer.lane

    children = [processes.fork(run, who) for who in range(6)]
    gate.open()
    assert {child.result() for child in children} == {0}
    assert totals(buffer) == {
        ("requests", "{'shared': True}"): 12_000,
        ("requests", "{'float': True}"): 6_000.0,
        ("requests", "{'bound': True}"): 12_000,
        ("level", "{}"): 7,
        **{("requests", f"{{'who': {who}}}"): 2_000 for who in range(6)},
    }


# A full file system.

WIDE = {"series": 4096, "lanes": 8, "record_bytes": 2**20}  # takes far more than there is


def fill_up(place: Path, leave: int = 0) -> Path:
    """Takes what room there is, but for some pages. Returns: the file to remove."""
    filler = place / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            os.truncate(filler, max(0, file.tell() - leave * 4096))
    return filler


def add_many(counter: Any, who: str, count: int) -> None:
    for n in range(count):
        counter.add(1, {"who": who, "n": n, "text": "x" * 50})


def exact_with_overflow(buffer: Buffer, count: int) -> int:
    """Checks that all measurements are there. Returns: how many are in the overflow series."""
    found = of_requests(buffer)
    assert sum(found.values()) == count
    assert found.get(OVERFLOW, 0) == buffer.statistics.overflowed
    assert buffer.statistics.dropped == 0
    return buffer.statistics.overflowed


def test_full_tmpfs_overflows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without memory new series overflow, with a count and one line; nobody dies of SIGBUS."""

    def run(place: Path) -> list[str]:
        buffer = Buffer(place / "buffer", **WIDE)
        counter = meter_of(buffer).create_counter("requests")
        add_many(counter, "parent", 4_000)
        assert 1_000 < exact_with_overflow(buffer, 4_000) < 3_990
        add_many(counter, "parent", 4_000)
        assert exact_with_overflow(buffer, 8_000) > 2_000
        return lines(caplog)

    found = in_small_tmpfs(tmp_path, "160k", run)
    assert len(found) == 1, found
    assert "file system or memory that holds the buffer is full" in found[0]


def attach_and_add(path: Path, who: str, count: int) -> int:
    """What a worker does that was started on its own. Returns: its lane."""
    buffer = Buffer(path)
    counter = meter_of(buffer).create_counter("requests")
    counter.add(1, {"old": True})
    counter.bind({"old": True}).add(1)
    counter.bind({"late": who}).add(1)
    add_many(counter, who, count)
    totals(buffer)
    return buffer.lane


def test_processes_of_a_full_tmpfs_are_exact(tmp_path: Path) -> None:
    """Who forks from, or attaches to, a buffer without memory adds to lane 0, and loses nothing."""

    def run(place: Path) -> None:
        buffer = Buffer(place / "buffer", **WIDE)
        counter = meter_of(buffer).create_counter("requests")
        bound, level = counter.bind({"old": True}), meter_of(buffer).create_gauge("level")
        counter.add(1, {"old": True})
        level.set(1)
        fill_up(place)
        allocated = buffer.statistics.allocated_bytes

        def child(depth: int) -> None:
            assert buffer.lane == 0, "its lane's page cannot be allocated"
            counter.add(1, {"old": True})
            bound.add(1)
            level.set(1)
            add_many(counter, f"child {depth}", 98)
            if depth:
                with Processes() as inner:
                    inner.fork(child, depth - 1).result()

        with Processes() as workers:
            for forked in [workers.fork(child, 1) for _ in range(3)]:
                forked.result()
            for spawned in [workers.spawn(attach_and_add, place / "buffer", "a", 97) for _ in "ab"]:
                assert spawned.result() > 0, "a lane costs nothing"
        found = {key: value for key, value in totals(buffer).items() if key[0] == "requests"}
        assert sum(found.values()) == 1 + 600 + 200
        assert found["requests", "{'old': True}"] == 1 + 12 + 4
        assert found["requests", OVERFLOW] == buffer.statistics.overflowed
        assert buffer.statistics.allocated_bytes == allocated

    in_small_tmpfs(tmp_path, "256k", run)


@pytest.mark.parametrize("leave", [1, 2, 3, 5])
def test_last_pages_of_a_tmpfs(tmp_path: Path, leave: int) -> None:
    """Wherever exactly the memory ends, in a record, a slot or the index, nothing is lost."""

    def run(place: Path) -> None:
        buffer = Buffer(place / "buffer", **WIDE)
        counter = meter_of(buffer).create_counter("requests")
        fill_up(place, leave)
        add_many(counter, "parent", 500)

        def child() -> None:
            add_many(counter, "parent", 500)
            add_many(counter, "child", 500)

        with Processes() as workers:
            workers.fork(child).result()
        exact_with_overflow(buffer, 1_500)

    in_small_tmpfs(tmp_path, "256k", run)


def test_room_that_was_made_is_used(tmp_path: Path) -> None:
    """When there is memory again, new sets of attributes have series of their own again."""

    def run(place: Path) -> None:
        buffer = Buffer(place / "buffer", **WIDE)
        counter = meter_of(buffer).create_counter("requests")
        filler = fill_up(place)
        add_many(counter, "early", 100)
        early = counter.bind({"bound": "early"})
        early.add(1)
        before = exact_with_overflow(buffer, 101)
        assert before > 0
        filler.unlink()
        add_many(counter, "late", 100)
        late = counter.bind({"bound": "late"})
        late.add(1)
        early.add(1)
        found = of_requests(buffer)
        assert len([key for key in found if "'late'" in key]) == 101
        exact_with_overflow(buffer, 203)

        def child() -> None:
            assert buffer.lane > 0
            late.add(1)
            add_many(counter, "child", 10)

        with Processes() as workers:
            workers.fork(child).result()
        exact_with_overflow(buffer, 214)

    in_small_tmpfs(tmp_path, "320k", run)
