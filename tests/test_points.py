# SPDX-License-Identifier: Apache-2.0
"""Points: what a reader gets of rows, and what becomes of those past its cardinality limit."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from deltas import DELTA, all_deltas
from histograms import model
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk import metrics as sdk
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    ExponentialHistogram,
    Gauge,
    Histogram,
    InMemoryMetricReader,
    Sum,
)
from opentelemetry.sdk.metrics.view import (
    ExplicitBucketHistogramAggregation,
    ExponentialBucketHistogramAggregation,
    View,
)
from points import OVERFLOW, Point, exact, points_of, values, with_limit, without_limit
from sdk_version import todays_sdk

import otel_shm
from otel_shm import buffer as rules
from otel_shm.points import OVERFLOW_ATTRIBUTES, Reading, data, within_limit
from otel_shm.readings import Row
from otel_shm.streams import Aggregated, StreamIdentity

Make = Callable[..., otel_shm.MeterProvider]

EXPONENTIAL = View(instrument_name="h", aggregation=ExponentialBucketHistogramAggregation(8))
EXPLICIT = View(instrument_name="h", aggregation=ExplicitBucketHistogramAggregation([1, 10]))


def by_attributes(reader: InMemoryMetricReader, name: str = "h") -> dict[str, Point]:
    """The points of a metric, in the order in which they came."""
    points = [p for p in points_of(reader.get_metrics_data()) if p.name == name]
    return {exact(point.attributes): point for point in points}


def cut(limit: int, *, delta: bool = False) -> tuple[InMemoryMetricReader, InMemoryMetricReader]:
    """A reader with a limit, and one without, for which the buffer has all series."""
    make = all_deltas if delta else InMemoryMetricReader
    return with_limit(make(), limit), without_limit(make())


# Limits.


@pytest.mark.parametrize(
    ("limit", "sets", "overflown"), [(3, 2, 0), (3, 3, 0), (3, 4, 1), (3, 50, 47), (1, 2, 1)]
)
@pytest.mark.usefixtures("backend")
def test_overflow_comes_in_addition(
    make_provider: Make, limit: int, sets: int, overflown: int
) -> None:
    """As many sets as the limit says have points of their own, the first ones; the rest share one."""
    reader = with_limit(InMemoryMetricReader(), limit)
    counter = make_provider(reader).get_meter("m").create_counter("c")
    for _ in range(3):
        for n in range(sets):
            counter.add(1, {"n": n})
    found = values(reader)
    expected = {exact({"n": n}): 3 for n in range(min(limit, sets))}
    if overflown:
        expected[OVERFLOW] = 3 * overflown
    assert found == expected
    assert list(found) == list(expected), "the overflow point is the last"


def test_readers_have_limits_of_their_own(make_provider: Make) -> None:
    """Each gets its own cut of the same series, and the total is the same for all."""
    readers = {limit: with_limit(InMemoryMetricReader(), limit) for limit in (2, 5, 20)}
    counter = make_provider(*readers.values()).get_meter("m").create_counter("c")
    for n in range(30):
        counter.add(n, {"n": n})
    for limit, reader in readers.items():
        found = values(reader)
        assert len(found) == limit + 1
        assert found[OVERFLOW] == sum(range(limit, 30))


def test_attribute_of_the_overflow_is_its_only_one(make_provider: Make) -> None:
    """It is a bool, whatever the merged series had."""
    reader = with_limit(InMemoryMetricReader(), 1)
    counter = make_provider(reader).get_meter("m").create_counter("c")
    for n in range(3):
        counter.add(1, {"n": n, "more": "x"})
    assert points_of(reader.get_metrics_data())[-1].attributes == {"otel.metric.overflow": True}
    assert OVERFLOW_ATTRIBUTES == {"otel.metric.overflow": True}


def test_buffer_that_is_full_and_limit(make_provider: Make) -> None:
    """What overflowed in the buffer and what the limit cuts off are one point."""
    few, all_of_them = cut(2)
    provider = make_provider(few, all_of_them, series=5)
    counter = provider.get_meter("m").create_counter("c")
    for n in range(10):
        counter.add(1, {"n": n})
    assert values(all_of_them) == {**{exact({"n": n}): 1 for n in range(5)}, OVERFLOW: 5}
    assert values(few) == {**{exact({"n": n}): 1 for n in range(2)}, OVERFLOW: 8}
    assert provider.buffer.statistics.overflowed == 5


def test_limit_of_an_interval(make_provider: Make) -> None:
    """With deltas the limit is for the sets that were measured in the interval."""
    reader = with_limit(all_deltas(), 3)
    counter = make_provider(reader).get_meter("m").create_counter("c")
    for start in (0, 3, 6):
        for n in range(start, start + 3):
            counter.add(1, {"n": n})
        assert values(reader) == {exact({"n": n}): 1 for n in range(start, start + 3)}
    for n in range(5):
        counter.add(1, {"n": n})
    found = values(reader)
    assert len(found) == 4
    assert found[OVERFLOW] == 2


def test_gauge_past_the_limit(make_provider: Make) -> None:
    """The overflow point of a gauge has the value of one of them."""
    reader, other = cut(1)
    gauge = make_provider(reader, other).get_meter("m").create_gauge("g")
    for n in range(4):
        gauge.set(n, {"n": n})
    found = values(reader)
    assert found.pop("{'n': 0}") == 0
    assert found[OVERFLOW] in (1, 2, 3)


def test_observable_past_the_limit(make_provider: Make) -> None:
    """What is observed past the limit is one point too, of sums the sum."""

    def observe(_options: CallbackOptions) -> list[Observation]:
        return [Observation(n, {"n": n}) for n in range(5)]

    reader, other = cut(2)
    make_provider(reader, other).get_meter("m").create_observable_counter("o", [observe])
    for _ in range(2):
        assert values(reader) == {"{'n': 0}": 0, "{'n': 1}": 1, OVERFLOW: 2 + 3 + 4}


@pytest.mark.parametrize("delta", [False, True], ids=["cumulative", "delta"])
def test_explicit_histograms_past_the_limit(make_provider: Make, delta: bool) -> None:
    """Buckets, sums and counts are added up, minimum and maximum are those of all."""
    reader, other = cut(1, delta=delta)
    histogram = make_provider(reader, other, views=[EXPLICIT]).get_meter("m").create_histogram("h")
    for n, amount in enumerate([5, 0.5, 20, 7, 1]):
        histogram.record(amount, {"n": n})
    point = by_attributes(reader)[OVERFLOW].data
    assert (point.count, point.sum, point.min, point.max) == (4, 28.5, 0.5, 20)
    assert tuple(point.bucket_counts) == (2, 1, 1)
    assert tuple(point.explicit_bounds) == (1, 10)


amounts = st.one_of(st.floats(1e-300, 1e300), st.integers(0, 10**6), st.sampled_from([0, 1, 2]))


@given(st.lists(amounts, min_size=2, max_size=30))
def test_exponential_histograms_past_the_limit(all_amounts: list[float]) -> None:
    """The overflow point is as fine as if all of it had been recorded in one series."""
    readers = cut(1)
    provider = otel_shm.MeterProvider(readers, shutdown_on_exit=False, views=[EXPONENTIAL])
    histogram = provider.get_meter("m").create_histogram("h")
    for n, amount in enumerate(all_amounts):
        histogram.record(amount, {"n": n})
    point = by_attributes(readers[0])[OVERFLOW].data
    provider.shutdown()
    merged = all_amounts[1:]
    assert (point.count, point.min, point.max) == (len(merged), min(merged), max(merged))
    assert point.zero_count == merged.count(0)
    expected = model(merged, 8, 20)
    assert (point.scale, point.positive.offset, list(point.positive.bucket_counts)) == expected[:3]


@todays_sdk
def test_exponential_overflow_is_as_fine_as_the_sdks(make_provider: Make) -> None:
    """The same scale and buckets that the SDK has in its overflow point, whether it is cut off by the
    buffer or by the reader."""
    noise = random.Random(8)
    recorded = [(noise.lognormvariate(0, 2), n % 40) for n in range(2000)]
    view = View(instrument_name="h", aggregation=ExponentialBucketHistogramAggregation())
    stock_reader, by_buffer, (by_reader, other) = (
        *(with_limit(InMemoryMetricReader(), 5) for _ in range(2)),
        cut(5),
    )
    stock = sdk.MeterProvider([stock_reader], shutdown_on_exit=False, views=[view])
    for provider in (
        stock,
        make_provider(by_buffer, views=[view]),
        make_provider(by_reader, other, views=[view]),
    ):
        histogram = provider.get_meter("m").create_histogram("h")
        for amount, n in recorded:
            histogram.record(amount, {"n": n})
    theirs = by_attributes(stock_reader)[OVERFLOW].data
    stock.shutdown()
    counts = list(theirs.positive.bucket_counts)
    for reader in (by_buffer, by_reader):
        ours = by_attributes(reader)[OVERFLOW].data
        assert (ours.count, ours.scale) == (theirs.count, theirs.scale)
        assert ours.positive.offset == theirs.positive.offset
        assert list(ours.positive.bucket_counts) == counts[: len(ours.positive.bucket_counts)]


def test_negative_buckets_past_the_limit(make_provider: Make) -> None:
    """Those of values below zero are merged too, at the same scale."""
    reader, other = cut(1)
    provider = make_provider(reader, other, views=[EXPONENTIAL])
    updown = provider.get_meter("m").create_up_down_counter("h")
    recorded = [1, -3, 100, -0.25, 0, 7, -7]
    for n, amount in enumerate(recorded):
        updown.add(amount, {"n": n})
    point = by_attributes(reader)[OVERFLOW].data
    sides = [(side.offset, list(side.bucket_counts)) for side in (point.positive, point.negative)]
    expected = model(recorded[1:], 8, 20)
    assert (point.scale, *sides[0], *sides[1]) == expected
    assert point.count == 6


def test_start_of_the_overflow_is_the_earliest(make_provider: Make) -> None:
    """Of all the series in it."""
    reader, everything = cut(1)
    counter = make_provider(reader, everything).get_meter("m").create_counter("c")
    for n in range(4):
        counter.add(1, {"n": n})
    starts = [point.start for point in points_of(everything.get_metrics_data())]
    assert points_of(reader.get_metrics_data())[1].start == min(map(int, starts[1:]))


# Data.


def row(**values: Any) -> Row:
    """A row of a scan, with nothing in it but what is said."""
    empty = dict.fromkeys(Row._fields, 0) | {
        "buckets": [],
        "negative_buckets": [],
        "minimum": None,
        "maximum": None,
        "value": 1,
    }
    return Row(**{**empty, **values})


def reading(n: int = 0, **values: Any) -> Reading:
    """Of one of many series."""
    made = row(series=n, **values)
    return {"n": n}, made.start_time_unix_nano, made.value or 0, made, []


def stream(how: Aggregated) -> StreamIdentity:
    """With nothing but its aggregation."""
    metric: Any = ("name", "", "")
    return StreamIdentity(metric, how, is_default=False, keep=None, limit=0)


@pytest.mark.parametrize("is_monotonic", [False, True])
def test_class_of_the_data(is_monotonic: bool) -> None:
    """It follows from the aggregation."""
    for aggregation, expected in (
        (rules.AGGREGATION_SUM, Sum),
        (rules.AGGREGATION_LAST, Gauge),
        (rules.AGGREGATION_EXPLICIT, Histogram),
        (rules.AGGREGATION_EXPONENTIAL, ExponentialHistogram),
    ):
        for temporality in (AggregationTemporality.CUMULATIVE, DELTA):
            made = data(stream(Aggregated(aggregation)), is_monotonic, [reading()], temporality, 5)
            assert type(made) is expected
            assert len(made.data_points) == 1
            assert isinstance(made.data_points, list)
            assert getattr(made, "aggregation_temporality", temporality) is temporality
            if isinstance(made, Sum):
                assert made.is_monotonic == is_monotonic


def test_no_point_ends_before_it_starts() -> None:
    """A series that was started after the collection began, or before the clock was set back."""
    for aggregation in (rules.AGGREGATION_SUM, rules.AGGREGATION_EXPLICIT):
        late = reading(start_time_unix_nano=7)
        made = data(stream(Aggregated(aggregation)), False, [late], DELTA, 5)
        (point,) = made.data_points
        assert (point.start_time_unix_nano, point.time_unix_nano) == (7, 7)
    made = data(stream(Aggregated(rules.AGGREGATION_LAST)), False, [reading()], DELTA, 5)
    assert made.data_points[0].start_time_unix_nano is None


@pytest.mark.parametrize(
    ("value", "extremes", "expected"),
    [
        (3, (1.0, 2.0), (1, 2)),
        (3.0, (1.0, 2.0), (1.0, 2.0)),
        (3, (None, None), (None, None)),
        (2**60, (2.0**59, 2.0**59), (2**59, 2**59)),
    ],
    ids=repr,
)
def test_minimum_and_maximum_are_ints_where_all_amounts_were(
    value: float, extremes: tuple[Any, Any], expected: tuple[Any, Any]
) -> None:
    """As the sum is; and None where the process died before it wrote them."""
    given_one = reading(value=value, minimum=extremes[0], maximum=extremes[1])
    for aggregation in (rules.AGGREGATION_EXPLICIT, rules.AGGREGATION_EXPONENTIAL):
        made = data(stream(Aggregated(aggregation)), False, [given_one], DELTA, 5)
        point: Any = made.data_points[0]
        assert repr((point.min, point.max)) == repr(expected)


def test_what_is_within_the_limit_is_left_as_it_is() -> None:
    """The very same readings, in the same order, and the overflow does not count."""
    readings = [reading(n) for n in range(5)]
    how = Aggregated(rules.AGGREGATION_SUM)
    assert within_limit(readings, 5, how) is readings
    overflow: Reading = (OVERFLOW_ATTRIBUTES, *reading()[1:])
    assert within_limit([overflow, *readings], 5, how) == [*readings, overflow]
    assert within_limit([overflow, *readings], 50, how) == [*readings, overflow]


def test_exemplars_go_with_what_is_merged() -> None:
    """Those of all series that are in the overflow point."""
    marks: list[Any] = ["a", "b", "c", "d"]
    readings: list[Reading] = [(*reading(n)[:4], [marks[n]]) for n in range(4)]
    merged = within_limit(readings, 1, Aggregated(rules.AGGREGATION_SUM))
    assert [list(exemplars) for *_, exemplars in merged] == [["a"], ["b", "c", "d"]]


def test_histogram_without_a_row_has_no_point() -> None:
    """Where a damaged file says of a series of numbers that it belongs to a histogram."""
    number: Reading = ({}, 1, 2, None, [])
    for aggregation in (rules.AGGREGATION_EXPLICIT, rules.AGGREGATION_EXPONENTIAL):
        how = stream(Aggregated(aggregation))
        assert not data(how, False, [number], DELTA, 5).data_points
