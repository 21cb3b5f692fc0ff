# SPDX-License-Identifier: Apache-2.0
"""What a reader got, flat: one `Point` a data point, in the order of the MetricsData."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from opentelemetry.sdk.metrics.export import (
    InMemoryMetricReader,
    MetricReader,
    MetricsData,
    NumberDataPoint,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

OVERFLOW = "{'otel.metric.overflow': True}"
ENDLESS = 2**32  # more series than any buffer of a test has

Reader = TypeVar("Reader", bound=MetricReader)


class Point(NamedTuple):
    """One data point with everything that stands above it; of a histogram the value is the sum."""

    resource: Resource
    scope: InstrumentationScope
    name: str
    unit: str
    description: str
    kind: str
    monotonic: bool | None
    temporality: Any
    attributes: Mapping[str, Any]
    value: int | float
    start: int | None
    time: int
    data: Any  # the SDK's data point


def points_of(data: MetricsData | None) -> list[Point]:
    """All points of a collection."""
    return [
        Point(
            resource.resource,
            scope.scope,
            metric.name,
            metric.unit,
            metric.description,
            type(metric.data).__name__,
            metric.data.is_monotonic if isinstance(metric.data, Sum) else None,
            getattr(metric.data, "aggregation_temporality", None),
            point.attributes,
            point.value if isinstance(point, NumberDataPoint) else point.sum,
            point.start_time_unix_nano,
            point.time_unix_nano,
            point,
        )
        for resource in (data.resource_metrics if data else ())
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in metric.data.data_points
    ]


def exact(value: Any) -> str:
    """Text that tells 1, 1.0, True and "1" apart, and forgets the order of keys."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {exact(value[key])}" for key in sorted(value)) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(exact, value)) + "]"
    return repr(value)


def values(reader: InMemoryMetricReader, name: str | None = None) -> dict[str, int | float]:
    """Value or sum by attributes of a metric (or of all) as the reader collects them now.

    The keys are `exact` texts of the attributes, so `{"a": 1}` and `{"a": True}` stay two.
    """
    points = [p for p in points_of(reader.get_metrics_data()) if name in (None, p.name)]
    found = {exact(point.attributes): point.value for point in points}
    assert len(found) == len(points), f"a series twice: {points}"
    return found


def measure_of(measuring: Any) -> Callable[..., None]:
    """`add`, `set` or `record`, whichever an instrument or a bound one has."""
    for name in ("add", "set", "record"):
        if hasattr(measuring, name):
            return getattr(measuring, name)  # type: ignore[no-any-return]
    raise TypeError(f"{measuring!r} measures nothing")


def with_limit(reader: Reader, limit: int) -> Reader:
    """The reader, with a cardinality limit; before a provider has it. With any SDK."""
    reader._instrument_class_cardinality_limit = dict.fromkeys(  # type: ignore[attr-defined]
        reader._instrument_class_temporality, limit
    )
    return reader


def without_limit(reader: Reader) -> Reader:
    """The same, with none."""
    return with_limit(reader, ENDLESS)
