# SPDX-License-Identifier: Apache-2.0
"""Histograms: which bucket a value is in, and what a point says."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence

import pytest
from buffers import only_row
from clocked_deltas import Deltas
from histograms import INT64_MAX, MANY, Number, explicit, exponential, recorded, series_of
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk import metrics as sdk
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.metrics.view import (
    Aggregation,
    ExplicitBucketHistogramAggregation,
    ExponentialBucketHistogramAggregation,
    View,
)
from points import points_of

import otel_shm
from otel_shm import buffer as rules
from otel_shm._core import ffi, lib
from otel_shm.streams import DEFAULT_BOUNDARIES, Aggregated

Make = Callable[..., otel_shm.MeterProvider]

# Explicit buckets.


def bucket_of(boundaries: Sequence[float], amount: Number) -> int:
    """Where the core counts an amount; behind the boundaries there must be infinity to fill up."""
    filled = [*boundaries, *[math.inf] * 8]
    find = lib.oshm_bucket_int if isinstance(amount, int) else lib.oshm_bucket
    return int(find(filled, len(boundaries), amount))


@pytest.mark.parametrize("boundaries", [DEFAULT_BOUNDARIES, MANY, (0.1, 0.2, 0.30000000000000004)])
def test_upper_bounds_are_inclusive(boundaries: tuple[float, ...]) -> None:
    """A boundary is in the bucket below it, and the next double in the one above."""
    for index, boundary in enumerate(boundaries):
        for value, bucket in (
            (math.nextafter(boundary, -math.inf), index),
            (boundary, index),
            (math.nextafter(boundary, math.inf), index + 1),
        ):
            assert bucket_of(boundaries, value) == bucket
    row = recorded(explicit(*boundaries), boundaries)
    assert row.buckets == [1] * len(boundaries) + [0]
    assert row.measurements == len(boundaries)


values = st.floats(allow_nan=False, allow_infinity=False)
some_boundaries = st.sets(values, max_size=120).map(sorted)


@given(some_boundaries, st.lists(values, max_size=30))
def test_bucket_is_where_it_belongs(boundaries: list[float], amounts: list[float]) -> None:
    """Counted through or searched by halves, the bucket is the number of boundaries below."""
    for amount in [*amounts, *boundaries]:
        assert bucket_of(boundaries, amount) == bisect.bisect_left(boundaries, amount)


near_powers = st.integers(53, 62).flatmap(lambda power: st.integers(2**power - 3, 2**power + 3))
ints = st.one_of(
    st.integers(-(2**63), INT64_MAX),
    near_powers,
    near_powers.map(lambda amount: -amount),
    st.sampled_from([INT64_MAX, -(2**63)]),
)


@given(st.sets(ints, max_size=60), st.lists(ints, max_size=30))
def test_int_is_where_it_belongs(boundaries: set[int], amounts: list[int]) -> None:
    """Also where it is no double, next to a boundary that it is rounded to."""
    doubles = sorted({float(boundary) for boundary in boundaries})
    for amount in [*amounts, *boundaries]:
        below = sum(boundary < amount for boundary in doubles)  # Python compares exactly
        assert bucket_of(doubles, amount) == below


def test_int_next_to_a_boundary() -> None:
    """2**53 + 1 is above the boundary 2**53, though the nearest double is not."""
    assert float(2**53 + 1) == 2.0**53
    row = recorded(explicit(2**53), [2**53, 2**53 + 1, 2**53 + 2])
    assert row.buckets == [1, 2]
    row = recorded(explicit(2**53), [2.0**53, 2**53 + 1.0])
    assert row.buckets == [2, 0]
    assert recorded(explicit(2**63), [INT64_MAX, 2**63]).buckets == [2, 0]


@pytest.mark.parametrize(
    ("amounts", "total", "least", "greatest"),
    [
        ([0], 0, 0.0, 0.0),
        ([1, 2, 3], 6, 1.0, 3.0),
        ([5, 1.5], 6.5, 1.5, 5.0),
        ([0.0], 0.0, 0.0, 0.0),
        ([2**62, 2**62], 2.0**63, 2.0**62, 2.0**62),
        ([5e-324, 1e308], 1e308, 5e-324, 1e308),
        ([2**64], 2.0**64, 2.0**64, 2.0**64),
        ([3] * 1000, 3000, 3.0, 3.0),
    ],
    ids=lambda value: repr(value)[:30],
)
@pytest.mark.parametrize("how", [explicit(0, 10), explicit(), exponential()], ids=lambda h: h[0])
def test_sum_minimum_and_maximum(
    how: Aggregated, amounts: list[Number], total: Number, least: float, greatest: float
) -> None:
    """A sum of ints is an int as long as it fits; minimum and maximum move outward."""
    row = recorded(how, amounts)
    assert repr(row.value) == repr(total)
    assert (row.minimum, row.maximum) == (least, greatest)
    assert row.measurements == len(amounts) == sum(row.buckets) + row.zero_count


def test_without_boundaries_there_is_one_bucket() -> None:
    """All values are in it."""
    assert recorded(explicit(), [0, 1, 1e300]).buckets == [3]


def test_a_thousand_boundaries() -> None:
    """Each bucket counts its own."""
    boundaries = range(1000)
    buffer, series = series_of(explicit(*boundaries), record_bytes=65536)
    for amount in (*boundaries, *boundaries, 1e9):
        series.measure(amount)
    assert only_row(buffer).buckets == [2] * 1000 + [1]


def test_negative_values_have_buckets_too() -> None:
    """What an UpDownCounter adds may be a distribution, by a view."""
    row = recorded(explicit(-1, 0, 1), [-5, -1, -0.5, 0, 0.5, 2], rules.UP_DOWN_COUNTER)
    assert row.buckets == [2, 2, 1, 1]
    assert (row.minimum, row.maximum, row.value) == (-5.0, 2.0, -4.0)


# Points.


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize(
    "aggregation",
    [None, ExplicitBucketHistogramAggregation([]), ExplicitBucketHistogramAggregation(MANY)],
    ids=["default", "none", "many"],
)
@given(data=st.data())
def test_points_are_the_sdks(aggregation: Aggregation | None, data: st.DataObject) -> None:
    """Count, sum, minimum, maximum and buckets of any amounts, of the SDK's types."""
    amounts = data.draw(
        st.lists(
            st.one_of(
                st.integers(0, 2**40), st.floats(0, 1e12), st.sampled_from(DEFAULT_BOUNDARIES)
            ),
            min_size=1,
            max_size=20,
        )
    )
    views = [View(instrument_name="h", aggregation=aggregation)] if aggregation else []
    found = []
    for provider_class in (otel_shm.MeterProvider, sdk.MeterProvider):
        reader = InMemoryMetricReader()
        provider = provider_class([reader], shutdown_on_exit=False, views=views)
        histogram = provider.get_meter("m").create_histogram("h")
        for amount in amounts:
            histogram.record(amount)
        (point,) = points_of(reader.get_metrics_data())
        found.append(point.data)
        provider.shutdown()
    ours, theirs = found
    for field in ("count", "min", "max"):
        assert getattr(ours, field) == getattr(theirs, field)
    assert tuple(ours.bucket_counts) == tuple(theirs.bucket_counts)
    assert tuple(ours.explicit_bounds) == tuple(theirs.explicit_bounds)
    assert type(ours.sum) is type(theirs.sum)
    assert math.isclose(ours.sum, theirs.sum, rel_tol=1e-12)


@pytest.mark.usefixtures("backend")
def test_no_minimum_and_maximum(make_provider: Make, reader: InMemoryMetricReader) -> None:
    """Where a view does not want them they are not there."""
    exponentially = ExponentialBucketHistogramAggregation()
    exponentially._record_min_max = False  # an argument since 1.44
    views = [
        View(
            instrument_name="a",
            aggregation=ExplicitBucketHistogramAggregation(record_min_max=False),
        ),
        View(instrument_name="b", aggregation=exponentially),
    ]
    meter = make_provider(reader, views=views).get_meter("m")
    for name in "abc":
        meter.create_histogram(name).record(1)
    found = {p.name: (p.data.min, p.data.max) for p in points_of(reader.get_metrics_data())}
    assert found == {"a": (None, None), "b": (None, None), "c": (1, 1)}


def test_value_that_is_not_counted_yet_waits_for_its_bucket() -> None:
    """A delta collection in the middle of a recording leaves all of it for the next one."""
    buffer, series = series_of(explicit(10))
    words = ffi.cast("uint64_t *", series._target.run)
    deltas = Deltas(buffer)
    series.measure(1)
    assert deltas.collect() == {"{}": 1}
    words[lib.OSHM_INT] += 5
    for interval, ever in (
        (lib.OSHM_INTERVAL_MIN, lib.OSHM_MIN),
        (lib.OSHM_INTERVAL_MAX, lib.OSHM_MAX),
    ):
        words[interval] = words[ever]
    assert deltas.collect() == {}
    words[lib.OSHM_BUCKETS] += 1
    _, (row,) = deltas.scan()
    assert (row.measurements, row.value, row.minimum, row.maximum) == (1, 5, 1, 1)
