# SPDX-License-Identifier: Apache-2.0
"""Series that come and go while processes are killed: one series a set, and nothing is mixed up."""

from __future__ import annotations

import json
import mmap
import os
import random
import signal
import time
from collections import Counter
from io import FileIO
from itertools import count
from pathlib import Path

import pytest
from buffers import shm
from clocked_deltas import Deltas
from points import OVERFLOW, exact
from processes import Gate, Processes, processes, until
from reused import add, hold, stream, stream_of

from otel_shm._core import ffi, lib
from otel_shm.attributes import decode_attributes, encode_attributes
from otel_shm.buffer import Buffer
from otel_shm.scanner import Scanner
from otel_shm.series import Stream

__all__ = ["processes", "shm", "stream"]


# Claims that were not brought to an end, as a killed process leaves them.


def state_of(buffer: Buffer, record: int, state: int | None = None) -> int:
    """The state of a series' record; first sets it, where one is given."""
    copy, key = ffi.new("oshm_record *"), ffi.new("uint8_t **")
    assert lib.oshm_record_get(buffer._handle, record, copy, key) == 0
    there = ffi.cast("oshm_record *", key[0] - ffi.sizeof("oshm_record"))
    if state is not None:
        there.state = there.state & ~0xFF | state
    return int(there.state & 0xFF)


def two_records(stream: Stream) -> tuple[int, int]:
    """Two records of {"n": 1}, in the order in which a claim comes to them."""
    first = hold(stream, 1).record
    state_of(stream._buffer, first, lib.OSHM_RETIRED)  # but still in its cell
    second = hold(stream, 1).record
    assert second != first
    return first, second


def test_claim_of_a_dead_process_is_completed(stream: Stream) -> None:
    """Killed after it had published a record and before it was decided: the next one decides for it."""
    record = hold(stream, 1).record
    state_of(stream._buffer, record, lib.OSHM_CLAIMED)
    assert Deltas(stream._buffer).collect() == {}
    assert hold(stream, 1).record == record
    assert state_of(stream._buffer, record) == lib.OSHM_LIVE


@pytest.mark.parametrize("live", [None, 0, 1])
def test_one_of_two_claims_wins(stream: Stream, live: int | None) -> None:
    """The first one that was claimed, if none is live; others are refused, and used again."""
    records = two_records(stream)
    for n, record in enumerate(records):
        state_of(stream._buffer, record, lib.OSHM_LIVE if n == live else lib.OSHM_CLAIMED)
    wins = live or 0
    assert hold(stream, 1).record == records[wins]
    assert state_of(stream._buffer, records[wins]) == lib.OSHM_LIVE
    if live != 0:  # else no claim comes as far as the other one
        assert state_of(stream._buffer, records[1 - wins]) == lib.OSHM_RETIRED
        assert hold(stream, 2).record == records[1 - wins]
    assert hold(stream, 1).record == records[wins]


def test_claim_behind_a_retired_series_is_taken(stream: Stream) -> None:
    """It lost against one that went since."""
    deltas, (first, second) = Deltas(stream._buffer), two_records(stream)
    state_of(stream._buffer, first, lib.OSHM_LIVE)
    state_of(stream._buffer, second, lib.OSHM_CLAIMED)
    add(stream, *range(2, 10))
    deltas.collect()
    deltas.until_reusable(9)
    assert hold(stream, 1).record == second
    assert add(stream, 1) == deltas.collect()


# Processes that are killed.


def churn(
    buffer: Buffer, how: str, me: int, batches: int, done: mmap.mmap, gate: Gate
) -> dict[str, int]:
    """Measures in ever new sets, in some that it has all the time and in some that others make too.

    A batch is for one collection, at least. Returns: how often it measured in which.
    """
    stream, measured = stream_of(buffer, how, 60), Counter[str]()
    for batch in range(batches):
        seen = buffer.last_collection
        for key in (f"{me} {batch}", f"{me} {batch // 5}", f"all {batch}", f"all {batch % 7}", me):
            series, status = stream.claim(encode_attributes({"n": key}), measured=True)
            measured[OVERFLOW if status else exact({"n": key})] += 1
            series.measure(1)
        while buffer.last_collection == seen:
            time.sleep(0.0005)
    done[me] = 1
    gate.wait()
    return dict(measured)


def collect_for_ever(buffer: Buffer, log: Path, begun: mmap.mmap, first: int) -> None:
    """Collects; what it gets it writes down, behind where the interval begins, before it says so.

    begun: it says that it begins with the first one that it may be killed in.
    """
    deltas = Deltas(buffer)
    with log.open("ab", buffering=0) as file:
        for number in count():
            if number == first:
                begun[0] = 1
            collect_into(file, deltas)


def collect_into(file: FileIO, deltas: Deltas) -> None:
    """Collects once, and writes down values and counts before what was collected counts as sent."""
    start = deltas.start
    collection, rows = deltas.scan()
    values = deltas.note(rows)
    # All is measured as 1, so a histogram's sums and counts are the same in the end; in one interval a
    # sum may have what is counted in the next.
    counts = {key: row.measurements or row.value for key, row in zip(values, rows, strict=True)}
    file.write(f"\n{json.dumps([start, values, counts])}\n".encode())
    deltas.commit(collection)


def written(log: Path) -> tuple[Counter[str], Counter[str]]:
    """Values and counts of all intervals; of one that was collected twice the last is what was sent."""
    intervals = {}
    for line in log.read_text().split("\n"):
        if line.endswith("]"):
            start, *found = json.loads(line)
            intervals[start] = found
    values, counts = Counter[str](), Counter[str]()
    for found in intervals.values():
        values.update(found[0])
        counts.update(found[1])
    return values, counts


@pytest.mark.parametrize(
    "how",
    [
        "sum",
        "exponential",
        pytest.param("up-down", marks=pytest.mark.slow),
        pytest.param("explicit", marks=pytest.mark.slow),
    ],
)
def test_killed_collectors_mix_nothing_up(how: str, shm: Path, processes: Processes) -> None:
    """Killed at any moment of retiring and reusing: each set has in all deltas just what was measured."""
    buffer, log = Buffer(series=2048, lanes=8, record_bytes=2**21), shm / "log"
    log.touch()
    chance, done, gate = random.Random(1), mmap.mmap(-1, mmap.PAGESIZE), Gate()
    begun, killed = mmap.mmap(-1, mmap.PAGESIZE), 0
    workers = [processes.fork(churn, buffer, how, me, 300, done, gate) for me in range(2)]
    while sum(done[:2]) < 2:
        begun[0] = 0
        # Every other one gets one done: a child of a large process may be long in its first.
        collector = processes.fork(collect_for_ever, buffer, log, begun, killed % 2)
        until(lambda collector=collector: begun[0] or collector.is_answered)
        assert begun[0], collector.result()
        stopped = chance.choice(workers)
        os.kill(stopped.pid, signal.SIGSTOP)
        time.sleep(chance.uniform(0, 0.002))
        os.kill(stopped.pid, signal.SIGCONT)
        time.sleep(chance.uniform(0, 0.002))
        collector.kill()
        killed += 1
    assert killed >= 10, "too few to tell"
    deltas = Deltas(buffer)
    with log.open("ab", buffering=0) as file:
        collect_into(file, deltas)
    gate.open()
    expected: Counter[str] = Counter()
    for worker in workers:
        expected.update(worker.result())
    assert written(log) == (expected, expected)
    assert buffer.statistics.series <= 60
    deltas.until_reusable(buffer.statistics.series - 20)
    stream = stream_of(buffer, how, 60)
    new = add(stream, *(f"new {n}" for n in range(30)))
    assert new.items() <= deltas.collect().items()


def claim_and_die(
    buffer: Buffer, me: int, turn: int, begun: mmap.mmap, journal: memoryview
) -> None:
    """Measures in the same new sets as everybody, in an order of its own; is killed somewhere.

    journal: a byte a set: 1 while it measures, 2 then.
    """
    stream, order = stream_of(buffer, "sum", 2000), random.Random(me)
    begun[me] = 1
    for begin in range(0, len(journal), 4):
        for key in order.sample(range(begin, begin + 4), 4):
            series, status = stream.claim(encode_attributes({"n": f"{turn} {key}"}), measured=True)
            assert status == 0
            journal[key] = 1
            series.measure(1)
            journal[key] = 2


def published(buffer: Buffer) -> Counter[str]:
    """How many series of each set can be found, which must be one."""
    found: Counter[str] = Counter()
    record, key = ffi.new("oshm_record *"), ffi.new("uint8_t **")
    for row in Scanner(buffer).scan(0):
        assert lib.oshm_record_get(buffer._handle, row.series, record, key) == 0
        if record.state & 0xFF in (lib.OSHM_LIVE, lib.OSHM_RETIRING):
            found[exact(decode_attributes(buffer.record_key(row.series)))] += 1
    return found


def test_every_set_is_published_once(shm: Path, processes: Processes) -> None:
    """Processes claim the same sets at once while others are retired, and are killed: each set is one
    series, with all that was measured."""
    buffer = Buffer(series=400, lanes=8, record_bytes=2**21)
    chance, crowd, sets = random.Random(2), 4, 100
    deltas, least, most = Deltas(buffer), Counter[str](), Counter[str]()
    for turn in range(25):
        begun = mmap.mmap(-1, mmap.PAGESIZE)
        journals = [memoryview(mmap.mmap(-1, sets)) for _ in range(crowd)]
        workers = [
            processes.fork(claim_and_die, buffer, me, turn, begun, journals[me])
            for me in range(crowd)
        ]
        while sum(begun[:crowd]) < crowd:
            time.sleep(0.0005)
        survivor = workers.pop()
        for worker in workers:
            for _ in range(chance.randrange(3)):
                deltas.collect()
            worker.kill()
        survivor.result()
        assert set(published(buffer).values()) == {1}
        for key in range(sets):
            name = exact({"n": f"{turn} {key}"})
            least[name] = sum(journal[key] == 2 for journal in journals)
            most[name] = sum(journal[key] != 0 for journal in journals)
        deltas.until_reusable(buffer.statistics.series - 250)  # else there will be no room
    deltas.collect()
    assert least <= deltas.totals <= most
    assert deltas.reusable > 0
