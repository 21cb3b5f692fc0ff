# SPDX-License-Identifier: Apache-2.0
"""What a counter that was observed to decrease has counted since, from what the SDK makes of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from points import exact
from script import DELTA, Script
from streams import Key, Stream

ANY = math.nan
"""Stands for a value that cannot be worked out."""


class Either(NamedTuple):
    """Stands for a value that may have been taken for a reset, or not."""

    difference: Any
    total: Any


class Resets:
    """The totals of the delta streams of each reader, as far as they can be told.

    Args:
        script: whose streams they are.
    """

    def __init__(self, script: Script) -> None:
        self._script = script
        self._totals: Counter[tuple[Any, ...]] = Counter()
        self._sizes: dict[tuple[Any, ...], int] = {}

    def applied(self, reader: int, streams: list[Stream]) -> list[Stream]:
        """The SDK's streams of a collection, with totals in place of negative deltas of counters."""
        sizes = Counter(stream.key for stream in streams)
        before: Counter[Key] = Counter()
        changed = []
        for stream in streams:
            key = stream.key
            # Streams that nothing tells apart are told apart by their order, while it is the same.
            place = (reader, key, before[key])
            before[key] += 1
            size = self._sizes.setdefault(place, sizes[key])
            if key.kind == "Sum" and key.monotonic and key.temporality == DELTA:
                known = size == sizes[key] and not self._script.is_shared(key)
                changed.append(self._of_stream(place, stream, known))
            else:
                changed.append(stream)
        return changed

    def _of_stream(self, place: tuple[Any, ...], stream: Stream, known: bool) -> Stream:
        key, points = stream.key, list[Any]()
        for attributes, each in zip(stream.attributes, stream.points, strict=True):
            point: Any = each
            difference = point.value
            series = (*place, exact(attributes))
            self._totals[series] += difference
            total = self._totals[series]
            value = difference
            if difference < 0:
                value = total if known else ANY
            if known and abs(difference) <= self._blur(key, attributes):
                value = Either(difference, total)
            points.append(point._replace(value=value))
        return stream._replace(points=points)

    def _blur(self, key: Key, attributes: Mapping[str, Any]) -> float:
        """Up to which size a decrease may not be seen as one, or be seen where there is none."""
        if self._script.is_observable(key) and self._script.has_float(key, attributes):
            return self._script.lost_digits(key, attributes)
        return -1
