# SPDX-License-Identifier: Apache-2.0
"""Blocks of exponential histograms: when there is no room for one, no value is lost unnoticed."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from buffers import claim, claim_stream, in_small_tmpfs, meter_of, scan
from histograms import Number, exponential, model, seen
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation, View
from points import OVERFLOW, exact
from processes import Processes, processes

from otel_shm import buffer as rules
from otel_shm._core import lib
from otel_shm.attributes import decode_attributes, encode_attributes
from otel_shm.buffer import Buffer
from otel_shm.readings import Row
from otel_shm.series import Series, Stream

__all__ = ["processes"]

# The least there can be: 512 slots a lane, so one block of 2 * 160 buckets fits, and no second one.
NEAR = 1 + 2.0**-17  # in one block with 1, at the finest scale
TINY = {"series": 16, "lanes": 3, "record_bytes": 16384}


def rows_of(buffer: Buffer) -> dict[str, Row]:
    """The rows by attributes."""
    return {exact(decode_attributes(buffer.record_key(row.series))): row for row in scan(buffer)}


def whole(row: Row) -> bool:
    """True if the count is that of the buckets."""
    buckets = sum(row.buckets) + sum(row.negative_buckets) + row.zero_count
    return row.measurements == buckets


def test_value_without_room_for_its_block_is_refused() -> None:
    """It is counted as dropped where the overflow series has no room for it either; values for which
    there is a block go on, and so do zeros."""
    buffer = Buffer(**TINY)
    series = claim(buffer, claim_stream(buffer, rules.HISTOGRAM, how=exponential()))
    assert series.measure(1) == 0
    assert series.measure(1e9) == lib.OSHM_FULL_SLOTS
    assert series.measure(10**12) == lib.OSHM_FULL_SLOTS
    assert series.measure(0) == 0
    assert series.measure(NEAR) == 0
    rows = rows_of(buffer)
    assert list(rows) == ["{}"]
    row = rows["{}"]
    assert (row.measurements, row.value, row.minimum, row.maximum) == (3, 1 + NEAR, 0, NEAR)
    assert seen(row) == model([1, 0, NEAR], 160, 20)
    assert (buffer.statistics.dropped, buffer.statistics.overflowed) == (2, 0)


def test_value_goes_to_the_overflow_series_where_that_has_room() -> None:
    """All of it: count, sum, minimum and maximum; and it is counted."""
    buffer = Buffer(**TINY)
    stream = Stream(buffer, claim_stream(buffer, rules.HISTOGRAM, how=exponential(30), limit=1))
    first, other = (stream.claim(encode_attributes({"n": n}), measured=True) for n in range(2))
    assert (first[1], other[1]) == (0, lib.OSHM_FULL_STREAM)
    series, overflow = first[0], other[0]
    assert overflow.measure(1500) == series.measure(1000) == 0
    # Further and further away, so in ever coarser blocks, until there are no more slots.
    coarser = [1000 * (1 + 2.0**-exponent) for exponent in range(18, 1, -1)]
    kept = [amount for amount in coarser if series.measure(amount) == 0]
    assert 0 < len(kept) < len(coarser)
    dropped = buffer.statistics.dropped
    assert dropped == len(coarser) - len(kept)
    assert series.measure(NEAR * 1500) == lib.OSHM_FULL_SLOTS
    rows = rows_of(buffer)
    row = rows[OVERFLOW]
    assert (row.measurements, row.value) == (2, 1500 + NEAR * 1500)
    assert (row.minimum, row.maximum) == (1500, NEAR * 1500)
    assert (rows["{'n': 0}"].measurements, rows["{'n': 0}"].value) == (
        1 + len(kept),
        1000 + sum(kept),
    )
    assert all(whole(row) for row in rows.values())
    assert buffer.statistics.overflowed == 2
    assert buffer.statistics.dropped == dropped


@pytest.mark.parametrize("kind", [rules.HISTOGRAM, rules.UP_DOWN_COUNTER])
@pytest.mark.parametrize("seed", range(5))
def test_every_value_is_somewhere_or_counted(kind: int, seed: int) -> None:
    """However little room there is: counts and sums of all points, and what was dropped, are all that
    was measured; no point is torn."""
    buffer = Buffer(series=40, lanes=3, record_bytes=65536)
    stream = Stream(buffer, claim_stream(buffer, kind, how=exponential(20), limit=12))
    noise = random.Random(seed)
    refused, count, total = 0, 0, 0.0
    held: dict[int, Series] = {}
    for _ in range(3000):
        n = noise.randrange(20)
        if n not in held or noise.random() < 0.05:
            held[n] = stream.claim(encode_attributes({"n": n}), measured=True)[0]
        amount: Number = noise.choice(
            [0, 1, noise.randrange(1000), math.ldexp(1, noise.randint(-40, 40))]
        )
        if kind == rules.UP_DOWN_COUNTER and noise.random() < 0.5:
            amount = -amount
        refused += held[n].measure(amount) != 0
        count += 1
        total += amount
    rows = rows_of(buffer)
    statistics = buffer.statistics
    assert all(whole(row) for row in rows.values())
    assert sum(row.measurements for row in rows.values()) + statistics.dropped == count
    assert refused > 0
    assert rows[OVERFLOW].measurements == statistics.overflowed
    if statistics.dropped == 0:
        assert sum(row.value or 0 for row in rows.values()) == total


@pytest.mark.usefixtures("backend")
def test_it_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """An instrument logs why, one line, from a measurement or a bound one; and never raises."""
    buffer = Buffer(**TINY)
    view = View(instrument_name="h", aggregation=ExponentialBucketHistogramAggregation())
    histogram = meter_of(buffer, view).create_histogram("h")
    bound = histogram.bind()
    for amount in (1, 1e9, 1e12, 2e12, 0, 1):
        histogram.record(amount)
        bound.record(amount)
    (line,) = [r.getMessage() for r in caplog.records if r.name.startswith("otel_shm")]
    assert "Histogram h" in line
    assert "slots are used up" in line
    assert buffer.statistics.dropped == 6
    assert rows_of(buffer)["{}"].measurements == 6


def fill_up(place: Path) -> Path:
    """Takes what room there is. Returns: the file to remove."""
    filler = place / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    return filler


def test_blocks_in_a_full_tmpfs(tmp_path: Path) -> None:
    """Without memory for a block a value is dropped and counted; when there is memory again it counts.
    A process without memory in its lane adds in the shared one."""

    def run(place: Path) -> None:
        buffer = Buffer(place / "buffer", series=4096, lanes=4, record_bytes=2**20)
        stream = claim_stream(buffer, rules.HISTOGRAM, how=exponential())
        series = claim(buffer, stream)
        for exponent in range(600):  # so that the next block is on another page
            claim(buffer, stream, {"n": exponent})
        assert series.measure(1) == 0
        filler = fill_up(place)
        # The blocks of this page are there, until it is full.
        amounts = [2.0**exponent for exponent in range(1, 900)]
        kept = [amount for amount in amounts if series.measure(amount) == 0]
        assert len(kept) < len(amounts)
        assert buffer.statistics.dropped == len(amounts) - len(kept)
        row = rows_of(buffer)["{}"]
        assert (row.measurements, row.value) == (1 + len(kept), 1 + sum(kept))

        def child() -> int:
            assert series.measure(1) == 0
            return buffer.lane

        with Processes() as started:
            assert started.fork(child).result() == 0
        filler.unlink()
        assert series.measure(amounts[-1]) == 0
        row = rows_of(buffer)["{}"]
        assert row.measurements == 3 + len(kept)
        assert whole(row)

    in_small_tmpfs(tmp_path, "640k", run)


@pytest.mark.parametrize(
    "order",
    [lambda a: a, lambda a: a[::-1], lambda a: a[1::2] + a[::2]],
    ids=["up", "down", "both"],
)
@pytest.mark.parametrize("max_size", [2, 5, 160])
def test_processes_begin_anywhere(
    processes: Processes, max_size: int, order: Callable[[list[float]], list[float]]
) -> None:
    """Each process sees another part of the values first, and finds the blocks of the others; where the
    first value of all is the smallest or the largest there is, all others are in reach too."""
    amounts = order([math.ldexp(1.5, exponent) for exponent in range(-1022, 1023, 70)])
    buffer = Buffer(series=2048, lanes=3, record_bytes=65536)
    series = claim(buffer, claim_stream(buffer, rules.HISTOGRAM, how=exponential(max_size)))

    def record(part: list[float]) -> None:
        for amount in part:
            assert series.measure(amount) == 0

    for start in range(3):
        processes.fork(record, amounts[start::3]).result()
    row = rows_of(buffer)["{}"]
    assert seen(row) == model(amounts, max_size, 20)
    assert whole(row)
    assert row.measurements == len(amounts)
