# SPDX-License-Identifier: Apache-2.0
"""Histograms of a buffer without a provider, and what an exponential one must be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from buffers import SMALL, claim, claim_stream, only_row

from otel_shm import buffer as rules
from otel_shm._core import lib
from otel_shm.buffer import Buffer
from otel_shm.readings import Row
from otel_shm.series import Series
from otel_shm.streams import Aggregated

Number = int | float

INT64_MAX = 2**63 - 1
MANY = tuple(float(n) for n in range(0, 400, 4))  # searched by halves


def series_of(how: Aggregated, kind: int = rules.HISTOGRAM, **sizes: int) -> tuple[Buffer, Series]:
    """One series of a histogram, in a buffer of its own."""
    buffer = Buffer(**{**SMALL, "series": 1024, **sizes})
    return buffer, claim(buffer, claim_stream(buffer, kind, how=how))


def explicit(*boundaries: float) -> Aggregated:
    """A histogram with these boundaries."""
    return Aggregated(rules.AGGREGATION_EXPLICIT, tuple(map(float, boundaries)))


def exponential(max_size: int = 160, max_scale: int = 20) -> Aggregated:
    """A base-2 exponential histogram."""
    return Aggregated(rules.AGGREGATION_EXPONENTIAL, max_size=max_size, max_scale=max_scale)


def recorded(how: Aggregated, amounts: Sequence[Number], kind: int = rules.HISTOGRAM) -> Row:
    """What a scan says after these amounts."""
    buffer, series = series_of(how, kind)
    for amount in amounts:
        assert series.measure(amount) == 0
    return only_row(buffer)


def model(amounts: Sequence[Number], max_size: int, max_scale: int) -> tuple[Any, ...]:
    """Scale, offset and buckets, and those of negative values, as they must be: at the finest scale at
    which the buckets of either sign fit."""
    signs = [[x for x in map(float, amounts) if x > 0], [-x for x in map(float, amounts) if x < 0]]
    for scale in range(max_scale, rules.MIN_SCALE - 1, -1):
        counts = [Counter(lib.oshm_exponential_index(x, scale) for x in sign) for sign in signs]
        if all(not c or max(c) - min(c) < max_size for c in counts):
            break
    sides = [
        (min(c), [c[index] for index in range(min(c), max(c) + 1)]) if c else (0, [])
        for c in counts
    ]
    return (scale if any(counts) else 0, *sides[0], *sides[1])


def seen(row: Row) -> tuple[Any, ...]:
    """The same of a row."""
    return (row.scale, row.offset, row.buckets, row.negative_offset, row.negative_buckets)
