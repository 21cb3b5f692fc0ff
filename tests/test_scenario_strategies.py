# SPDX-License-Identifier: Apache-2.0
"""The scripts that hypothesis makes up reach what they are for."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

from hypothesis import HealthCheck, Phase, given, settings
from scenario_strategies import scenarios
from scenarios import Played, Scenario, play, stock
from script import OVERFLOWN
from sdk_version import todays_sdk
from streams import Exponential, Number, Stream, streams_of_data

pytestmark = todays_sdk

KINDS = (
    "delta Sum",
    "cumulative Sum",
    "Gauge",
    "delta Histogram",
    "cumulative Histogram",
    "delta ExponentialHistogram",
    "cumulative ExponentialHistogram",
)
REACHED = {
    *KINDS,
    *(f"{kind} overflows" for kind in KINDS),
    "described by a view",
    "named by a view",
    "bool",
    "int",
    "float",
    "Decimal",
    "Fraction",
    "a counter decreases",
    "no extremes",
    "two streams of one name",
    "zeros",
    "both signs",
    "scale < 0",
    "0 < scale < 20",
    "nothing",
    "TypeError",
    "OverflowError",
    "three readers",
}


def _of_stream(stream: Stream) -> Iterator[str]:
    key = stream.key
    prefix = {1: "delta ", 2: "cumulative "}.get(key.temporality or 0, "")
    kind = prefix + key.kind
    yield kind
    yield from ["described by a view"] * (key.description == "seen")
    yield from ["named by a view"] * (key.name == "Renamed")
    for attributes, point in zip(stream.attributes, stream.points, strict=True):
        if attributes == OVERFLOWN:
            yield f"{kind} overflows"
        if isinstance(point, Number):
            yield type(point.value).__name__
            if key.monotonic and point.value < 0:
                yield "a counter decreases"
            continue
        if point.min is not None and math.isinf(point.min):
            yield "no extremes"
        if isinstance(point, Exponential):
            yield from ["zeros"] * bool(point.zeros)
            yield from ["both signs"] * bool(point.positive and point.negative)
            yield from ["scale < 0"] * (point.scale < 0)
            yield from ["0 < scale < 20"] * (0 < point.scale < 20)


def _reached(scenario: Scenario, played: Played) -> Iterator[str]:
    yield from (each.__name__ for each in played.raised.values())
    yield from ["three readers"] * (len(scenario.readers) == 3)
    for collection in played.collections:
        streams = streams_of_data(collection.data)
        yield from ["nothing"] * (not streams)
        counts = Counter(stream.key for stream in streams)
        yield from ["two streams of one name"] * (max(counts.values(), default=0) > 1)
        for stream in streams:
            yield from _of_stream(stream)


def test_the_scripts_reach_everything() -> None:
    """Every kind of stream, with every temporality, from views and overflowing, and the odd values."""
    reached: Counter[str] = Counter()

    @settings(
        max_examples=1_000,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(scenarios)
    def reach(scenario: Scenario) -> None:
        reached.update(set(_reached(scenario, play(stock, scenario))))

    reach()
    assert set(reached) >= REACHED, REACHED - set(reached)
