# SPDX-License-Identifier: Apache-2.0
"""Compares what the SDK's MeterProvider and ours made of one script, point by point.

Whatever differs is a difference, but for the `DEVIATIONS`: what is ours on purpose. Each is named
here, says why, and can be left out of `allowed`, so a test can show that it is needed. Both the
MetricsData and its OTLP encoding are compared. Clocks differ, so times are not compared: of ours it is
checked that they fit together.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from intervals import Intervals
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.sdk.metrics.export import MetricsData
from points import exact
from resets import ANY, Either, Resets
from scenarios import Played, Scenario, quiet
from script import DELTA, OVERFLOWN, Script
from streams import (
    Exponential,
    Key,
    MalformedError,
    Number,
    Point,
    Stream,
    as_number,
    folded,
    positive_zeros,
    rescaled,
    streams_of_data,
    streams_of_otlp,
)


class Deviation(NamedTuple):
    """Something that is not as the SDK has it, on purpose."""

    name: str
    why: str


ORDER = Deviation("order", "metrics and points come in the order of the buffer's records")
EXACT_INTS = Deviation(
    "numbers", "booleans count as ints; Decimals, Fractions and ints past 64 bits become doubles"
)
FLOAT_FOR_EVER = Deviation(
    "a float for ever",
    "once a float was recorded, the points of a series are floats, delta ones too",
)
FLOAT_SUMS = Deviation(
    "sums of floats",
    "ints and floats are summed apart and deltas are differences of totals, so last digits differ",
)
DOUBLE_EXTREMES = Deviation("double extremes", "min and max are doubles, whatever was recorded")
NO_EXTREMES = Deviation(
    "no min and max", "with record_min_max=False they are left out; the SDK sends inf and -inf"
)
POSITIVE_ZERO = Deviation("positive zero", "-0.0 in attributes is 0.0")
RESET = Deviation(
    "reset",
    "an ObservableCounter that decreases was reset, so its delta is its value; the SDK's is negative",
)
DELTA_START = Deviation(
    "delta start",
    "every delta interval starts where the reader's last one ended; in the SDK new instruments start "
    "when first used and observables when last observed",
)
OVERFLOW = Deviation(
    "overflow",
    "with delta or observables it may be other attribute sets that overflow; totals are the same",
)
OVERFLOWN_GAUGE = Deviation(
    "overflown gauge", "the overflow point of a gauge is any of the values it stands for"
)
SCALE = Deviation(
    "scale",
    "the SDK downscales for zeros, and for a sign that comes later; with delta ours may be coarser",
)
ONE_STREAM = Deviation(
    "one stream", "views that make the same stream of an instrument make it once, not twice"
)
LOST_MERGE = Deviation(
    "lost merge", "the SDK's merge of exponential histograms may fail, and then loses measurements"
)

DEVIATIONS = (
    ORDER,
    EXACT_INTS,
    FLOAT_FOR_EVER,
    FLOAT_SUMS,
    DOUBLE_EXTREMES,
    NO_EXTREMES,
    POSITIVE_ZERO,
    RESET,
    DELTA_START,
    OVERFLOW,
    OVERFLOWN_GAUGE,
    SCALE,
    ONE_STREAM,
    LOST_MERGE,
)


def compare(
    scenario: Scenario, stock: Played, ours: Played, allowed: Collection[Deviation] = DEVIATIONS
) -> list[str]:
    """What differs, a line each.

    Args:
        scenario: the script that both played.
        stock: what the SDK made of it.
        ours: what is compared with that.
        allowed: the deviations that are no differences.
    """
    with quiet():  # encoding and cleaning say again what was said when it was measured
        return list(_Comparison(scenario, frozenset(allowed)).run(stock, ours))


class _Comparison:
    """One comparison, with what must be known of earlier collections."""

    def __init__(self, scenario: Scenario, allowed: frozenset[Deviation]) -> None:
        self._allowed = allowed
        self._script = Script(scenario)
        self._lost: set[int] = set()  # readers of whom the SDK lost measurements
        self._resets = {form: Resets(self._script) for form in _FORMS}
        self._intervals = {
            form: Intervals(self._script, contiguous=DELTA_START in allowed) for form in _FORMS
        }

    def run(self, stock: Played, ours: Played) -> Iterator[str]:
        """The differences."""
        if stock.raised != ours.raised:
            yield f"raised by steps: {stock.raised} != {ours.raised}"
        both = zip(stock.collections, ours.collections, strict=True)
        for number, (theirs, mine) in enumerate(both):
            reader = theirs.reader
            where = f"collection {number}, reader {reader}"
            if theirs.error and LOST_MERGE in self._allowed and "merge scale" in str(theirs.error):
                self._lost.add(reader)
                if mine.error:
                    yield f"{where}: raised {mine.error!r}"
            elif repr(theirs.error) != repr(mine.error):
                yield f"{where}: raised {theirs.error!r} != {mine.error!r}"
            if reader in self._lost:
                continue
            repaired = self._repaired(theirs.data)
            for form in _FORMS:
                for difference in self._collection(form, reader, repaired, mine.data):
                    yield f"{where}, {form}: {difference}"

    def _collection(
        self, form: str, reader: int, theirs: MetricsData | None, mine: MetricsData | None
    ) -> Iterator[str]:
        """Differences of one collection in one form."""
        expected, failed = _streams(form, theirs)
        got, failed_too = _streams(form, mine)
        if failed or failed_too:
            if failed != failed_too:
                yield f"{failed or 'nothing'} != {failed_too or 'nothing'}"
            return
        yield from self._intervals[form].check(reader, got)
        if RESET in self._allowed:
            expected = self._resets[form].applied(reader, expected)
        if ORDER not in self._allowed and _order(expected) != _order(got):
            yield f"order {_order(expected)} != {_order(got)}"
        # Views can make several streams of one name: each finds the one that is most like it.
        left = list(range(len(got)))
        for stream in expected:
            found = {
                number: list(self._stream(reader, stream, mine))
                for number, mine in enumerate(got)
                if mine.key == stream.key
            }
            free = [number for number in found if number in left]
            best = min(free, key=lambda number: len(found[number]), default=None)
            equals_another = ONE_STREAM in self._allowed and not all(found.values())
            if best is not None and not (found[best] and equals_another):
                left.remove(best)
                yield from found[best]
            elif not equals_another:
                yield f"{stream.key}: missing"
        for number in left:
            yield f"{got[number].key}: only ours has it"

    def _repaired(self, data: MetricsData | None) -> MetricsData | None:
        """The SDK's data with numbers that OTLP can carry."""
        if data is None or EXACT_INTS not in self._allowed:
            return data

        def repair(point: Any) -> Any:
            names = ("value", "sum", "min", "max")
            values = {name: getattr(point, name) for name in names if hasattr(point, name)}
            numbers = {name: as_number(value) for name, value in values.items()}
            changed = any(numbers[name] is not values[name] for name in values)
            return dataclasses.replace(point, **numbers) if changed else point

        def mapped(owner: Any, name: str, change: Callable[[Any], Any]) -> Any:
            return dataclasses.replace(
                owner, **{name: [change(each) for each in getattr(owner, name)]}
            )

        def metric(each: Any) -> Any:
            return dataclasses.replace(each, data=mapped(each.data, "data_points", repair))

        def scope(each: Any) -> Any:
            return mapped(each, "metrics", metric)

        repaired: MetricsData = mapped(
            data, "resource_metrics", lambda each: mapped(each, "scope_metrics", scope)
        )
        return repaired

    def _by_attributes(self, stream: Stream) -> dict[str, tuple[Mapping[str, Any], Point]]:
        zero = POSITIVE_ZERO in self._allowed
        return {
            exact(positive_zeros(attributes) if zero else attributes): (attributes, point)
            for attributes, point in zip(stream.attributes, stream.points, strict=True)
        }

    def _stream(self, reader: int, theirs: Stream, mine: Stream) -> Iterator[str]:
        key = theirs.key
        expected, got = self._by_attributes(theirs), self._by_attributes(mine)
        overflows = exact(OVERFLOWN) in expected or exact(OVERFLOWN) in got
        delta = self._script.is_delta(reader, key)
        if overflows and OVERFLOW in self._allowed and (delta or self._script.is_observable(key)):
            yield from self._overflown(key, delta, expected, got)
            return
        if expected.keys() != got.keys():
            yield f"{key}: attributes {sorted(expected)} != {sorted(got)}"
        for text in expected.keys() & got.keys():
            attributes, point = expected[text]
            overflown_gauge = text == exact(OVERFLOWN) and key.kind == "Gauge"
            if overflown_gauge and OVERFLOWN_GAUGE in self._allowed:
                differences = self._recorded(key, got[text][1])
            else:
                differences = self._point(key, attributes, point, got[text][1])
            for difference in differences:
                yield f"{key} {text}: {difference}"

    def _overflown(
        self,
        key: Key,
        delta: bool,
        expected: dict[str, tuple[Mapping[str, Any], Point]],
        got: dict[str, tuple[Mapping[str, Any], Point]],
    ) -> Iterator[str]:
        """Differences of totals and number, where it may be other sets that overflow."""
        observable = self._script.is_observable(key)
        if len(expected) != len(got) and not observable:
            yield f"{key}: points {sorted(expected)} != {sorted(got)}"
        if key.kind == "Gauge":
            for text, (_, point) in got.items():
                for difference in self._recorded(key, point):
                    yield f"{key} {text}: {difference}"
        elif not (delta and observable):  # their differences depend on which sets overflowed before
            theirs, mine = (folded(point for _, point in side.values()) for side in (expected, got))
            for difference in self._point(key, OVERFLOWN, theirs, mine, total=True):
                yield f"{key} all points: {difference}"

    def _recorded(self, key: Key, point: Any) -> Iterator[str]:
        amounts = self._script.amounts(key, OVERFLOWN)
        if not any(point.value in (amount, float(amount)) for amount in amounts):
            yield f"{point.value!r} was never recorded"

    def _point(
        self, key: Key, attributes: Mapping[str, Any], theirs: Any, mine: Any, total: bool = False
    ) -> Iterator[str]:
        if theirs.exemplars != mine.exemplars:
            yield f"exemplars {theirs.exemplars} != {mine.exemplars}"
        if isinstance(theirs, Number):
            yield from self._number("value", key, attributes, theirs.value, mine.value)
            if (theirs.start is None) != (mine.start is None):
                yield f"start {theirs.start} != {mine.start}"
            return
        yield from self._number("sum", key, attributes, theirs.sum, mine.sum)
        for name in ("min", "max"):
            yield from self._extreme(name, getattr(theirs, name), getattr(mine, name))
        for name in ("count", "counts", "boundaries", "zeros", "flags"):
            if getattr(theirs, name, None) != getattr(mine, name, None):
                yield f"{name} {getattr(theirs, name)} != {getattr(mine, name)}"
        if isinstance(theirs, Exponential):
            yield from self._buckets(key, theirs, mine, total)

    def _number(
        self, name: str, key: Key, attributes: Mapping[str, Any], theirs: Any, mine: Any
    ) -> Iterator[str]:
        if isinstance(theirs, Either):
            found = [list(self._number(name, key, attributes, each, mine)) for each in theirs]
            yield from min(found, key=len)
            return
        if theirs is ANY or (type(theirs) is type(mine) and theirs == mine):
            return
        if isinstance(theirs, int) and isinstance(mine, float):
            close = FLOAT_FOR_EVER in self._allowed and self._script.has_float(key, attributes)
        else:
            close = isinstance(theirs, float) and isinstance(mine, float)
        if close and key.kind == "Gauge":
            close = float(theirs) == mine
        elif close and FLOAT_SUMS in self._allowed:
            lost = self._script.lost_digits(key, attributes)
            close = math.isclose(theirs, mine, rel_tol=1e-9, abs_tol=lost)
        elif close:
            close = theirs == mine
        if not close:
            yield f"{name} {theirs!r} != {mine!r}"

    def _extreme(self, name: str, theirs: Any, mine: Any) -> Iterator[str]:
        if theirs is not None and math.isinf(theirs) and NO_EXTREMES in self._allowed:
            same = mine is None
        elif theirs is None or mine is None:
            same = theirs is mine
        elif DOUBLE_EXTREMES in self._allowed:
            same = mine in (theirs, float(theirs))
        else:
            same = theirs == mine and type(theirs) is type(mine)
        if not same:
            yield f"{name} {theirs!r} != {mine!r}"

    def _buckets(
        self, key: Key, theirs: Exponential, mine: Exponential, total: bool
    ) -> Iterator[str]:
        exactly = SCALE not in self._allowed
        empty = not (theirs.positive or theirs.negative)
        simple = theirs.zeros == 0 and not (theirs.positive and theirs.negative)
        if exactly or (key.temporality != DELTA and simple and not total):
            wrong = theirs.scale != mine.scale
        elif total or empty:
            wrong = False
        else:
            wrong = (
                theirs.scale < mine.scale if key.temporality == DELTA else theirs.scale > mine.scale
            )
        if wrong:
            yield f"scale {theirs.scale} != {mine.scale}"
        scale = min(theirs.scale, mine.scale)
        for name in ("positive", "negative"):
            expected = rescaled(getattr(theirs, name), theirs.scale - scale)
            got = rescaled(getattr(mine, name), mine.scale - scale)
            if expected != got:
                yield f"{name} buckets at scale {scale}: {expected} != {got}"
            indices = getattr(mine, name)
            if indices and max(indices) - min(indices) >= self._script.largest_size and not total:
                yield f"{name} buckets: more than {self._script.largest_size}: {indices}"


_FORMS = ("data", "otlp")


def _streams(form: str, data: MetricsData | None) -> tuple[list[Stream], str]:
    """The streams, or why there are none."""
    try:
        if form == "data" or data is None:
            return streams_of_data(data), ""
        return streams_of_otlp(encode_metrics(data)), ""
    except MalformedError as error:
        return [], f"malformed: {error}"
    except Exception as error:  # the exporter's own kind is not public
        return [], f"cannot be encoded: {type(error).__name__}"


def _order(streams: Iterable[Stream]) -> list[tuple[str, list[str]]]:
    return [
        (str(each.key), [exact(attributes) for attributes in each.attributes]) for each in streams
    ]
