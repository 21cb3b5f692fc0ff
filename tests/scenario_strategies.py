# SPDX-License-Identifier: Apache-2.0
"""Scripts that hypothesis makes up: odd, but such that the SDK and we may be compared.

Hypothesis draws bytes, a few for each part of the script, and each byte chooses among what stands
here: ten times as fast as drawing every choice, and parts and bytes still shrink away.

Left out is what cannot be compared: attribute values that OTLP cannot carry, enums and several NaNs as
attributes, scopes that are equal but for the types of their attributes, sums past the doubles.
"""

from __future__ import annotations

import dataclasses
import decimal
import fractions
import math
from collections import deque
from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Any, TypeVar

from hypothesis import strategies as st
from scenarios import (
    CLASSES,
    END,
    FAIL,
    JUNK,
    NOTHING,
    OBSERVABLES,
    Aggregation,
    Collect,
    Hidden,
    Instrument,
    Measure,
    Observe,
    Reader,
    Scenario,
    Scope,
    Seen,
    Shown,
    View,
)

T = TypeVar("T")

KINDS = tuple(CLASSES)
NAMES = ("a", "A", "b", "a.b", "requests", "Requests")
UNITS = ("", "", "s", "S", "{x}")
DESCRIPTIONS = ("", "", "d", "größe ☃")
CALLBACKS = (("list",), ("yield",), ("generator",), ("list", "list"), ("yield", "generator"), ())
SCOPES = (
    Scope("scope"),
    Scope("scope", "1"),
    Scope("scope", "1", "https://schema"),
    Scope("scope", "1", "https://schema", {"k": 1, "l": ("x", True)}),
    Scope("größe"),
)
BOUNDARIES = (5, 0, 0.1, 1, 2.5, -10, -0.5, 10, 1000.0, 1e6, 1e300)

ALIKE = (1, True, 1.0, "1", b"1", (1,), (True,), ("1",), {"x": 1}, {"x": True}, (("x", 1),))
EMPTY: tuple[Any, ...] = (0, False, 0.0, -0.0, "", b"", (), {}, None, (None,), {"x": {}})
OTHER = ("b", "größe ☃", -3, 2.5, 2**63 - 1, [1, 2], (1, 2), math.nan, {"x": {"y": [1, "z"]}})
VALUES = (*ALIKE, *ALIKE, *EMPTY, *OTHER)
ODD_VALUES = (
    range(1, 3),
    bytearray(b"ab"),
    deque([1]),
    MappingProxyType({"x": 1}),
    Shown(),
    Hidden(),
    {"": 1, "x": 2},
    {5: 1},
    (Shown(), {"x": Hidden()}),
)
ODD_KEYS = ("a", "b", "", 5, 5.5, Shown(), None)
NO_MAPPINGS = ([("a", 1)], "a", 5)

REFUSED = (math.nan, math.inf, -math.inf, None, "1", 10**400)  # by all instruments
SMALL = (1, 2, 0, 3, 5, 7, 10, 100, 2500, -1, -4, True, False)
LARGE = (2**31, 2**53 + 1, 2**57 + 3, -(2**53) - 1)  # sums of them stay below 8.07e18
PAST = (2**63, 2**64 + 1, 2**70, -(2**63) - 1)
# Which are doubles, so that both sides know the same number.
DECIMALS = (decimal.Decimal("0.5"), decimal.Decimal("-2.25"), decimal.Decimal(3))
FRACTIONS = (fractions.Fraction(1, 4), fractions.Fraction(7, 2), fractions.Fraction(-3))
FLOATS = (0.5, 1.0, 0.0, -0.0, 0.1, 2.75, 3.3, 1e3, -0.3, -5.5, 9999.5)
# No subnormals: in an exponential histogram the SDK counts them with the smallest normal double, and we
# in their own buckets.
WILD = (1e-300, 2.5e-9, 1e17, 1e200, 1e300, -1e300)


class _Choices:
    """Choices that bytes make; where they end, always the first."""

    def __init__(self, data: bytes) -> None:
        self._data = iter(data)

    def below(self, count: int) -> int:
        """A number of so many."""
        return next(self._data, 0) % count

    def of(self, options: Sequence[T]) -> T:
        """One of them."""
        return options[self.below(len(options))]

    def up_to(self, most: int, make: Callable[[_Choices], T]) -> list[T]:
        """So many of what is made, or fewer."""
        return [make(self) for _ in range(self.below(most + 1))]

    def often(self) -> bool:
        """Seven times in eight."""
        return self.below(8) < 7


def _whole(choices: _Choices) -> int:
    n = choices.below(8)
    return choices.of(SMALL) if n < 4 else choices.of(LARGE) if n == 4 else choices.below(256) * n


def _float(choices: _Choices) -> float:
    if choices.below(2):
        return choices.of(FLOATS)
    return (choices.below(256) - 16 + choices.below(256) / 251) * choices.of((1.0, 1e-3, 17.3))


def _positive(choices: _Choices) -> float:
    return abs(_float(choices)) or 1.5


# A script has amounts of one flavour: the SDK cannot add a Decimal and a float.
FLAVOURS: tuple[Callable[[_Choices], Any], ...] = (
    _whole,
    lambda choices: 1 + choices.below(256),
    _float,
    _positive,
    lambda choices: _whole(choices) if choices.below(2) else _float(choices),
    _whole,
    _float,
    _positive,
    lambda choices: choices.of(FRACTIONS) if choices.below(2) else _whole(choices),
    lambda choices: choices.of(DECIMALS + SMALL),
    lambda choices: choices.of(WILD) if choices.below(2) else _float(choices),
    lambda choices: choices.of(PAST) if choices.below(2) else _whole(choices),
)


def _attributes(choices: _Choices) -> Any:
    """Attributes of a measurement."""
    if choices.often():
        return {
            choices.of(("a", "b", "c")): choices.of(VALUES) for _ in range(choices.of((1, 2, 0, 3)))
        }
    match choices.below(4):
        case 0:
            return None
        case 1:
            return choices.of(NO_MAPPINGS)
        case _:
            return {choices.of(ODD_KEYS): choices.of((*ODD_VALUES, 1)) for _ in range(2)}


def _boundaries(choices: _Choices) -> list[float]:
    return sorted(set(choices.up_to(5, lambda each: each.of(BOUNDARIES))))


HISTOGRAMS = ("ExponentialBucketHistogram", "ExplicitBucketHistogram")
AGGREGATIONS = ("Default", *HISTOGRAMS, "Sum", "LastValue", *HISTOGRAMS, "Drop")


def _aggregation(choices: _Choices) -> Aggregation:
    name = choices.of(AGGREGATIONS)
    options: dict[str, Any] = {}
    if name.endswith("Histogram") and choices.below(3) == 2:
        options["record_min_max"] = False
    if name == "ExponentialBucketHistogram":
        options["max_size"] = choices.of((160, 4, 20, 2, 3, 10))
        options["max_scale"] = choices.of((20, 20, 10, 3, 1, 0, -1, -10))
    if name == "ExplicitBucketHistogram" and choices.below(3) == 2:
        options["boundaries"] = _boundaries(choices)
    return Aggregation(name, options)


def _view(choices: _Choices) -> View:
    """Any criteria, mostly such that they match something, and any options."""
    criteria: dict[str, Sequence[Any]] = {
        "instrument_name": ("*", "a", "a*", "?", "A", "[ab]", "*st*", "x"),
        "instrument_type": KINDS,
        "instrument_unit": ("", "*", "s", "?"),
        "meter_name": ("scope", "größe", "x"),
        "meter_version": ("1", "2"),
        "meter_schema_url": ("https://schema",),
    }
    names = ["instrument_name", choices.of(tuple(criteria))][: 1 + choices.below(2)]
    if choices.below(4) == 3:
        names = [choices.of(tuple(criteria))]
    options = {name: choices.of(criteria[name]) for name in names}
    if choices.below(4) == 3:
        options["description"] = choices.of(("seen", ""))
    if choices.below(3) == 2:
        options["attribute_keys"] = set(
            choices.up_to(3, lambda each: each.of(("a", "b", "x", "5")))
        )
    if choices.below(2):
        options["aggregation_cardinality_limit"] = 1 + choices.below(4)
    if choices.below(3) == 2 and not set("*?") & set(options.get("instrument_name", "")):
        options["name"] = choices.of(("Renamed", "a", "b"))
    return View(options, _aggregation(choices) if choices.often() else None, bool(choices.below(2)))


def _reader(choices: _Choices) -> Reader:
    some = tuple(kind for kind in KINDS if choices.below(2))
    delta = choices.of(((), KINDS, some))
    aggregations: dict[str, Aggregation] = {}
    if choices.below(3) == 2:
        for kind in ("Histogram", *choices.of(((), ("UpDownCounter", "Gauge")))):
            aggregations[kind] = Aggregation("ExponentialBucketHistogram")
    elif choices.below(4) == 3:
        aggregations = {choices.of(KINDS): _aggregation(choices) for _ in range(2)}
    limits: dict[str, int] = {}
    if choices.below(3) == 2:
        limits = dict.fromkeys(KINDS, 1 + choices.below(4))
    elif choices.below(4) == 3:
        limits = {choices.of(KINDS): 1 + choices.below(4) for _ in range(2)}
    return Reader(delta, aggregations, limits)


def _instrument(choices: _Choices, scopes: int, before: Sequence[Instrument]) -> Instrument:
    if before and not choices.often():  # asked for again
        again = choices.of(before)
        return dataclasses.replace(again, name=again.name.swapcase(), callbacks=again.callbacks[:1])
    kind = choices.of((*KINDS, "Histogram", "ObservableCounter"))  # of which there is most to say
    return Instrument(
        kind,
        choices.of(NAMES),
        choices.of(UNITS),
        choices.of(DESCRIPTIONS),
        choices.below(scopes),
        advisory=_boundaries(choices) if kind == "Histogram" and choices.below(3) else None,
        callbacks=choices.of(CALLBACKS) if kind in OBSERVABLES else (),
    )


def _pool(choices: _Choices) -> tuple[list[Any], list[Any]]:
    """The amounts and attribute sets of a script, few enough to be met again."""
    flavour = choices.of(FLAVOURS)
    amounts = [flavour(choices) for _ in range(2 + choices.below(7))]
    # Often of one key, and its values such as are easily taken for each other.
    alike = choices.of((_attributes, lambda each: {"a": each.of((*ALIKE[:4], *EMPTY[:4]))}))
    sets = [alike(choices) for _ in range(1 + choices.below(6))]
    # Some in another order, which makes no other set.
    return amounts, sets + [dict(reversed(each.items())) for each in sets if isinstance(each, dict)]


def _step(
    choices: _Choices, instruments: Sequence[Instrument], amounts: list[Any], sets: list[Any]
) -> Measure | Observe | Collect:
    kind = choices.below(16)
    number = choices.below(len(instruments))
    instrument = instruments[number]

    def amount() -> Any:
        return choices.of(amounts) if choices.often() else choices.of((*REFUSED, *amounts))

    def item(choices: _Choices) -> Any:
        odd = not choices.often() and choices.below(2)
        return choices.of((FAIL, JUNK)) if odd else Seen(amount(), choices.of(sets))

    if kind >= 13 or (instrument.kind in OBSERVABLES and not instrument.callbacks):
        return Collect(choices.below(256))
    if instrument.kind not in OBSERVABLES:
        return Measure(number, amount(), choices.of(sets))
    callback = choices.below(len(instrument.callbacks))
    odd = not choices.often() and choices.below(2)
    items = choices.of((END, NOTHING)) if odd else [item(choices) for _ in range(choices.below(5))]
    return Observe(number, items, callback)


def _scenario(
    pool: bytes,
    scopes: Sequence[Scope],
    instruments: Sequence[bytes],
    views: Sequence[bytes],
    readers: Sequence[bytes],
    steps: Sequence[bytes],
) -> Scenario:
    made: list[Instrument] = []
    for each in instruments:
        made.append(_instrument(_Choices(each), len(scopes), made))
    amounts, sets = _pool(_Choices(pool))
    script = [_step(_Choices(each), made, amounts, sets) for each in steps]
    return Scenario(
        instruments=made,
        steps=[
            *(
                Collect(step.reader % len(readers)) if isinstance(step, Collect) else step
                for step in script
            ),
            *map(Collect, range(len(readers))),
        ],
        readers=[_reader(_Choices(each)) for each in readers],
        views=[_view(_Choices(each)) for each in views],
        scopes=scopes,
    )


def _bytes(size: int, least: int, most: int) -> st.SearchStrategy[list[bytes]]:
    return st.lists(st.binary(min_size=size, max_size=size), min_size=least, max_size=most)


scenarios: st.SearchStrategy[Scenario] = st.tuples(
    st.binary(min_size=64, max_size=64),
    st.lists(st.sampled_from(SCOPES), unique_by=str, min_size=1, max_size=3),
    _bytes(12, 1, 4),
    _bytes(16, 0, 3),
    _bytes(20, 1, 3),
    # The few steps first, so that it shrinks to few; mostly many.
    st.one_of(_bytes(20, 0, 12), *(_bytes(20, least, 40) for least in (8, 12, 16, 24))),
).map(lambda parts: _scenario(*parts))
"""A script of up to 40 steps; at its end every reader collects."""
