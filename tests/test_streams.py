# SPDX-License-Identifier: Apache-2.0
"""Streams: what comes out of an instrument, how lanes fold, and the bytes that say so."""

from __future__ import annotations

import contextlib
import math
import struct
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk import metrics as sdk
from opentelemetry.sdk.metrics import view
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from otel_shm import buffer as rules
from otel_shm._core import ffi
from otel_shm.metadata import InstrumentIdentity
from otel_shm.streams import (
    DEFAULT_BOUNDARIES,
    Aggregated,
    AttributeFilter,
    StreamIdentity,
    aggregated,
    check_boundaries,
    stream_from_key,
    stream_key,
)

SUM = Aggregated(rules.AGGREGATION_SUM)
LAST = Aggregated(rules.AGGREGATION_LAST)
DEFAULT = Aggregated(rules.AGGREGATION_EXPLICIT, DEFAULT_BOUNDARIES)
EXPONENTIAL = Aggregated(rules.AGGREGATION_EXPONENTIAL, max_size=160, max_scale=20)

SYNCHRONOUS = (rules.COUNTER, rules.UP_DOWN_COUNTER, rules.HISTOGRAM, rules.GAUGE)
OBSERVABLES = (
    rules.OBSERVABLE_COUNTER,
    rules.OBSERVABLE_UP_DOWN_COUNTER,
    rules.OBSERVABLE_GAUGE,
)
KINDS = SYNCHRONOUS + OBSERVABLES

# Keys.

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
filters = st.builds(
    lambda keys, excludes: AttributeFilter(keys, excludes=excludes),
    st.sets(texts, max_size=5),
    st.booleans(),
)
ways = st.one_of(
    st.sampled_from([SUM, LAST]),
    st.builds(
        lambda boundaries, min_max: Aggregated(
            rules.AGGREGATION_EXPLICIT, tuple(sorted(boundaries)), min_max=min_max
        ),
        st.sets(st.floats(allow_nan=False, allow_infinity=False), max_size=30),
        st.booleans(),
    ),
    st.builds(
        lambda size, scale, min_max: Aggregated(
            rules.AGGREGATION_EXPONENTIAL, max_size=size, max_scale=scale, min_max=min_max
        ),
        st.integers(2, 16384),
        st.integers(rules.MIN_SCALE, rules.MAX_SCALE),
        st.booleans(),
    ),
)
identities = st.builds(
    StreamIdentity,
    metric=st.builds(InstrumentIdentity, texts, texts, texts),
    aggregated=ways,
    is_default=st.booleans(),
    keep=st.none() | filters,
    limit=st.integers(0, 2**32 - 1),
)


@given(identities)
def test_key_reads_back(identity: StreamIdentity) -> None:
    """What tells streams apart is in the key, all of it and to the bit."""
    again = stream_from_key(stream_key(identity), identity.aggregated.aggregation)
    assert again == identity
    assert repr(again.aggregated) == repr(identity.aggregated)  # 0.0 and -0.0 are equal


@given(identities, identities)
def test_different_streams_have_different_keys(one: StreamIdentity, other: StreamIdentity) -> None:
    """The aggregation is beside the key; everything else is in it."""
    same = one.aggregated.aggregation == other.aggregated.aggregation
    if same and one != other:
        assert stream_key(one) != stream_key(other)


def test_key_begins_as_the_core_reads_it() -> None:
    """The struct of layout.h, then the boundaries, then the metric."""
    metric = InstrumentIdentity("name", "s", "text")
    how = Aggregated(rules.AGGREGATION_EXPLICIT, (1.0, 2.5), min_max=False)
    keep = AttributeFilter(["a"], excludes=True)
    key = stream_key(StreamIdentity(metric, how, is_default=True, keep=keep, limit=7))
    begin = ffi.from_buffer("oshm_stream_key *", key)
    assert (begin.boundaries, begin.max_size, begin.max_scale, begin.limit) == (2, 0, 0, 7)
    assert begin.flags == rules.DEFAULTED | rules.NO_MIN_MAX | rules.FILTERED
    assert struct.unpack_from("<2d", key, ffi.sizeof("oshm_stream_key")) == (1.0, 2.5)
    at = ffi.sizeof("oshm_stream_key") + 16
    assert b"name" in key[at : at + begin.metric_bytes]
    how = Aggregated(rules.AGGREGATION_EXPONENTIAL, max_size=16384, max_scale=-11)
    key = stream_key(StreamIdentity(metric, how, is_default=False, keep=None, limit=0))
    begin = ffi.from_buffer("oshm_stream_key *", key)
    assert (begin.boundaries, begin.max_size, begin.max_scale, begin.flags) == (0, 16384, -11, 0)


@given(st.binary(max_size=120))
def test_any_bytes_are_read_or_refused(key: bytes) -> None:
    """Bytes that no stream of ours has raise what is documented, and nothing else."""
    for aggregation in range(5):
        with contextlib.suppress(struct.error, DecodeError, ValueError):
            stream_from_key(key, aggregation)


# Aggregations.


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (rules.COUNTER, SUM),
        (rules.UP_DOWN_COUNTER, SUM),
        (rules.HISTOGRAM, DEFAULT),
        (rules.GAUGE, LAST),
        (rules.OBSERVABLE_COUNTER, SUM),
        (rules.OBSERVABLE_UP_DOWN_COUNTER, SUM),
        (rules.OBSERVABLE_GAUGE, LAST),
    ],
)
def test_default_aggregation(kind: int, expected: Aggregated) -> None:
    """Each kind has the one of the specification."""
    assert aggregated(view.DefaultAggregation(), kind, None) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_aggregation_that_is_asked_for(kind: int) -> None:
    """Any kind may be dropped, summed up, or known by its last value; what is observed is no
    distribution."""
    assert aggregated(view.DropAggregation(), kind, None) is None
    assert aggregated(view.SumAggregation(), kind, None) == SUM
    assert aggregated(view.LastValueAggregation(), kind, None) == LAST
    histograms = (
        (view.ExplicitBucketHistogramAggregation(), DEFAULT),
        (view.ExponentialBucketHistogramAggregation(), EXPONENTIAL),
    )
    for aggregation, expected in histograms:
        assert aggregated(aggregation, kind, None) == (None if kind in OBSERVABLES else expected)


def test_default_boundaries_are_the_sdks() -> None:
    """A histogram with nothing said has the SDK's buckets."""
    reader = InMemoryMetricReader()
    provider = sdk.MeterProvider([reader], shutdown_on_exit=False)
    provider.get_meter("m").create_histogram("h").record(1)
    data = reader.get_metrics_data()
    assert data is not None
    (point,) = data.resource_metrics[0].scope_metrics[0].metrics[0].data.data_points
    assert tuple(point.explicit_bounds) == DEFAULT_BOUNDARIES
    provider.shutdown()


@pytest.mark.parametrize(
    ("own", "advised", "expected"),
    [
        (None, None, DEFAULT_BOUNDARIES),
        (None, (1, 2), (1.0, 2.0)),
        ((3, 4), (1, 2), (3.0, 4.0)),
        ((), (1, 2), ()),
        (None, (), ()),
    ],
)
def test_whose_boundaries_they_are(
    own: tuple[int, ...] | None, advised: tuple[int, ...] | None, expected: tuple[float, ...]
) -> None:
    """A view's go first, then those advised, then the default; no boundaries are boundaries too."""
    given_ones = view.ExplicitBucketHistogramAggregation(own)
    assert aggregated(given_ones, rules.HISTOGRAM, advised) == Aggregated(
        rules.AGGREGATION_EXPLICIT, expected
    )
    if own is None:
        default = aggregated(view.DefaultAggregation(), rules.HISTOGRAM, advised)
        assert default == Aggregated(rules.AGGREGATION_EXPLICIT, expected)


def test_min_and_max_may_be_left_out() -> None:
    """As the aggregation says."""
    for record in (True, False):
        explicit = view.ExplicitBucketHistogramAggregation([1], record_min_max=record)
        assert aggregated(explicit, rules.HISTOGRAM, None) == Aggregated(
            rules.AGGREGATION_EXPLICIT, (1.0,), min_max=record
        )
        exponential = view.ExponentialBucketHistogramAggregation()
        exponential._record_min_max = record  # an argument since 1.44
        made = aggregated(exponential, rules.HISTOGRAM, None)
        assert made == EXPONENTIAL._replace(min_max=record)


@pytest.mark.parametrize(
    ("boundaries", "text"),
    [
        ([1, 1], "boundaries must be strictly increasing"),
        ([2, 1], "boundaries must be strictly increasing"),
        ([0.0, -0.0], "boundaries must be strictly increasing"),
        ([2**53, 2**53 + 1], "boundaries must be strictly increasing"),
        ([math.nan], "invalid boundary: nan"),
        ([1, math.inf], "invalid boundary: inf"),
        ([-math.inf, 1], "invalid boundary: -inf"),
    ],
)
def test_boundaries_that_cannot_be(boundaries: list[float], text: str) -> None:
    """They are refused in the SDK's words, wherever they come from."""
    with pytest.raises(ValueError, match=text):
        check_boundaries(boundaries)
    unchecked = view.ExplicitBucketHistogramAggregation()
    unchecked._boundaries = boundaries  # newer SDKs look at them themselves
    with pytest.raises(ValueError, match=text):
        aggregated(unchecked, rules.HISTOGRAM, None)


@pytest.mark.parametrize(
    ("max_size", "max_scale", "text"),
    [
        (1, 20, "Buckets max size 1 is smaller than minimum max size 2"),
        (-5, 20, "Buckets max size -5 is smaller than minimum max size 2"),
        (16385, 20, "Buckets max size 16385 is larger than maximum max size 16384"),
    ],
)
def test_sizes_that_cannot_be(max_size: int, max_scale: int, text: str) -> None:
    """An exponential histogram of a size that the SDK refuses is refused here, in its words."""
    wrong = view.ExponentialBucketHistogramAggregation(max_size, max_scale)
    with pytest.raises(ValueError, match=text):
        aggregated(wrong, rules.HISTOGRAM, None)


@pytest.mark.parametrize(("asked", "scale"), [(20, 20), (-11, -11), (0, 0), (21, 20), (-99, -11)])
def test_scale_is_kept_within_what_there_is(asked: int, scale: int) -> None:
    """A scale that no exponential histogram can have becomes the nearest that it can."""
    aggregation = view.ExponentialBucketHistogramAggregation(5, asked)
    assert aggregated(aggregation, rules.HISTOGRAM, None) == Aggregated(
        rules.AGGREGATION_EXPONENTIAL, max_size=5, max_scale=scale
    )


def test_aggregation_of_an_unknown_class_is_refused() -> None:
    """What is no aggregation of the SDK is an error that shows it."""

    class Median(view.Aggregation):
        def _create_aggregation(self, *_: Any, **__: Any) -> Any:
            raise NotImplementedError

        def __repr__(self) -> str:
            return "Median()"

    with pytest.raises(ValueError, match=r"otel_shm knows the aggregations .* not Median\(\)"):
        aggregated(Median(), rules.HISTOGRAM, None)


# Filters.


def test_filter_keeps_these_or_all_but_these() -> None:
    """And gives a dict of its own."""
    attributes = {"a": 1, "b": 2, "c": 3}
    assert AttributeFilter(["a", "z"], excludes=False)(attributes) == {"a": 1}
    assert AttributeFilter(["a", "z"], excludes=True)(attributes) == {"b": 2, "c": 3}
    assert AttributeFilter([], excludes=False)(attributes) == {}
    everything = AttributeFilter([], excludes=True)(attributes)
    assert everything == attributes
    assert everything is not attributes


def test_filters_are_equal_by_what_they_do() -> None:
    """Order does not matter, and keeping is not leaving out."""
    one = AttributeFilter(["a", "b"], excludes=False)
    assert one == AttributeFilter(["b", "a", "a"], excludes=False)
    assert hash(one) == hash(AttributeFilter(["b", "a"], excludes=False))
    assert one != AttributeFilter(["a", "b"], excludes=True)
    assert one != AttributeFilter(["a"], excludes=False)
    assert one != ["a", "b"]
