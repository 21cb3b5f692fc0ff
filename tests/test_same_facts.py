# SPDX-License-Identifier: Apache-2.0
"""Facts of the SDK that are easy to get wrong, one by one: they hold, and are the same with it."""

from __future__ import annotations

import fractions
import math
from typing import Any

import pytest
from compared import compared, streams, values
from points import exact
from scenario_strategies import KINDS
from scenarios import (
    FAIL,
    JUNK,
    Aggregation,
    Collect,
    Hidden,
    Instrument,
    Measure,
    Observe,
    Reader,
    Scenario,
    Seen,
    Shown,
    View,
)
from sdk_version import todays_sdk

pytestmark = todays_sdk

DELTA = Reader(KINDS)
EXPONENTIAL = Aggregation("ExponentialBucketHistogram")

# --- amounts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Counter", "UpDownCounter", "Histogram", "Gauge"])
@pytest.mark.parametrize("amount", [None, "1", 10**400, math.nan, math.inf, -math.inf], ids=str)
def test_amounts_that_are_refused(kind: str, amount: Any) -> None:
    """What is no number raises; what is not finite does not, and neither makes a point."""
    kept = compared(Scenario([Instrument(kind)], [Measure(0, amount), Collect()]))
    assert streams(kept) == []
    raises = {str: TypeError, type(None): TypeError, int: OverflowError}
    assert kept.raised == ({0: raises[type(amount)]} if type(amount) in raises else {})


@pytest.mark.parametrize(
    ("kind", "amounts", "expected"),
    [
        ("Counter", (0,), 0),
        ("Counter", (1, -1, 2), 3),
        ("Counter", (True, 2), 3),
        ("Counter", (1, 1.5), 2.5),
        ("Counter", (1, 1.0, 1), 3.0),
        ("Counter", (2**53, 1), 2**53 + 1),
        ("Counter", (fractions.Fraction(1, 4), 1), 1.25),
        ("UpDownCounter", (1, -1), 0),
        ("UpDownCounter", (-(2**60), -(2**60)), -(2**61)),
        ("Gauge", (5, -3), -3),
        ("Gauge", (1, True), 1),
        ("Gauge", (0,), 0),
    ],
)
def test_amounts(kind: str, amounts: tuple[Any, ...], expected: Any) -> None:
    """Zero makes a series, a counter takes no negative amount, ints stay ints until a float comes."""
    measured = [Measure(0, amount) for amount in amounts]
    kept = compared(Scenario([Instrument(kind)], [*measured, Collect()]))
    assert exact(values(kept)) == exact({"{}": expected})


# --- attributes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sets", "series"),
    [
        ([{"a": 1}, {"a": True}, {"a": 1.0}, {"a": "1"}, {"a": b"1"}], 5),
        ([{"a": [1, 2]}, {"a": (1, 2)}, {"a": range(1, 3)}], 1),
        ([{"a": (1,)}, {"a": (True,)}, {"a": (1.0,)}], 3),
        ([{"a": {"x": 1}}, {"a": {"x": True}}, {"a": (("x", 1),)}], 3),
        ([{"a": 0.0}, {"a": -0.0}], 1),
        ([{"a": 0}, {"a": False}, {"a": ""}, {"a": None}, {}], 5),
        ([{}, None, {"": 1}], 1),
        ([{"a": 1, "b": 2}, {"b": 2, "a": 1}], 1),
        ([{5: 1}, {"5": 1}], 1),
        ([{"a": Shown()}, {"a": "Shown()"}], 1),
        ([{"a": Hidden()}, {"a": None}], 1),
        (["a", [("a", 1)], None], 1),
    ],
    ids=repr,
)
@pytest.mark.parametrize("kind", ["Counter", "ObservableCounter"])
def test_which_attributes_are_one_series(kind: str, sets: list[Any], series: int) -> None:
    """Types count at every level, order does not; what is illegal is made legal first."""
    scenario = Scenario(
        [Instrument(kind, callbacks=("list",) if kind == "ObservableCounter" else ())],
        [
            *(Measure(0, 1, each) for each in sets if kind == "Counter"),
            *([Observe(0, [Seen(1, each) for each in sets])] if kind != "Counter" else []),
            Collect(),
        ],
    )
    kept = values(compared(scenario))
    assert len(kept) == series
    assert sum(kept.values()) == len(sets)


# --- observables ---------------------------------------------------------------------------------


def test_the_same_attributes_twice() -> None:
    """In one collection and over several callbacks sums add them up; of a gauge the last counts."""
    for kind, expected in (("ObservableCounter", 13), ("ObservableGauge", 1)):
        scenario = Scenario(
            [Instrument(kind, callbacks=("list", "yield"))],
            [Observe(0, [Seen(5), Seen(7)], 0), Observe(0, [Seen(1)], 1), Collect()],
        )
        assert values(compared(scenario)) == {"{}": expected}


def test_a_callback_that_fails() -> None:
    """What it had yielded stays, and other callbacks and instruments are asked."""
    scenario = Scenario(
        [
            Instrument("ObservableUpDownCounter", callbacks=("list", "list", "generator")),
            Instrument("ObservableGauge", "b", callbacks=("list",)),
        ],
        [
            Observe(0, [Seen(1, {"a": 1}), FAIL, Seen(2, {"a": 2})], 0),
            Observe(0, [Seen(3, {"a": 3}), JUNK, Seen(4, {"a": 4})], 1),
            Observe(0, [Seen(math.nan, {"a": 5}), Seen(6, {"a": 6})], 2),
            Observe(1, [Seen(7)]),
            Collect(),
        ],
    )
    found = {each.key.name: each.attributes for each in streams(compared(scenario))}
    assert sorted(map(exact, found["a"])) == ["{'a': 1}", "{'a': 3}", "{'a': 6}"]
    assert found["b"] == [{}]


@pytest.mark.parametrize("reader", [Reader(), DELTA], ids=["cumulative", "delta"])
@pytest.mark.parametrize("kind", ["ObservableCounter", "ObservableUpDownCounter"])
def test_what_was_not_observed_is_no_point(kind: str, reader: Reader) -> None:
    """It comes back with the total it has then, or the difference to what it had before."""
    scenario = Scenario(
        [Instrument(kind, callbacks=("list",))],
        [
            *(Observe(0, [Seen(5, {"a": 1}), Seen(1)]), Collect()),
            *(Observe(0, [Seen(1)]), Collect()),
            *(Observe(0, [Seen(7, {"a": 1})]), Collect()),
            *(Observe(0, []), Collect()),
        ],
        readers=[reader],
    )
    kept = compared(scenario)
    delta = reader is DELTA
    assert values(kept, 0) == {"{'a': 1}": 5, "{}": 1}
    assert values(kept, 1) == {"{}": 0 if delta else 1}
    assert values(kept, 2) == {"{'a': 1}": 2 if delta else 7}
    assert values(kept, 3) == {}


@pytest.mark.parametrize("kind", ["ObservableCounter", "ObservableUpDownCounter"])
def test_what_is_observed_to_decrease(kind: str) -> None:
    """A counter was reset and its delta is what it has counted since; others may fall."""
    scenario = Scenario(
        [Instrument(kind, callbacks=("list",))],
        [
            *(Observe(0, [Seen(5)]), Collect(), Collect(1)),
            *(Observe(0, [Seen(2)]), Collect(), Collect(1)),
            *(Observe(0, [Seen(9)]), Collect(), Collect(1)),
        ],
        readers=[DELTA, Reader()],
    )
    kept = compared(scenario)
    falls = 2 if kind == "ObservableCounter" else -3
    assert [values(kept, n)["{}"] for n in range(6)] == [5, 5, falls, 2, 7, 9]


# --- several readers, delta ----------------------------------------------------------------------


def test_readers_do_not_disturb_each_other() -> None:
    """Each has its own intervals, at its own pace."""
    scenario = Scenario(
        [Instrument("Counter")],
        [
            *(Measure(0, 1), Collect(0)),
            *(Measure(0, 2), Collect(1), Collect(2)),
            *(Measure(0, 4), Collect(0), Collect(1), Collect(2)),
        ],
        readers=[DELTA, DELTA, Reader()],
    )
    kept = compared(scenario)
    assert [values(kept, n)["{}"] for n in range(6)] == [1, 3, 3, 6, 4, 7]


def test_what_one_reader_missed_is_not_lost_to_it() -> None:
    """Its next difference is to what it got last, whatever other readers got in between."""
    scenario = Scenario(
        [Instrument("ObservableCounter", callbacks=("list",))],
        [
            *(Observe(0, [Seen(5)]), Collect(0), Collect(1)),
            *(Observe(0, [Seen(7)]), Collect(1)),
            *(Observe(0, []), Collect(0)),
            *(Observe(0, [Seen(9)]), Collect(0), Collect(1)),
        ],
        readers=[DELTA, DELTA],
    )
    kept = compared(scenario)
    assert [values(kept, n).get("{}") for n in range(6)] == [5, 5, 2, None, 4, 2]


@pytest.mark.parametrize(
    ("kind", "amounts", "expected"),
    [
        ("Counter", (0,), {"{}": 0}),
        ("UpDownCounter", (1, -1), {"{}": 0}),
        ("Gauge", (5,), {"{}": 5}),
        ("Counter", (), {}),
        ("UpDownCounter", (), {}),
        ("Gauge", (), {}),
    ],
)
def test_delta_has_what_was_measured_since(
    kind: str, amounts: tuple[int, ...], expected: dict[str, int]
) -> None:
    """Whether or not it changed anything, and nothing else."""
    measured = [Measure(0, amount) for amount in amounts]
    scenario = Scenario(
        [Instrument(kind)], [Measure(0, 5), Collect(), *measured, Collect()], readers=[DELTA]
    )
    assert values(compared(scenario)) == expected


@pytest.mark.parametrize("aggregation", ["ExplicitBucketHistogram", "ExponentialBucketHistogram"])
def test_a_delta_histogram_has_extremes_of_its_own(aggregation: str) -> None:
    """Minimum and maximum are those of the interval, for each reader."""
    scenario = Scenario(
        [Instrument("Histogram")],
        [
            *(Measure(0, 1), Measure(0, 100), Collect(0)),
            *(Measure(0, 10), Measure(0, 20.5), Collect(0), Collect(1), Collect(2)),
        ],
        readers=[DELTA, DELTA, Reader()],
        views=[View({"instrument_name": "*"}, Aggregation(aggregation))],
    )
    kept = compared(scenario)
    found = [streams(kept, n)[0].points[0] for n in range(4)]
    assert [(p.count, p.sum, p.min, p.max) for p in found] == [
        (2, 101, 1, 100),
        (2, 30.5, 10, 20.5),
        (4, 131.5, 1, 100),
        (4, 131.5, 1, 100),
    ]
