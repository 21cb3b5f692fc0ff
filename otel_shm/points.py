# SPDX-License-Identifier: Apache-2.0
"""Points: the rows of a scan as the SDK's data, within a reader's cardinality limit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from opentelemetry.sdk.metrics import Exemplar
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    ExponentialHistogram,
    ExponentialHistogramDataPoint,
    Gauge,
    Histogram,
    HistogramDataPoint,
    NumberDataPoint,
    Sum,
)
from opentelemetry.sdk.metrics.export import Buckets as PointBuckets

from otel_shm import buffer as rules
from otel_shm.readings import Row
from otel_shm.streams import Aggregated, StreamIdentity

OVERFLOW_ATTRIBUTES: dict[str, Any] = {"otel.metric.overflow": True}

Data = Sum | Gauge | Histogram | ExponentialHistogram


# What a point is made of: attributes, start time, value, of a histogram its row, and the exemplars that
# were sampled. There are many, so it is a plain tuple.
Reading = tuple[dict[str, Any], int, int | float, Row | None, Sequence[Exemplar]]


def within_limit(readings: list[Reading], limit: int, aggregated: Aggregated) -> list[Reading]:
    """The readings of one stream, with those past the limit in the overflow series, which comes last.

    Specification, metrics SDK, "Cardinality limits": the overflow series comes in addition.

    Args:
        readings: in the order in which their series were first claimed.
        limit: most series without overflow.
        aggregated: how the stream is.
    """
    if readings and readings[0][0] == OVERFLOW_ATTRIBUTES:  # it was made with the stream
        readings = [*readings[1:], readings[0]]
    if len(readings) <= limit:
        return readings
    overflow = [reading for reading in readings if reading[0] == OVERFLOW_ATTRIBUTES]
    others = [reading for reading in readings if reading[0] != OVERFLOW_ATTRIBUTES]
    if len(others) <= limit:
        return readings
    merged = overflow.pop() if overflow else others.pop(limit)
    for reading in others[limit:]:
        merged = _merge(merged, reading, aggregated)
    return [*others[:limit], (OVERFLOW_ATTRIBUTES, *merged[1:])]


def _merge(into: Reading, other: Reading, aggregated: Aggregated) -> Reading:
    """Two series as one, with the attributes of the first; of last values, the first."""
    attributes, start, value, a, exemplars = into
    _, other_start, other_value, b, more_exemplars = other
    if aggregated.aggregation == rules.AGGREGATION_LAST:
        return into
    row = _merge_rows(a, b, aggregated) if a is not None and b is not None else a
    exemplars = [*exemplars, *more_exemplars]
    return attributes, min(start, other_start), value + other_value, row, exemplars


def _merge_rows(a: Row, b: Row, aggregated: Aggregated) -> Row:
    """Two histograms as one, but for their sums."""
    row = a._replace(
        minimum=_least(a.minimum, b.minimum),
        maximum=_greatest(a.maximum, b.maximum),
        measurements=a.measurements + b.measurements,
        zero_count=a.zero_count + b.zero_count,
    )
    if aggregated.aggregation == rules.AGGREGATION_EXPLICIT:
        return row._replace(buckets=[x + y for x, y in zip(a.buckets, b.buckets, strict=True)])
    return _merge_buckets(row, a, b, aggregated.max_size)


def _least(a: float | None, b: float | None) -> float | None:
    return b if a is None else a if b is None else min(a, b)


def _greatest(a: float | None, b: float | None) -> float | None:
    return b if a is None else a if b is None else max(a, b)


def _merge_buckets(row: Row, a: Row, b: Row, max_size: int) -> Row:
    """The exponential buckets of both, at the finest scale at which they fit."""
    filled = [r for r in (a, b) if r.buckets or r.negative_buckets]
    if not filled:
        return row
    scale = min(r.scale for r in filled)
    positive: dict[int, int] = {}
    negative: dict[int, int] = {}
    for r in filled:
        _count(positive, r.offset, r.buckets, r.scale - scale)
        _count(negative, r.negative_offset, r.negative_buckets, r.scale - scale)
    most = max(2, max_size)  # also where the file says something else
    while any(c and max(c) - min(c) >= most for c in (positive, negative)):
        scale -= 1
        positive, negative = _halved(positive), _halved(negative)
    offset, buckets = _dense(positive)
    negative_offset, negative_buckets = _dense(negative)
    return row._replace(
        scale=scale,
        offset=offset,
        buckets=buckets,
        negative_offset=negative_offset,
        negative_buckets=negative_buckets,
    )


def _count(into: dict[int, int], offset: int, buckets: list[int], coarser: int) -> None:
    for index, count in enumerate(buckets, offset):
        if count:
            at = index >> coarser
            into[at] = into.get(at, 0) + count


def _halved(counts: dict[int, int]) -> dict[int, int]:
    halved: dict[int, int] = {}
    for index, count in counts.items():
        halved[index >> 1] = halved.get(index >> 1, 0) + count
    return halved


def _dense(counts: dict[int, int]) -> tuple[int, list[int]]:
    if not counts:
        return 0, []
    low = min(counts)
    return low, [counts.get(index, 0) for index in range(low, max(counts) + 1)]


def data(
    stream: StreamIdentity,
    is_monotonic: bool,
    readings: Sequence[Reading],
    temporality: AggregationTemporality,
    now: int,
) -> Data:
    """The points of one stream.

    Args:
        stream: whose they are.
        is_monotonic: it never falls, if it is a sum.
        readings: its rows.
        temporality: that the reader wants of its kind.
        now: end of the interval, in nanoseconds since 1970.
    """
    how = stream.aggregated
    if how.aggregation == rules.AGGREGATION_SUM:
        return Sum(
            data_points=_numbers(readings, now),
            aggregation_temporality=temporality,
            is_monotonic=is_monotonic,
        )
    if how.aggregation == rules.AGGREGATION_LAST:
        return Gauge(data_points=_numbers(readings, now, is_gauge=True))
    # A histogram's reading without a row is what a damaged file may have.
    if how.aggregation == rules.AGGREGATION_EXPLICIT:
        return Histogram(
            data_points=[
                _explicit(how, now, attributes, start, value, row, exemplars)
                for attributes, start, value, row, exemplars in readings
                if row is not None
            ],
            aggregation_temporality=temporality,
        )
    return ExponentialHistogram(
        data_points=[
            _exponential(how, now, attributes, start, value, row, exemplars)
            for attributes, start, value, row, exemplars in readings
            if row is not None
        ],
        aggregation_temporality=temporality,
    )


_Made = TypeVar("_Made")


def _made(point_class: type[_Made], **fields: Any) -> _Made:
    """A data point with these fields. Its constructor, of a frozen dataclass, sets them one by one
    through object.__setattr__, which is most of what a collection would take."""
    point = object.__new__(point_class)
    object.__setattr__(point, "__dict__", fields)
    return point


def _numbers(
    readings: Sequence[Reading], now: int, *, is_gauge: bool = False
) -> list[NumberDataPoint]:
    return [
        _made(
            NumberDataPoint,
            attributes=attributes,
            # A gauge has no start; None is what the SDK's own gauges carry.
            start_time_unix_nano=None if is_gauge else start,
            # It may have started, or a clock been set back, since `now` was read.
            time_unix_nano=now if now > start else start,
            value=value,
            exemplars=exemplars,
        )
        for attributes, start, value, _, exemplars in readings
    ]


def _extremes(how: Aggregated, value: int | float, row: Row) -> tuple[float | None, float | None]:
    """Minimum and maximum: integers where all amounts were; None where there are none."""
    minimum, maximum = row.minimum, row.maximum
    if minimum is None or maximum is None or not how.min_max:
        return None, None
    if isinstance(value, int):
        minimum = int(minimum) if minimum.is_integer() else minimum
        maximum = int(maximum) if maximum.is_integer() else maximum
    return minimum, maximum


def _explicit(
    how: Aggregated,
    now: int,
    attributes: dict[str, Any],
    start: int,
    value: int | float,
    row: Row,
    exemplars: Sequence[Exemplar],
) -> HistogramDataPoint:
    minimum, maximum = _extremes(how, value, row)
    return _made(
        HistogramDataPoint,
        attributes=attributes,
        start_time_unix_nano=start,
        time_unix_nano=max(now, start),
        count=row.measurements,
        sum=value,
        bucket_counts=tuple(row.buckets),
        explicit_bounds=how.boundaries,
        exemplars=exemplars,
        min=minimum,
        max=maximum,
    )


def _exponential(
    how: Aggregated,
    now: int,
    attributes: dict[str, Any],
    start: int,
    value: int | float,
    row: Row,
    exemplars: Sequence[Exemplar],
) -> ExponentialHistogramDataPoint:
    minimum, maximum = _extremes(how, value, row)
    return _made(
        ExponentialHistogramDataPoint,
        attributes=attributes,
        start_time_unix_nano=start,
        time_unix_nano=max(now, start),
        count=row.measurements,
        sum=value,
        scale=row.scale,
        zero_count=row.zero_count,
        positive=PointBuckets(offset=row.offset, bucket_counts=row.buckets),
        negative=PointBuckets(offset=row.negative_offset, bucket_counts=row.negative_buckets),
        flags=0,
        exemplars=exemplars,
        min=minimum,
        max=maximum,
    )
