# SPDX-License-Identifier: Apache-2.0
"""What a reader got as flat streams of points of all kinds, from MetricsData or from its OTLP."""

from __future__ import annotations

import decimal
import fractions
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.sdk.metrics.export import Metric, MetricsData
from points import exact


class Number(NamedTuple):
    """A point of a sum or a gauge. A gauge has no start: None."""

    value: int | float
    start: int | None
    time: int
    exemplars: int


class Buckets(NamedTuple):
    """A point of a histogram with explicit boundaries."""

    count: int
    sum: int | float
    counts: tuple[int, ...]
    boundaries: tuple[float, ...]
    min: float | None
    max: float | None
    start: int | None
    time: int
    exemplars: int


class Exponential(NamedTuple):
    """A point of an exponential histogram; its buckets that are not empty by their index."""

    count: int
    sum: int | float
    scale: int
    zeros: int
    positive: Mapping[int, int]
    negative: Mapping[int, int]
    min: float | None
    max: float | None
    start: int | None
    time: int
    exemplars: int
    flags: int


Point = Number | Buckets | Exponential


class Key(NamedTuple):
    """What tells a stream from others."""

    resource: str
    scope: str
    name: str
    unit: str
    description: str
    kind: str
    temporality: int | None
    monotonic: bool | None

    def __str__(self) -> str:
        return " ".join(str(part) for part in self[1:])


class Stream(NamedTuple):
    """One metric. No two points have equal attributes, types and all."""

    key: Key
    attributes: Sequence[Mapping[str, Any]]
    points: Sequence[Point]


class MalformedError(Exception):
    """What no exporter could send without loss."""


def _checked(resources: int, streams: list[list[Stream]]) -> list[Stream]:
    """The streams, which come as one list a scope, of a collection that has no part twice or empty."""
    if resources != 1:
        raise MalformedError(f"{resources} resources")
    scopes = [scope[0].key[:2] if scope else None for scope in streams]
    if None in scopes or not scopes:
        raise MalformedError("a scope without metrics")
    if len(set(scopes)) != len(scopes):
        raise MalformedError(f"a scope twice: {scopes}")
    found = [stream for scope in streams for stream in scope]
    for stream in found:
        sets = [exact(attributes) for attributes in stream.attributes]
        if not sets:
            raise MalformedError(f"{stream.key}: no points")
        if len(set(sets)) != len(sets):
            raise MalformedError(f"{stream.key}: a point twice: {sets}")
    return found


def streams_of_data(data: MetricsData | None) -> list[Stream]:
    """All streams of a collection, in its order."""
    if data is None:
        return []
    return _checked(
        len(data.resource_metrics),
        [
            [
                _of_metric(
                    f"{exact(each.resource.attributes)} {each.schema_url!r}",
                    f"{scope.scope.name!r} {scope.scope.version or ''!r} "
                    f"{scope.schema_url or ''!r} {exact(scope.scope.attributes or {})}",
                    metric,
                )
                for metric in scope.metrics
            ]
            for each in data.resource_metrics
            for scope in each.scope_metrics
        ],
    )


def _of_metric(resource: str, scope: str, metric: Metric) -> Stream:
    data: Any = metric.data
    kind = type(data).__name__
    return Stream(
        Key(
            resource,
            scope,
            metric.name,
            metric.unit or "",
            metric.description or "",
            kind,
            None if kind == "Gauge" else int(data.aggregation_temporality),
            data.is_monotonic if kind == "Sum" else None,
        ),
        [point.attributes for point in data.data_points],
        [_of_point(kind, point) for point in data.data_points],
    )


def _of_point(kind: str, point: Any) -> Point:
    about = (point.start_time_unix_nano, point.time_unix_nano, len(point.exemplars))
    match kind:
        case "Histogram":
            counts, boundaries = tuple(point.bucket_counts), tuple(point.explicit_bounds)
            return Buckets(point.count, point.sum, counts, boundaries, point.min, point.max, *about)
        case "ExponentialHistogram":
            return Exponential(
                point.count,
                point.sum,
                point.scale,
                point.zero_count,
                _filled(point.positive),
                _filled(point.negative),
                point.min,
                point.max,
                *about,
                point.flags,
            )
    return Number(point.value, *about)


def _filled(buckets: Any) -> dict[int, int]:
    """Counts by index, without the empty ones."""
    counts = enumerate(buckets.bucket_counts, buckets.offset)
    return {index: count for index, count in counts if count}


def streams_of_otlp(request: ExportMetricsServiceRequest) -> list[Stream]:
    """All streams of an export request, in its order."""
    if not request.resource_metrics:
        return []
    return _checked(
        len(request.resource_metrics),
        [
            list(
                _of_scope(
                    f"{exact(_mapping(each.resource.attributes))} {each.schema_url!r}",
                    f"{scope.scope.name!r} {scope.scope.version!r} {scope.schema_url!r} "
                    f"{exact(_mapping(scope.scope.attributes))}",
                    scope,
                )
            )
            for each in request.resource_metrics
            for scope in each.scope_metrics
        ],
    )


def _of_scope(resource: str, text: str, of: Any) -> Iterator[Stream]:
    for metric in of.metrics:
        which = metric.WhichOneof("data")
        if which is None:
            raise MalformedError(f"{metric.name}: no points")
        data = getattr(metric, which)
        kind = {"exponential_histogram": "ExponentialHistogram"}.get(which, which.capitalize())
        yield Stream(
            Key(
                resource,
                text,
                metric.name,
                metric.unit,
                metric.description,
                kind,
                None if kind == "Gauge" else data.aggregation_temporality,
                data.is_monotonic if kind == "Sum" else None,
            ),
            [_mapping(point.attributes) for point in data.data_points],
            [_of_message(kind, point) for point in data.data_points],
        )


def _of_message(kind: str, point: Any) -> Point:
    about = (point.start_time_unix_nano or None, point.time_unix_nano, len(point.exemplars))
    if kind in ("Sum", "Gauge"):
        which = point.WhichOneof("value")
        if which is None:
            raise MalformedError("a number point without a value")
        return Number(getattr(point, which), *about)
    smallest = point.min if point.HasField("min") else None
    largest = point.max if point.HasField("max") else None
    if kind == "Histogram":
        counts, boundaries = tuple(point.bucket_counts), tuple(point.explicit_bounds)
        return Buckets(point.count, point.sum, counts, boundaries, smallest, largest, *about)
    return Exponential(
        point.count,
        point.sum,
        point.scale,
        point.zero_count,
        _filled(point.positive),
        _filled(point.negative),
        smallest,
        largest,
        *about,
        point.flags,
    )


def _mapping(entries: Sequence[KeyValue]) -> dict[str, Any]:
    return {entry.key: _value(entry.value) for entry in entries}


def _value(value: AnyValue) -> Any:
    match value.WhichOneof("value"):
        case None:
            return None
        case "array_value":
            return tuple(_value(item) for item in value.array_value.values)
        case "kvlist_value":
            return _mapping(value.kvlist_value.values)
        case field:
            return getattr(value, field)


def as_number(value: Any) -> Any:
    """An int of 64 bits or a float."""
    if isinstance(value, (bool, int)):
        return int(value) if -(2**63) <= value < 2**63 else float(value)
    return float(value) if isinstance(value, (decimal.Decimal, fractions.Fraction)) else value


def positive_zeros(value: Any) -> Any:
    """The value without negative zeros, at any depth."""
    if isinstance(value, Mapping):
        return {key: positive_zeros(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(positive_zeros(item) for item in value)
    return value + 0.0 if isinstance(value, float) else value


def rescaled(buckets: Mapping[int, int], change: int) -> dict[int, int]:
    """Buckets of an exponential histogram at a scale that is smaller by `change`."""
    merged: Counter[int] = Counter()
    for index, count in buckets.items():
        merged[index >> change] += count
    return dict(merged)


def folded(points: Iterable[Any]) -> Any:
    """One point with the totals of all."""
    first, *others = points
    for point in others:
        if isinstance(first, Number):
            first = first._replace(value=first.value + point.value)
            continue
        sides: dict[str, Any] = {
            name: getattr(first, name) + getattr(point, name) for name in ("count", "sum")
        }
        for name, choose in (("min", min), ("max", max)):
            both = [
                each for each in (getattr(first, name), getattr(point, name)) if each is not None
            ]
            sides[name] = choose(both, default=None)
        if isinstance(first, Buckets):
            sides["counts"] = tuple(map(sum, zip(first.counts, point.counts, strict=True)))
        else:
            scale = min(first.scale, point.scale)
            for name in ("positive", "negative"):
                sides[name] = dict(
                    Counter(rescaled(getattr(first, name), first.scale - scale))
                    + Counter(rescaled(getattr(point, name), point.scale - scale))
                )
            sides.update(scale=scale, zeros=first.zeros + point.zeros)
        first = first._replace(**sides)
    return first
