# SPDX-License-Identifier: Apache-2.0
"""Several delta readers, and collectors that take over from each other, however they ended."""

from __future__ import annotations

import mmap
import os
import random
import signal
from typing import Any

import pytest
from buffers import counter_of, shm
from deltas import EXPLICIT, EXPONENTIAL, DeltaReader, buffer, gauge_of, histogram_of
from processes import Processes, processes, until

from otel_shm import buffer as rules
from otel_shm.buffer import Buffer
from otel_shm.errors import BufferFullError
from otel_shm.scanner import Scanner
from otel_shm.streams import Aggregated

__all__ = ["buffer", "processes", "shm"]

# Several readers.


def test_readers_side_by_side(buffer: Buffer) -> None:
    """Each has intervals of its own, and takes nothing away from the others or from the totals."""
    counter, histogram = counter_of(buffer), histogram_of(buffer)
    first, second = DeltaReader(buffer, b"first"), DeltaReader(buffer, b"second")
    assert first.number != second.number
    noise = random.Random(5)
    had: dict[DeltaReader, list[int]] = {first: [], second: []}
    total = 0
    for _ in range(200):
        amount = noise.randrange(200)
        total += amount
        counter.measure(amount)
        histogram.measure(amount)
        for amounts in had.values():
            amounts.append(amount)
        for reader in noise.choice([[first], [second], [first, second], [], []]):
            rows = reader.collect()
            amounts = had[reader]
            if amounts:
                assert rows[counter.record].value == sum(amounts)
                row = rows[histogram.record]
                assert (row.value, row.measurements) == (sum(amounts), len(amounts))
                assert (row.minimum, row.maximum) == (min(amounts), max(amounts))
            else:
                assert rows == {}
            amounts.clear()
    assert buffer.read(counter.record) == total
    (row,) = (r for r in Scanner(buffer).scan(0) if r.series == histogram.record)
    assert (row.value, row.measurements) == (total, 200)


def test_same_reader_in_every_process(buffer: Buffer, processes: Processes) -> None:
    """A key is one number wherever it is claimed, other keys are others, and there are only so many."""
    numbers = [buffer.claim_reader(b"%d" % n) for n in range(rules.READERS)]
    assert numbers == list(range(rules.READERS))
    again = processes.fork(lambda: [buffer.claim_reader(b"%d" % n) for n in (7, 3, 0)]).result()
    assert again == [7, 3, 0]
    with pytest.raises(BufferFullError, match="baselines for 8 readers"):
        buffer.claim_reader(b"another")


# Another process goes on.


def test_collectors_take_turns(buffer: Buffer, processes: Processes) -> None:
    """Whichever process collects, and however it ends, the next one goes on where it was."""
    counter, histogram = counter_of(buffer), histogram_of(buffer)
    sent = 0
    for turn in range(1, 13):
        counter.measure(turn)
        histogram.measure(turn)

        def run() -> tuple[Any, Any, int]:
            reader = DeltaReader(Buffer(str(buffer.path)))
            rows = reader.collect()
            row = rows[histogram.record]
            return rows[counter.record].value, (row.minimum, row.maximum), row.measurements

        value, extremes, measurements = (processes.fork(run).result if turn % 3 else run)()
        assert (value, extremes, measurements) == (turn, (turn, turn), 1)
        sent += value
    assert sent == buffer.read(counter.record)


@pytest.mark.parametrize("how", [EXPLICIT, EXPONENTIAL], ids=["explicit", "exponential"])
def test_collector_that_dies_before_it_commits(
    buffer: Buffer, processes: Processes, how: Aggregated
) -> None:
    """What it had read is in the next collector's interval, with its minimum and maximum; readers that
    had nothing to do with it miss nothing."""
    counter, histogram = counter_of(buffer), histogram_of(buffer, how)
    readers = [DeltaReader(buffer, key) for key in (b"first", b"second", b"third")]
    for reader in readers[:2]:
        reader.collect()

    def die() -> None:
        DeltaReader(buffer, b"first").scan()
        os.kill(os.getpid(), signal.SIGKILL)

    for amount in (5, 2, 70):
        counter.measure(amount)
        histogram.measure(amount)
        assert processes.fork(die).wait() == -signal.SIGKILL
    for reader in readers:
        rows = reader.collect()
        row = rows[histogram.record]
        assert (rows[counter.record].value, row.value, row.measurements) == (77, 77, 3)
        assert (row.minimum, row.maximum) == (2, 70)
        assert reader.collect() == {}


def test_scans_that_are_not_committed_change_nothing(buffer: Buffer) -> None:
    """However often a reader looks, it has had nothing before it says so."""
    counter, histogram, gauge = counter_of(buffer), histogram_of(buffer), gauge_of(buffer)
    reader = DeltaReader(buffer)
    for number in range(1, 4):
        for series in (counter, histogram, gauge):
            series.measure(number)
        looks = [reader.scan() for _ in range(3)]
        assert looks[0] == looks[1] == looks[2]
        assert looks[0].keys() == {counter.record, histogram.record, gauge.record}
        assert looks[0][counter.record].value == number
        reader.commit()


INTERVALS = 2**16


def test_concurrent_safe_killed_collectors_lose_and_double_nothing(
    buffer: Buffer, processes: Processes
) -> None:
    """Collectors that are killed at any instruction, while others measure: what was committed adds up to
    the total, in the sums and in the buckets."""
    counter, histogram = counter_of(buffer), histogram_of(buffer, EXPONENTIAL)
    # What is in the interval that ends at 1, 2, ...: written before it is committed, and so anew by the
    # next collector if it was not.
    log = memoryview(mmap.mmap(-1, 16 * INTERVALS)).cast("Q")
    stop = memoryview(mmap.mmap(-1, 8)).cast("Q")
    noise = random.Random(3)

    def measure() -> int:
        number = 0
        while not stop[0]:
            number += 1
            counter.measure(1)
            histogram.measure(number % 1000)
        return number

    def collect(times: int = INTERVALS) -> None:
        reader = DeltaReader(buffer)
        for _ in range(times):
            rows = reader.scan()
            end = reader.scanner.interval_start(reader.number) + 1
            log[2 * end] = rows[counter.record].value if counter.record in rows else 0
            log[2 * end + 1] = (
                rows[histogram.record].measurements if histogram.record in rows else 0
            )
            reader.commit(end)

    measuring = [processes.fork(measure) for _ in range(2)]
    look = DeltaReader(buffer)
    for _ in range(40):
        enough = look.scanner.interval_start(look.number) + noise.randrange(1, 30)
        child = processes.fork(collect)
        until(lambda enough=enough: look.scanner.interval_start(look.number) >= enough)
        child.kill()
    stop[0] = 1
    total = sum(child.result() for child in measuring)
    collect(1)
    ends = look.scanner.interval_start(look.number)
    assert 40 < ends < INTERVALS
    assert sum(log[2 : 2 * ends + 2 : 2]) == sum(log[3 : 2 * ends + 3 : 2]) == total
