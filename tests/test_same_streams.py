# SPDX-License-Identifier: Apache-2.0
"""Histograms, views and limits: facts that are easy to get wrong hold, and are the same with the SDK."""

from __future__ import annotations

import pytest
from compared import compared, streams, values
from points import exact
from scenario_strategies import KINDS
from scenarios import (
    Aggregation,
    Collect,
    Instrument,
    Measure,
    Observe,
    Reader,
    Scenario,
    Scope,
    Seen,
    View,
)
from script import OVERFLOWN
from sdk_version import todays_sdk

pytestmark = todays_sdk

DELTA = Reader(KINDS)
EXPONENTIAL = Aggregation("ExponentialBucketHistogram")

# --- histograms ----------------------------------------------------------------------------------


def test_buckets_include_their_upper_bound() -> None:
    """Boundaries are the view's, else those advised, else the default ones."""
    scenario = Scenario(
        [
            Instrument("Histogram", "a", advisory=(1, 2.5)),
            Instrument("Histogram", "b", advisory=(1, 2.5)),
            Instrument("Histogram", "c"),
            Instrument("Counter", "d"),
            Instrument("Histogram", "e", advisory=()),
        ],
        [*(Measure(n, amount) for n in range(5) for amount in (0, 1, 2.5, 3, 10_000)), Collect()],
        views=[
            View({"instrument_name": "b"}, Aggregation("ExplicitBucketHistogram")),
            View({"instrument_name": "[cd]"}, Aggregation("ExplicitBucketHistogram")),
        ],
    )
    found = {each.key.name: each.points[0] for each in streams(compared(scenario))}
    assert found["a"].counts == found["b"].counts == (2, 1, 2)
    assert found["c"].counts == found["d"].counts == (1, 3) + (0,) * 12 + (1, 0)
    assert found["e"].counts == (5,)
    assert all(point.count == sum(point.counts) == 5 for point in found.values())


@pytest.mark.parametrize("reader", [Reader(), DELTA], ids=["cumulative", "delta"])
@pytest.mark.parametrize("size", [2, 4, 160])
def test_exponential_buckets_include_their_upper_bound(size: int, reader: Reader) -> None:
    """Powers of two are upper bounds; the scale is the finest at which all have room."""
    amounts = (1, 2, 4, 1024, 0.5, 3.7, 1e-9)
    scenario = Scenario(
        [Instrument("Histogram")],
        [*(Measure(0, amount) for amount in amounts), Collect(), Measure(0, 1e30), Collect()],
        views=[
            View(
                {"instrument_name": "*"},
                Aggregation("ExponentialBucketHistogram", {"max_size": size}),
            )
        ],
        readers=[reader],
    )
    point = streams(compared(scenario), 0)[0].points[0]
    assert (point.count, sum(point.positive.values()), point.zeros) == (7, 7, 0)


def test_exponential_histograms_have_both_signs_and_zeros() -> None:
    """Each sign has its buckets, at one scale; zeros are counted apart."""
    scenario = Scenario(
        [Instrument("UpDownCounter")],
        [*(Measure(0, amount) for amount in (3, -3, 0, -0.0, 100, -7.5)), Collect()],
        views=[View({"instrument_name": "*"}, EXPONENTIAL)],
    )
    point = streams(compared(scenario))[0].points[0]
    assert (point.zeros, sum(point.positive.values()), sum(point.negative.values())) == (2, 2, 2)
    assert (point.min, point.max, point.sum) == (-7.5, 100, 92.5)


# --- views and limits ----------------------------------------------------------------------------


def test_names_and_units_tell_instruments_apart() -> None:
    """Case of a name does not; unit, description, kind and scope do."""
    scenario = Scenario(
        [
            Instrument("Counter", "requests"),
            Instrument("Counter", "Requests"),
            Instrument("Counter", "requests", "s"),
            Instrument("Counter", "requests", "", "d"),
            Instrument("UpDownCounter", "requests"),
            Instrument("Counter", "requests", scope=1),
        ],
        [*(Measure(number, 10**number) for number in range(6)), Collect()],
        scopes=[Scope("scope"), Scope("scope", "2")],
    )
    kept = compared(scenario)
    assert sorted(each.points[0].value for each in streams(kept)) == [11, 100, 1000, 10**4, 10**5]


def test_a_view_that_filters_merges_series() -> None:
    """Each matching view makes a stream; without the attribute two sets are one."""
    scenario = Scenario(
        [Instrument("Counter")],
        [
            Measure(0, 1, {"a": 1, "b": 1}),
            Measure(0, 2, {"a": 1, "b": 2}),
            Measure(0, 4, {"b": 3}),
            Collect(),
        ],
        views=[
            View({"instrument_name": "a", "name": "some", "attribute_keys": {"a"}}),
            View({"instrument_name": "a", "name": "none", "attribute_keys": set()}),
            View({"instrument_type": "Counter", "description": "all"}),
            View({"instrument_name": "a", "name": "gone"}, Aggregation("Drop")),
        ],
    )
    found = {
        each.key.name: sorted(point.value for point in each.points)
        for each in streams(compared(scenario))
    }
    assert found == {"some": [3, 4], "none": [7], "a": [1, 2, 4]}


def test_a_sum_of_a_histogram_is_not_monotonic() -> None:
    """As the SDK has it; a last value of a counter is a gauge."""
    scenario = Scenario(
        [Instrument("Histogram"), Instrument("Counter", "b")],
        [Measure(0, 5), Measure(0, 2), Measure(1, 5), Measure(1, 2), Collect()],
        views=[
            View({"instrument_type": "Histogram"}, Aggregation("Sum")),
            View({"instrument_type": "Counter"}, Aggregation("LastValue")),
        ],
    )
    found = {each.key.name: each for each in streams(compared(scenario))}
    assert (found["a"].key.kind, found["a"].key.monotonic) == ("Sum", False)
    assert (found["b"].key.kind, found["b"].key.monotonic) == ("Gauge", None)
    assert [found[name].points[0].value for name in ("a", "b")] == [7, 2]


def test_a_histogram_of_an_observable_is_not_made() -> None:
    """Such a view does not match; a reader that wants it by default gets nothing."""
    scenario = Scenario(
        [Instrument("ObservableCounter", callbacks=("list",))],
        [Observe(0, [Seen(5)]), Collect(0), Collect(1)],
        views=[View({"instrument_name": "*", "name": None}, EXPONENTIAL)],
        readers=[Reader(), Reader(aggregations={"ObservableCounter": EXPONENTIAL})],
    )
    kept = compared(scenario)
    assert values(kept, 0) == {"{}": 5}
    assert streams(kept, 1) == []


@pytest.mark.parametrize("reader", [Reader(), DELTA], ids=["cumulative", "delta"])
def test_the_overflow_point_comes_in_addition(reader: Reader) -> None:
    """As many sets as the limit are kept, a view's before a reader's; the rest is in one point."""
    scenario = Scenario(
        [Instrument("Counter", "a"), Instrument("Counter", "b")],
        [
            *(Measure(number, 2**n, {"n": n}) for number in range(2) for n in range(5)),
            Collect(),
            *(Measure(number, 100, {"n": 0}) for number in range(2)),
            Collect(),
        ],
        readers=[Reader(reader.delta, limits={"Counter": 2})],
        views=[View({"instrument_name": "b", "aggregation_cardinality_limit": 4})],
    )
    kept = compared(scenario)
    overflow = exact(OVERFLOWN)
    for name, limit in (("a", 2), ("b", 4)):
        (found,) = (each for each in streams(kept, 0) if each.key.name == name)
        sets = [exact(attributes) for attributes in found.attributes]
        assert len(sets) == limit + 1
        assert overflow in sets
        assert sum(point.value for point in found.points) == 31


def test_as_many_sets_as_the_limit_do_not_overflow() -> None:
    """Nor do sets that a view makes equal."""
    scenario = Scenario(
        [Instrument("Counter", "a"), Instrument("Counter", "b")],
        [
            *(Measure(0, 1, {"n": n}) for n in range(3)),
            *(Measure(1, 1, {"n": n, "a": n % 3}) for n in range(9)),
            Collect(),
        ],
        readers=[Reader(limits={"Counter": 3})],
        views=[View({"instrument_name": "b", "attribute_keys": {"a"}})],
    )
    for found in streams(compared(scenario)):
        assert OVERFLOWN not in list(found.attributes)
        assert len(found.points) == 3
