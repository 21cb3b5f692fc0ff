# SPDX-License-Identifier: Apache-2.0
"""Each deviation from the SDK that the comparison allows is needed, and allows no more than it says."""

from __future__ import annotations

import dataclasses
import decimal
from typing import Any, NamedTuple

import pytest
from changes import Change, coarser, collections, each_point, metrics, points, scopes
from comparison import (
    DELTA_START,
    DEVIATIONS,
    DOUBLE_EXTREMES,
    EXACT_INTS,
    FLOAT_FOR_EVER,
    FLOAT_SUMS,
    LOST_MERGE,
    NO_EXTREMES,
    ONE_STREAM,
    ORDER,
    OVERFLOW,
    OVERFLOWN_GAUGE,
    POSITIVE_ZERO,
    RESET,
    SCALE,
    Deviation,
    compare,
)
from opentelemetry.sdk.metrics.export import ExponentialHistogram, Gauge, Histogram, Sum
from scenario_strategies import KINDS
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
    Seen,
    View,
    play,
    stock,
)
from script import OVERFLOWN
from sdk_version import todays_sdk
from streams import as_number, positive_zeros

pytestmark = todays_sdk

DELTA = Reader(KINDS)
EXPONENTIAL = View({"instrument_name": "*"}, Aggregation("ExponentialBucketHistogram"))


class Case(NamedTuple):
    """A script that shows a deviation."""

    deviation: Deviation
    scenario: Scenario
    ours: Change  # makes of what the SDK made what we make
    wrong: Change | None = None  # makes something near that, which is not allowed


def _at(number: int, change: Change) -> Change:
    """The change for one collection only."""

    def changed(place: int, data: Any) -> Any:
        if place != number:
            return data
        return change(Played({}, [Collection(0, data)])).collections[0].data

    return collections(changed)


def _turned(played: Played) -> Played:
    """Metrics and points in the opposite order."""
    turn = metrics(
        lambda metric: [
            dataclasses.replace(
                metric,
                data=dataclasses.replace(metric.data, data_points=metric.data.data_points[::-1]),
            )
        ]
    )
    turn_scopes = scopes(lambda each: [dataclasses.replace(each, metrics=each.metrics[::-1])])
    return turn_scopes(turn(played))


def _begins_with_the_first(played: Played) -> Played:
    """The second collection's points begin where the first one ended."""
    first = played.collections[0].data
    assert first is not None
    end = first.resource_metrics[0].scope_metrics[0].metrics[0].data.data_points[0].time_unix_nano
    return _at(1, each_point(Sum, start_time_unix_nano=lambda _: end))(played)


def _other_overflow(value: int) -> Change:
    """Of {"a": 1} = 1, {"a": 2} = 2 and {"a": 3} = 4 the first and last overflow, with this value."""

    def change(point: Any) -> list[Any]:
        if point.attributes == OVERFLOWN:
            return [dataclasses.replace(point, value=value)]
        return [dataclasses.replace(point, attributes={"a": 2}, value=2)]

    return points(Sum, change)


def _without_error(played: Played) -> Played:
    return played._replace(collections=[each._replace(error=None) for each in played.collections])


def _first_metric(played: Played) -> Played:
    return scopes(lambda each: [dataclasses.replace(each, metrics=each.metrics[:1])])(played)


def _no_metric(played: Played) -> Played:
    return collections(lambda number, data: None)(played)


def _overflowing(kind: str, reader: Reader) -> Scenario:
    return Scenario(
        [Instrument(kind)],
        [*(Measure(0, 2**n, {"a": n + 1}) for n in range(3)), Collect()],
        readers=[dataclasses.replace(reader, limits={kind: 1})],
    )


CASES = [
    Case(
        ORDER,
        Scenario(
            [Instrument("Counter", "a"), Instrument("Counter", "b")],
            [Measure(0, 1, {"a": 1}), Measure(0, 1), Measure(1, 1), Collect()],
        ),
        _turned,
    ),
    Case(
        EXACT_INTS,
        Scenario(
            [Instrument("Gauge", "a"), Instrument("Gauge", "b"), Instrument("Counter", "c")],
            [Measure(0, True), Measure(1, decimal.Decimal("0.5")), Measure(2, 2**70), Collect()],
        ),
        each_point((Sum, Gauge), value=as_number),
        each_point((Sum, Gauge), value=lambda value: as_number(value) + 1),
    ),
    Case(
        FLOAT_FOR_EVER,
        Scenario(
            [Instrument("Counter")],
            [Measure(0, 0.5), Collect(), Measure(0, 1), Collect()],
            readers=[DELTA],
        ),
        each_point(Sum, value=float),
        each_point(Sum, value=lambda value: value + 1e-6),
    ),
    Case(
        FLOAT_SUMS,
        Scenario([Instrument("Counter")], [Measure(0, 0.1), Collect()]),
        each_point(Sum, value=lambda value: value * (1 + 1e-12)),
        each_point(Sum, value=lambda value: value * (1 + 1e-8)),
    ),
    Case(
        DOUBLE_EXTREMES,
        Scenario([Instrument("Histogram")], [Measure(0, 3), Measure(0, 4), Collect()]),
        each_point(Histogram, min=float, max=float),
        each_point(Histogram, min=lambda value: value + 1e-12),
    ),
    Case(
        NO_EXTREMES,
        Scenario(
            [Instrument("Histogram")],
            [Measure(0, 3), Collect()],
            views=[
                View(
                    {"instrument_name": "*"},
                    Aggregation("ExplicitBucketHistogram", {"record_min_max": False}),
                )
            ],
        ),
        each_point(Histogram, min=lambda _: None, max=lambda _: None),
        each_point(Histogram, min=lambda _: 3, max=lambda _: 3),
    ),
    Case(
        POSITIVE_ZERO,
        Scenario([Instrument("Counter")], [Measure(0, 3, {"a": (-0.0,)}), Collect()]),
        each_point(Sum, attributes=positive_zeros),
        each_point(Sum, attributes=lambda _: {"a": (0,)}),
    ),
    Case(
        RESET,
        Scenario(
            [Instrument("ObservableCounter", callbacks=("list",))],
            [
                *(Observe(0, [Seen(5)]), Collect()),
                *(Observe(0, [Seen(2)]), Collect()),
                *(Observe(0, [Seen(3)]), Collect()),
            ],
            readers=[DELTA],
        ),
        each_point(Sum, value=lambda value: 2 if value == -3 else value),
        each_point(Sum, value=lambda value: 0 if value == -3 else value),
    ),
    Case(
        DELTA_START,
        Scenario(
            [Instrument("Counter", "a"), Instrument("Counter", "b")],
            [Measure(0, 1), Collect(), Measure(1, 1), Collect()],
            readers=[DELTA],
        ),
        _begins_with_the_first,
        lambda played: played,  # as the SDK has it
    ),
    Case(OVERFLOW, _overflowing("Counter", DELTA), _other_overflow(5), _other_overflow(6)),
    Case(
        OVERFLOWN_GAUGE,
        _overflowing("Gauge", Reader()),
        each_point(Gauge, value=lambda value: min(value, 2)),
        each_point(Gauge, value=lambda value: min(value, 3)),
    ),
    Case(
        SCALE,
        Scenario(
            [Instrument("Histogram")],
            [Measure(0, 3), Measure(0, 17.5), Collect()],
            views=[EXPONENTIAL],
            readers=[DELTA],
        ),
        points(ExponentialHistogram, coarser(2)),
        each_point(ExponentialHistogram, scale=lambda scale: scale - 2),
    ),
    Case(
        ONE_STREAM,
        Scenario(
            [Instrument("Counter")],
            [Measure(0, 3), Collect()],
            views=[View({"instrument_name": "*"}), View({"instrument_type": "Counter"})],
        ),
        _first_metric,
        _no_metric,
    ),
    Case(
        LOST_MERGE,
        Scenario(
            [Instrument("Histogram")],
            [Measure(0, 0), Collect(), Measure(0, 1000), Collect()],
            views=[
                View(
                    {"instrument_name": "*"},
                    Aggregation("ExponentialBucketHistogram", {"max_size": 4}),
                )
            ],
        ),
        _without_error,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.deviation.name)
def test_what_is_ours_on_purpose_is_allowed(case: Case) -> None:
    """With the deviation it is no difference; without it, it is."""
    theirs = play(stock, case.scenario)
    ours = case.ours(play(stock, case.scenario))
    assert compare(case.scenario, theirs, ours) == []
    if case.deviation is not DELTA_START:  # which says what starts must be: no two are compared
        assert compare(case.scenario, theirs, ours, set(DEVIATIONS) - {case.deviation})


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.wrong], ids=lambda case: case.deviation.name
)
def test_what_is_near_a_deviation_is_not_allowed(case: Case) -> None:
    """No deviation stands for more than it says."""
    assert case.wrong is not None
    theirs = play(stock, case.scenario)
    assert compare(case.scenario, theirs, case.wrong(play(stock, case.scenario)))


def test_every_deviation_has_a_case() -> None:
    """Each once, and each says why."""
    assert [case.deviation for case in CASES] == list(DEVIATIONS)
    assert all(deviation.why for deviation in DEVIATIONS)
