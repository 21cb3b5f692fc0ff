# SPDX-License-Identifier: Apache-2.0
"""The comparison with the SDK: it notices what is wrong, and each deviation it allows is needed."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from changes import Change, coarser, collections, data_with, each_point, metrics, points, scopes
from comparison import compare
from hypothesis import HealthCheck, given, settings
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Buckets,
    ExponentialHistogram,
    Gauge,
    Histogram,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from scenario_strategies import KINDS, scenarios
from scenarios import (
    Aggregation,
    Collect,
    Collection,
    Instrument,
    Measure,
    Observe,
    Played,
    Reader,
    Scenario,
    Scope,
    Seen,
    View,
    play,
    stock,
)
from sdk_version import todays_sdk
from streams import streams_of_data

pytestmark = todays_sdk

SYNCHRONOUS = ("Counter", "UpDownCounter", "Histogram", "Gauge")

# Of everything something, and nothing in which we differ from the SDK on purpose.
FULL = Scenario(
    scopes=[Scope("one", "1", "https://schema", {"k": 1}), Scope("two")],
    instruments=[
        Instrument("Counter", "ints", "By", "of ints"),
        Instrument("Counter", "floats", scope=1),
        Instrument("UpDownCounter", "updown"),
        Instrument("Histogram", "explicit", advisory=(1, 10)),
        Instrument("Histogram", "exponential", scope=1),
        Instrument("Gauge", "gauge"),
        Instrument("ObservableCounter", "observed", callbacks=("list",)),
    ],
    views=[
        View({"instrument_name": "exponential"}, Aggregation("ExponentialBucketHistogram")),
    ],
    readers=[Reader(), Reader(delta=SYNCHRONOUS)],
    steps=[
        Observe(6, [Seen(5, {"a": 1})]),
        *[
            step
            for amount in (3, 8, 70)
            for step in (
                Measure(0, amount, {"a": 1}),
                Measure(0, 1, {"a": amount}),
                Measure(1, amount / 7, {"a": 1}),
                Measure(2, -amount),
                Measure(3, amount, {"a": 1}),
                Measure(4, amount / 3),
                Measure(5, amount, {"a": "x"}),
                Collect(0),
                Collect(1),
            )
        ],
        Collect(0),
        Collect(1),
    ],
)


@settings(suppress_health_check=list(HealthCheck))
@given(scenarios)
def test_the_sdk_equals_itself(scenario: Scenario) -> None:
    """Nothing in a script or in the comparison is left to chance: no deviation is needed."""
    assert compare(scenario, play(stock, scenario), play(stock, scenario), ()) == []


def test_equal_is_equal_with_all_deviations() -> None:
    """What shows none of them passes whether they are allowed or not."""
    played = play(stock, FULL)
    assert compare(FULL, played, play(stock, FULL)) == []
    assert {s.key.kind for c in played.collections for s in streams_of_data(c.data)} == {
        "Sum",
        "Gauge",
        "Histogram",
        "ExponentialHistogram",
    }


# --- what is wrong is noticed --------------------------------------------------------------------


def _shifted(buckets: Buckets) -> Buckets:
    return Buckets(buckets.offset + 1, buckets.bucket_counts)


def _earlier(number: int, data: Any) -> Any:
    """Every second collection has its points begin a little earlier."""
    change = each_point(Sum, start_time_unix_nano=lambda start: start - number % 3)
    return change(Played({}, [Collection(0, data)])).collections[0].data


WRONG: dict[str, Change] = {
    "an int": each_point(Sum, value=lambda value: value + isinstance(value, int)),
    "a float": each_point(Sum, value=lambda value: value * (1 + 1e-8 * isinstance(value, float))),
    "an int as float": each_point(Sum, value=float),
    "a float as int": each_point(Sum, value=int),
    "a last value": each_point(Gauge, value=lambda value: value - 1),
    "a sum": each_point(Histogram, sum=lambda value: value + 1),
    "a minimum": each_point(Histogram, min=lambda value: value - 1),
    "a maximum": each_point(Histogram, max=lambda value: value * 2),
    "no minimum": each_point(Histogram, min=lambda _: None),
    "a count": each_point(Histogram, count=lambda value: value + 1),
    "the buckets": each_point(Histogram, bucket_counts=lambda counts: counts[::-1]),
    "a bucket": each_point(Histogram, bucket_counts=lambda counts: counts[:-1]),
    "boundaries": each_point(Histogram, explicit_bounds=lambda bounds: [*bounds[:-1], 11]),
    "exponential sum": each_point(ExponentialHistogram, sum=lambda value: value * 1.001),
    "exponential count": each_point(ExponentialHistogram, count=lambda value: value + 1),
    "exponential minimum": each_point(ExponentialHistogram, min=lambda value: value / 2),
    "zeros": each_point(ExponentialHistogram, zero_count=lambda value: value + 1),
    "flags": each_point(ExponentialHistogram, flags=lambda _: 1),
    "shifted buckets": each_point(ExponentialHistogram, positive=_shifted),
    "the other sign": points(
        ExponentialHistogram,
        lambda p: [dataclasses.replace(p, positive=p.negative, negative=p.positive)],
    ),
    "a scale without its buckets": each_point(ExponentialHistogram, scale=lambda scale: scale - 1),
    "a coarser scale": points(ExponentialHistogram, coarser(1)),
    "a point less": points(Sum, lambda p: [p] if p.attributes != {"a": 8} else []),
    "a point more": points(Gauge, lambda p: [p, dataclasses.replace(p, attributes={"b": 1})]),
    "a point twice": points(Sum, lambda p: [p, p]),
    "a type of an attribute": each_point(
        Sum, attributes=lambda each: {key: float(value) for key, value in each.items()}
    ),
    "an attribute": each_point(Sum, attributes=lambda each: {**each, "b": None}),
    "exemplars": each_point(Gauge, exemplars=lambda _: [None]),
    "a metric less": metrics(lambda metric: [metric] if metric.name != "gauge" else []),
    "a metric twice": metrics(lambda metric: [metric, metric]),
    "an empty metric": data_with(data_points=[]),
    "a name": metrics(lambda metric: [dataclasses.replace(metric, name=metric.name.upper())]),
    "a unit": metrics(lambda metric: [dataclasses.replace(metric, unit="b")]),
    "a description": metrics(lambda metric: [dataclasses.replace(metric, description="d")]),
    "monotonic": data_with(is_monotonic=True),
    "cumulative": data_with(aggregation_temporality=AggregationTemporality.CUMULATIVE),
    "delta": data_with(aggregation_temporality=AggregationTemporality.DELTA),
    "a scope": scopes(
        lambda each: [
            dataclasses.replace(each, scope=InstrumentationScope("x", schema_url=each.schema_url))
        ]
    ),
    "a scope twice": scopes(lambda each: [each, each]),
    "an empty scope": scopes(lambda each: [dataclasses.replace(each, metrics=[])]),
    "a schema": scopes(lambda each: [dataclasses.replace(each, schema_url="https://other")]),
    "a resource": collections(
        lambda _, data: dataclasses.replace(
            data,
            resource_metrics=[
                dataclasses.replace(each, resource=Resource({})) for each in data.resource_metrics
            ],
        )
    ),
    "a resource twice": collections(
        lambda _, data: dataclasses.replace(data, resource_metrics=data.resource_metrics * 2)
    ),
    "nothing": collections(lambda number, data: data if number else None),
    "the collection before": lambda played: played._replace(
        collections=[*played.collections[:-1], played.collections[-3]]
    ),
    "an error": lambda played: played._replace(
        collections=[each._replace(data=None, error=OSError()) for each in played.collections]
    ),
    "what measuring raises": lambda played: played._replace(raised={0: TypeError}),
    "a start that changes": collections(_earlier),
    "no start": each_point(Histogram, start_time_unix_nano=lambda _: 0),
    "a start after the end": each_point(Histogram, start_time_unix_nano=lambda start: start * 2),
    "a gauge with a start": each_point(Gauge, start_time_unix_nano=lambda _: 1),
}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_noticed(change: Change) -> None:
    """In what equals the SDK's but for one thing."""
    assert compare(FULL, play(stock, FULL), change(play(stock, FULL)))


@pytest.mark.parametrize(
    ("moved", "noticed"), [(0, False), (-1, True), (1, True)], ids=["not", "overlap", "gap"]
)
def test_delta_intervals_that_do_not_meet_are_noticed(moved: int, noticed: bool) -> None:
    """Each begins where the reader's last one ended, neither before nor after."""
    first = [True]

    def start(value: int) -> int:
        moved_by = 0 if first[0] else moved
        first[0] = False
        return value + moved_by

    scenario = Scenario(
        [Instrument("Counter")],
        [Measure(0, 1), Collect(), Measure(0, 1), Collect()],
        readers=[Reader(KINDS)],
    )
    changed = each_point(Sum, start_time_unix_nano=start)(play(stock, scenario))
    assert bool(compare(scenario, play(stock, scenario), changed)) == noticed
