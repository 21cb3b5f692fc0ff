# SPDX-License-Identifier: Apache-2.0
"""What a delta reader gets of a buffer: every measurement in one of its intervals, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from buffers import claim, claim_stream, counter_of, in_small_tmpfs, shm, updown_of
from deltas import EXPLICIT, EXPONENTIAL, DeltaReader, Number, buffer, gauge_of, histogram_of

from otel_shm import buffer as rules
from otel_shm.buffer import Buffer
from otel_shm.streams import Aggregated

__all__ = ["buffer", "shm"]

# One reader.


def test_every_amount_is_in_one_interval(buffer: Buffer) -> None:
    """The first interval is all that was before, each further one what came since."""
    counter, updown = counter_of(buffer), updown_of(buffer)
    counter.measure(5)
    updown.measure(-3)
    reader = DeltaReader(buffer)
    assert {s: row.value for s, row in reader.collect().items()} == {
        counter.record: 5,
        updown.record: -3,
    }
    counter.measure(2)
    counter.measure(1)
    updown.measure(10)
    assert {s: row.value for s, row in reader.collect().items()} == {
        counter.record: 3,
        updown.record: 10,
    }
    assert reader.collect() == {}


def test_nothing_that_was_not_measured(buffer: Buffer) -> None:
    """A series that is only claimed is left out, and begins with its first measurement."""
    reader, counter = DeltaReader(buffer), counter_of(buffer)
    counter.measure(1)
    reader.collect()
    assert reader.collect() == {}
    counter.measure(4)
    assert reader.value(counter) == 4


@pytest.mark.parametrize(
    "amounts",
    [[0], [0.0], [-0.0], [0, 0, 0], [1, -1], [2.5, -2.5], [2**62, -(2**62)]],
    ids=repr,
)
def test_what_changes_nothing_was_measured(buffer: Buffer, amounts: list[Number]) -> None:
    """Zeros, and amounts that add up to zero, are a point of the interval, and of that one only."""
    reader, updown = DeltaReader(buffer), updown_of(buffer)
    for before in ([3], []):
        for amount in [*before, *amounts]:
            updown.measure(amount)
        assert reader.value(updown) == sum(before)
        assert reader.value(updown) is None
    counter = counter_of(buffer)
    counter.measure(1)
    reader.collect()
    for amount in amounts:
        if amount == 0:
            counter.measure(amount)
            assert reader.value(counter) == 0
            assert reader.value(counter) is None


def test_tiny_amounts_were_measured(buffer: Buffer) -> None:
    """An amount that is lost in a large sum is a measurement all the same."""
    reader, counter = DeltaReader(buffer), counter_of(buffer)
    counter.measure(1e300)
    assert reader.value(counter) == 1e300
    counter.measure(1e-300)
    assert reader.value(counter) == 0.0
    assert reader.value(counter) is None


def test_gauge_that_is_set_to_the_same(buffer: Buffer) -> None:
    """Each interval in which it is set has its value, whatever it was before."""
    reader, gauge = DeltaReader(buffer), gauge_of(buffer)
    for amount in (5, 5, 5.0, 0, -1):
        gauge.measure(amount)
        assert reader.value(gauge) == amount
        assert reader.value(gauge) is None


@pytest.mark.parametrize(
    ("amounts", "difference"),
    [
        ([(2**53 + 1), 1], 1),
        ([0.5, 0.25], 0.25),
        ([1, 2.5], 2.5),
        ([2**62, 2**62], 2.0**62),
        ([2**61, 2**61], 2**61),
        ([2**60, 3], 3),
    ],
    ids=repr,
)
def test_differences_are_exact(
    buffer: Buffer, amounts: tuple[Number, Number], difference: Number
) -> None:
    """Those of ints are ints to the last one; past the range of ints they are the nearest doubles."""
    reader, counter = DeltaReader(buffer), counter_of(buffer)
    for amount, expected in zip(amounts, (amounts[0], difference), strict=True):
        counter.measure(amount)
        assert reader.value(counter) == expected


@pytest.mark.parametrize("how", [EXPLICIT, EXPONENTIAL], ids=["explicit", "exponential"])
def test_histogram_of_an_interval(buffer: Buffer, how: Aggregated) -> None:
    """Counts, sum, minimum, maximum and buckets are those of the interval alone."""
    reader, histogram = DeltaReader(buffer), histogram_of(buffer, how)
    for amounts in ([5, 7.5, 0], [50], [], [1, 1, 1000], [0], []):
        for amount in amounts:
            histogram.measure(amount)
        row = reader.collect().get(histogram.record)
        if not amounts:
            assert row is None
            continue
        assert row is not None
        assert (row.measurements, row.value) == (len(amounts), sum(amounts))
        assert (row.minimum, row.maximum) == (min(amounts), max(amounts))
        assert sum(row.buckets) + row.zero_count == len(amounts)
        if how is EXPLICIT:
            bounds = (*how.boundaries, float("inf"))
            below = [sum(amount <= bound for amount in amounts) for bound in bounds]
            assert row.buckets == [n - m for n, m in zip(below, [0, *below], strict=False)]
        else:
            assert row.zero_count == amounts.count(0)


def test_interval_begins_where_the_last_one_ended(buffer: Buffer) -> None:
    """Also for a series that is new in it; the first one begins with the first measurement."""
    reader, counter = DeltaReader(buffer), counter_of(buffer)
    counter.measure(1)
    assert reader.scanner.interval_start(reader.number) == 0
    first = reader.scan()[counter.record]
    assert first.start_time_unix_nano > 10**18
    reader.commit(2 * 10**18)
    updown = updown_of(buffer)
    updown.measure(1)
    counter.measure(1)
    rows = reader.scan()
    assert {row.start_time_unix_nano for row in rows.values()} == {2 * 10**18}
    assert rows.keys() == {counter.record, updown.record}
    reader.commit(3 * 10**18)
    assert reader.scanner.interval_start(reader.number) == 3 * 10**18
    assert reader.collect() == {}


def test_totals_of_other_kinds(buffer: Buffer) -> None:
    """Of kinds of which the reader wants no deltas it gets the totals, each time."""
    counter, updown, histogram = counter_of(buffer), updown_of(buffer), histogram_of(buffer)
    reader = DeltaReader(buffer, kinds=[rules.COUNTER])
    for expected in (1, 2, 3):
        for series in (counter, updown, histogram):
            series.measure(1)
        rows = reader.collect()
        assert rows[counter.record].value == 1
        assert rows[updown.record].value == rows[histogram.record].value == expected
        assert rows[histogram.record].measurements == expected
        assert rows[histogram.record].start_time_unix_nano > 10**18
    rows = reader.collect()
    assert rows.keys() == {updown.record, histogram.record}


# No room.


def test_series_without_memory_for_a_baseline_waits(tmp_path: Path) -> None:
    """It is left out and counted; when there is memory, its interval is all that came meanwhile."""

    def run(place: Path) -> None:
        buffer = Buffer(place / "buffer", series=4096, lanes=4, record_bytes=2**20)
        stream = claim_stream(buffer)
        series = [claim(buffer, stream, {"n": n}) for n in range(300)]
        reader = DeltaReader(buffer)
        for each in series:
            each.measure(1)
        filler = place / "filler"
        with filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass
        assert reader.collect() == {}
        assert reader.scanner.left_out == len(series)
        for each in series:
            each.measure(10)
        assert reader.collect() == {}
        filler.unlink()
        rows = reader.collect()
        assert reader.scanner.left_out == 0
        assert [rows[each.record].value for each in series] == [11] * len(series)
        series[5].measure(1)
        assert {number: row.value for number, row in reader.collect().items()} == {
            series[5].record: 1
        }

    in_small_tmpfs(tmp_path, "512k", run)
