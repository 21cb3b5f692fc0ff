# SPDX-License-Identifier: Apache-2.0
"""Exponential histograms: the finest scale that fits, over all doubles, as the SDK has it."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Callable

import pytest
from histograms import INT64_MAX, Number, exponential, model, recorded, seen
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk import metrics as sdk
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation, View
from points import points_of
from sdk_version import todays_sdk

import otel_shm
from otel_shm import buffer as rules

Make = Callable[..., otel_shm.MeterProvider]

positive = st.one_of(
    st.floats(min_value=0, allow_infinity=False, allow_nan=False),
    st.floats(0.5, 2),
    st.integers(0, INT64_MAX),
    st.integers(-1074, 1023).map(lambda power: math.ldexp(1, power)),
)


@given(st.lists(positive, min_size=1, max_size=40), st.integers(2, 200), st.integers(-11, 20))
def test_scale_is_the_finest_that_fits(
    amounts: list[Number], max_size: int, max_scale: int
) -> None:
    """Whatever comes in whatever order, scale, offset and buckets are the best there can be."""
    row = recorded(exponential(max_size, max_scale), amounts)
    assert seen(row) == model(amounts, max_size, max_scale)
    assert row.zero_count == sum(amount == 0 for amount in amounts)
    assert row.measurements == len(amounts)
    assert len(row.buckets) <= max_size


@given(st.lists(st.one_of(positive, positive.map(lambda x: -x)), min_size=1, max_size=40))
def test_scale_fits_negative_values_too(amounts: list[Number]) -> None:
    """What an UpDownCounter adds has buckets on both sides, of one scale."""
    small = [float(amount) for amount in amounts]
    row = recorded(exponential(8), small, rules.UP_DOWN_COUNTER)
    assert seen(row) == model(small, 8, 20)
    assert row.measurements == sum(row.buckets) + sum(row.negative_buckets) + row.zero_count


DISTRIBUTIONS: dict[str, Callable[[random.Random], float]] = {
    "uniform": lambda noise: noise.uniform(0, 1000),
    "narrow": lambda noise: noise.uniform(1, 1.0001),
    "latencies": lambda noise: noise.lognormvariate(-3, 1),
    "wide": lambda noise: math.ldexp(noise.uniform(0.5, 1), noise.randint(-1021, 1024)),
    "one": lambda noise: 3.14,
    "ints": lambda noise: noise.randrange(1, 10**6),
    "with zeros": lambda noise: noise.choice([0, 0.0, noise.expovariate(1)]),
}


@todays_sdk
@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize(
    ("max_size", "max_scale"), [(160, 20), (4, 20), (2, 20), (20, 3), (80, -2)]
)
@pytest.mark.usefixtures("backend")
def test_same_as_the_sdk(
    make_provider: Make, reader: InMemoryMetricReader, name: str, max_size: int, max_scale: int
) -> None:
    """Over the whole range of normal doubles the points of one process are the SDK's."""
    view = View(
        instrument_name="h",
        aggregation=ExponentialBucketHistogramAggregation(max_size, max_scale),
    )
    stock_reader = InMemoryMetricReader()
    stock = sdk.MeterProvider([stock_reader], shutdown_on_exit=False, views=[view])
    theirs = stock.get_meter("m").create_histogram("h")
    ours = make_provider(reader, views=[view]).get_meter("m").create_histogram("h")
    noise = random.Random(name)
    # After a collection of nothing but zeros the SDK's next one fails.
    first = [1] if name != "with zeros" else []
    for count in (*first, 5, 10, 100, 1000):
        for _ in range(count):
            amount = DISTRIBUTIONS[name](noise)
            ours.record(amount)
            theirs.record(amount)
        mine, other = (points_of(r.get_metrics_data())[0].data for r in (reader, stock_reader))
        for field in ("count", "scale", "zero_count", "min", "max"):
            assert getattr(mine, field) == getattr(other, field), field
        assert mine.sum == other.sum or math.isclose(mine.sum, other.sum, rel_tol=1e-9)
        assert mine.positive.offset == other.positive.offset
        # The SDK's have room for more at their end.
        counts = list(other.positive.bucket_counts)
        length = len(mine.positive.bucket_counts)
        assert list(mine.positive.bucket_counts) == counts[:length]
        assert not any(counts[length:])
    stock.shutdown()


def test_whole_range_of_doubles() -> None:
    """From the smallest subnormal to the largest double, and zero, in one series."""
    ends = [5e-324, sys.float_info.min, 1.0, sys.float_info.max, 0.0, -0.0]
    for order in (ends, ends[::-1]):
        row = recorded(exponential(), order)
        assert seen(row) == model(ends, 160, 20)
        assert (row.scale, row.zero_count, row.measurements) == (-4, 2, 6)
    assert recorded(exponential(2), ends).scale == -11
    assert recorded(exponential(2), [sys.float_info.min, sys.float_info.max]).scale == -10


def test_only_zeros() -> None:
    """There are no buckets, and a scale that says nothing."""
    row = recorded(exponential(), [0, 0.0, -0.0, False])
    assert (row.measurements, row.zero_count, seen(row)) == (4, 4, (0, 0, [], 0, []))
