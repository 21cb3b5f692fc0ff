# SPDX-License-Identifier: Apache-2.0
"""One scenario on the SDK's provider and on ours: what each reader was told, without what clocks say."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pytest
from opentelemetry.instrumentation._semconv import _OpenTelemetrySemanticConventionStability
from opentelemetry.metrics import MeterProvider
from opentelemetry.sdk import metrics as sdk
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    ExponentialHistogramDataPoint,
    Histogram,
    HistogramDataPoint,
    InMemoryMetricReader,
    Metric,
    MetricsData,
)
from opentelemetry.sdk.resources import Resource
from points import exact

import otel_shm

DURATIONS = {"s", "ms"}  # units of histograms whose amounts differ from run to run
TEMPORALITIES = {
    "cumulative": {},
    # What OTLP exporters are told by OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE=delta.
    "delta": dict.fromkeys(
        [sdk.Counter, sdk.Histogram, sdk.ObservableCounter], AggregationTemporality.DELTA
    ),
}


class Told(NamedTuple):
    """A metric of one collection; `points` are by the exact text of their attributes."""

    unit: str
    description: str
    kind: str
    monotonic: bool | None
    temporality: Any
    points: dict[str, Any]


Looks = list[dict[Any, Told]]
Look = Callable[[], None]
Scenario = Callable[[MeterProvider, Look], None]


def told(data: MetricsData | None) -> dict[Any, Told]:
    """What a collection says, by scope and name; each metric and each series is there once."""
    found: dict[Any, Told] = {}
    for resource in data.resource_metrics if data else ():
        for scope in resource.scope_metrics:
            assert scope.schema_url == (scope.scope.schema_url or "")
            for metric in scope.metrics:
                key = (scope.scope, metric.name)
                assert key not in found, f"twice: {key}"
                found[key] = _metric(metric)
    return found


def _metric(metric: Metric) -> Told:
    points: dict[str, Any] = {}
    for point in metric.data.data_points:
        attributes = exact(plain(point.attributes or {}))
        assert attributes not in points, f"{metric.name} {attributes} is there twice"
        assert (point.start_time_unix_nano or 0) <= point.time_unix_nano
        points[attributes] = _amounts(metric, point)
    return Told(
        metric.unit,
        metric.description,
        type(metric.data).__name__,
        getattr(metric.data, "is_monotonic", None),
        getattr(metric.data, "aggregation_temporality", None),
        points,
    )


def _amounts(metric: Metric, point: Any) -> Any:
    """What must be equal: a number and its type; of a histogram of durations, how many there were."""
    if isinstance(point, ExponentialHistogramDataPoint):
        counts = [*point.positive.bucket_counts, *point.negative.bucket_counts]
        assert sum(counts) + point.zero_count == point.count
        shape: tuple[Any, ...] = ()
    elif isinstance(point, HistogramDataPoint):
        counts = list(point.bucket_counts)
        assert sum(counts) == point.count
        shape = (tuple(point.explicit_bounds), len(counts))
    else:
        return repr(point.value)
    assert point.min <= point.max
    assert point.min * point.count <= point.sum * (1 + 1e-9)
    assert point.sum <= point.max * point.count * (1 + 1e-9)
    types = tuple(type(amount).__name__ for amount in (point.sum, point.min, point.max))
    if isinstance(metric.data, Histogram) and metric.unit not in DURATIONS:
        return (*shape, tuple(counts), repr((point.sum, point.min, point.max)))
    return (*shape, point.count, types)


def plain(value: Any) -> Any:
    """Attributes with enums as what they stand for, which is what we keep and what OTLP carries."""
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, enum.Enum):
        return value.value
    return value


def on_both(
    scenario: Scenario, temporality: str = "cumulative", **options: Any
) -> tuple[Looks, Looks]:
    """Runs a scenario on the SDK's provider and on ours; it looks whenever it likes.

    Args:
        scenario: what the application does; it looks once more when that is done.
        temporality: of the reader.
        options: of both providers.

    Returns:
        What ours told, look by look, and what the SDK's told; the test asserts that they are equal.
    """
    seen: list[Looks] = []
    for provider_class in (otel_shm.MeterProvider, sdk.MeterProvider):
        reader = InMemoryMetricReader(preferred_temporality=dict(TEMPORALITIES[temporality]))
        provider = provider_class(
            [reader], resource=Resource({"service.name": "app"}), shutdown_on_exit=False, **options
        )
        looks: Looks = []

        def look(reader: InMemoryMetricReader = reader, looks: Looks = looks) -> None:
            looks.append(told(reader.get_metrics_data()))

        try:
            scenario(provider, look)
            look()
        finally:
            provider.shutdown()
        seen.append(looks)
    ours, stock = seen
    return ours, stock


def named(look: dict[Any, Told]) -> dict[str, Told]:
    """The metrics of a look by name, which is there in one scope only."""
    metrics = {name: metric for (_, name), metric in look.items()}
    assert len(metrics) == len(look)
    return metrics


@pytest.fixture(params=["", "http", "http/dup"])
def conventions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The semantic conventions: the old ones, today's, and both."""
    return use_conventions(monkeypatch, str(request.param))


@pytest.fixture
def todays_conventions(monkeypatch: pytest.MonkeyPatch) -> str:
    """The semantic conventions of today."""
    return use_conventions(monkeypatch, "http")


def use_conventions(monkeypatch: pytest.MonkeyPatch, name: str) -> str:
    """Has the instrumentations read the variable, as they do once a process."""
    if name:
        monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", name)
    known = _OpenTelemetrySemanticConventionStability
    monkeypatch.setattr(known, "_initialized", False)
    monkeypatch.setattr(known, "_OTEL_SEMCONV_STABILITY_SIGNAL_MAPPING", {})
    return name
