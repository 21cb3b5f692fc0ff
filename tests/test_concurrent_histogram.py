# SPDX-License-Identifier: Apache-2.0
"""Histograms of many processes and threads at once lose nothing, whoever is killed."""

from __future__ import annotations

import bisect
import mmap
import random
import threading
from collections import Counter

import pytest
from buffers import only_row
from histograms import Number, explicit, exponential, model, seen, series_of
from processes import Gate, Processes, processes, until

from otel_shm import buffer as rules
from otel_shm.scanner import Scanner
from otel_shm.streams import DEFAULT_BOUNDARIES, Aggregated

__all__ = ["processes"]

SHAPES = [explicit(*DEFAULT_BOUNDARIES), exponential(), exponential(6)]
NAMES = ["explicit", "exponential", "exponential of 6"]


def amounts_of(process: int, thread: int, count: int) -> list[Number]:
    """What one thread records: its own range of values, and some of everybody's; exact in sum."""
    noise = random.Random(process * 100 + thread)
    own = 2.0 ** (4 * process - 6)
    return [
        noise.choice([0, 1, noise.randrange(1000), own * noise.randrange(1, 64)])
        for _ in range(count)
    ]


@pytest.mark.parametrize("how", SHAPES, ids=NAMES)
def test_concurrent_safe_counts_are_exact(how: Aggregated, processes: Processes) -> None:
    """Processes and threads record at once, some sharing a lane: nothing is lost, and scale and
    buckets are those of all the values together."""
    buffer, series = series_of(how, lanes=4)
    gate, count = Gate(), 3000

    def record(process: int, thread: int) -> None:
        for amount in amounts_of(process, thread, count):
            series.measure(amount)

    def run(process: int) -> None:
        gate.wait()
        threads = [threading.Thread(target=record, args=(process, n)) for n in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    children = [processes.fork(run, process) for process in range(5)]
    gate.open()
    for child in children:
        child.result()
    everything = [
        amount for process in range(5) for n in range(3) for amount in amounts_of(process, n, count)
    ]
    row = only_row(buffer)
    assert row.measurements == len(everything)
    assert row.value == sum(everything)
    assert (row.minimum, row.maximum) == (min(everything), max(everything))
    if how.aggregation == rules.AGGREGATION_EXPLICIT:
        by_bucket = Counter(bisect.bisect_left(how.boundaries, amount) for amount in everything)
        assert row.buckets == [by_bucket[n] for n in range(len(how.boundaries) + 1)]
    else:
        assert seen(row) == model(everything, how.max_size, how.max_scale)


@pytest.mark.parametrize("how", SHAPES, ids=NAMES)
def test_concurrent_safe_scan_never_shows_less(how: Aggregated, processes: Processes) -> None:
    """While others record, counts and sums only grow, and no count is but that of its buckets."""
    buffer, series = series_of(how)
    gate, count = Gate(), 4000

    def record(process: int) -> None:
        gate.wait()
        for amount in amounts_of(process, 0, count):
            series.measure(amount)

    children = [processes.fork(record, process) for process in range(3)]
    gate.open()
    scanner = Scanner(buffer)
    counted, total = 0, 0.0
    while counted < 3 * count:
        rows = scanner.scan(buffer.begin_collection())
        row = next((row for row in rows if row.value is not None), None)
        if row is None:
            assert counted == 0
            continue
        assert row.measurements >= counted
        assert row.value >= total
        assert row.measurements == sum(row.buckets) + row.zero_count
        counted, total = row.measurements, row.value
    for child in children:
        child.result()
    assert only_row(buffer).measurements == 3 * count


@pytest.mark.parametrize("how", SHAPES, ids=NAMES)
def test_concurrent_safe_killed_recorder_loses_nothing(
    how: Aggregated, processes: Processes
) -> None:
    """However often a process is killed while it records: every value that it had recorded counts, at
    most the one it was at counts too, and sum and buckets differ by no more than that one."""
    buffer, series = series_of(how)
    confirmed = memoryview(mmap.mmap(-1, 8)).cast("Q")  # written whole, unlike by struct
    noise = random.Random(0)

    def record() -> None:
        number = 0
        while True:
            series.measure(1)
            number += 1
            confirmed[0] = number

    total = 0
    for kills in range(1, 41):
        confirmed[0] = 0
        enough = noise.randrange(1, 2000)
        child = processes.fork(record)
        until(lambda enough=enough: confirmed[0] >= enough)
        child.kill()
        total += confirmed[0]
        row = only_row(buffer)
        assert total <= row.measurements <= total + kills
        assert row.measurements == sum(row.buckets)
        assert row.measurements <= (row.value or 0) <= row.measurements + kills
        assert (row.minimum, row.maximum) == (1.0, 1.0)
