# SPDX-License-Identifier: Apache-2.0
"""What a script alone says of the points that may come of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

from opentelemetry.attributes import _clean_attribute_value
from points import exact
from scenarios import OBSERVABLES, Aggregation, Measure, Observe, Scenario, Seen
from streams import Key, positive_zeros

OVERFLOWN = {"otel.metric.overflow": True}
DELTA = 1


class Script:
    """A scenario, asked about the streams of points it makes."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._identities = {
            (each.scope, each.kind, each.name.lower(), each.unit, each.description)
            for each in scenario.instruments
        }
        self._named = {view.options["name"] for view in scenario.views if "name" in view.options}

    def is_shared(self, key: Key) -> bool:
        """True if several instruments may make streams that are told apart by nothing."""
        if len(self._identities) == 1:
            return False
        names = [name for _, _, name, _, _ in self._identities]
        return key.name in self._named or names.count(key.name) > 1

    def is_observable(self, key: Key) -> bool:
        """True if the stream may be an observable instrument's."""
        names = {name for _, kind, name, _, _ in self._identities if kind in OBSERVABLES}
        return key.name in names or (key.name in self._named and bool(names))

    def is_delta(self, reader: int, key: Key) -> bool:
        """True if the stream may hold what came since the reader's last collection."""
        if key.kind == "Gauge":
            return bool(self._scenario.readers[reader].delta)
        return key.temporality == DELTA

    @cached_property
    def largest_size(self) -> int:
        """The most buckets that any exponential histogram may have."""
        aggregations: list[Aggregation | None] = [view.aggregation for view in self._scenario.views]
        for reader in self._scenario.readers:
            aggregations.extend(reader.aggregations.values())
        return max(
            each.options.get("max_size", 160) if each else 160 for each in (*aggregations, None)
        )

    def has_float(self, key: Key, attributes: Mapping[str, Any]) -> bool:
        """True if what was recorded for a point, maybe with more, does not all fit in ints."""
        return self.magnitude(key, attributes) >= 2**62 or any(
            not isinstance(amount, int) for amount in self.amounts(key, attributes)
        )

    def lost_digits(self, key: Key, attributes: Mapping[str, Any]) -> float:
        """How much of a sum may be lost: a part of what was added, which can be far more than it."""
        return 1e-14 * self.magnitude(key, attributes)

    def magnitude(self, key: Key, attributes: Mapping[str, Any]) -> float:
        """The sum of the absolute amounts for a point, maybe with more."""
        return math.fsum(abs(float(amount)) for amount in self.amounts(key, attributes))

    def amounts(self, key: Key, attributes: Mapping[str, Any]) -> Iterator[Any]:
        """All amounts for a point, maybe with more; the overflow stands for any attributes."""
        wanted = {} if attributes == OVERFLOWN else attributes
        items = {(name, exact(value)) for name, value in positive_zeros(wanted).items()}
        return (
            amount
            for name, amount, has in self._measurements
            if items <= has and (name == key.name or key.name in self._named)
        )

    @cached_property
    def _measurements(self) -> list[tuple[str, Any, set[tuple[str, str]]]]:
        """Name of the instrument, amount and attributes of all that is recorded."""
        found: list[tuple[str, Any, set[tuple[str, str]]]] = []
        for step in self._scenario.steps:
            match step:
                case Measure(instrument, amount, attributes):
                    measured = [Seen(amount, attributes)]
                case Observe(instrument, items) if items:
                    measured = [item for item in items if isinstance(item, Seen)]
                case _:
                    continue
            name = self._scenario.instruments[instrument].name.lower()
            for amount, attributes in measured:
                try:
                    finite = math.isfinite(amount)
                except (TypeError, OverflowError):
                    continue
                if finite:
                    legal = attributes if isinstance(attributes, Mapping) else {}
                    clean = positive_zeros(_clean_attribute_value(legal, None))
                    found.append(
                        (name, amount, {(each, exact(value)) for each, value in clean.items()})
                    )
        return found
