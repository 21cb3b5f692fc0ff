# SPDX-License-Identifier: Apache-2.0
"""What a reader got, flat: one `Point` a data point, in the order of the MetricsData."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricsData, Sum
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope


class Point(NamedTuple):
    """One number data point with everything that stands above it."""

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
            metric.data.aggregation_temporality if isinstance(metric.data, Sum) else None,
            point.attributes,
            point.value,
            point.start_time_unix_nano,
            point.time_unix_nano,
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
    """Value by attributes of a metric (or of all) as the reader collects them now.

    The keys are `exact` texts of the attributes, so `{"a": 1}` and `{"a": True}` stay two.
    """
    points = [p for p in points_of(reader.get_metrics_data()) if name in (None, p.name)]
    found = {exact(point.attributes): point.value for point in points}
    assert len(found) == len(points), f"a series twice: {points}"
    return found
