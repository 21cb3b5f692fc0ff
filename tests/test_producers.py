# SPDX-License-Identifier: Apache-2.0
"""MetricProducers: metrics from elsewhere, joined in so that every exporter takes them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.sdk.metrics.export import (
    Gauge,
    InMemoryMetricReader,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from points import points_of
from processes import Gate, Processes, processes

import otel_shm
from otel_shm.producers import join, produced

__all__ = ["processes"]

Make = Callable[..., otel_shm.MeterProvider]

OURS = Resource({"service.name": "test"}, "https://resource")
OTHER = Resource({"service.name": "other"})
SCOPE = InstrumentationScope("foreign", "1.0", "https://scope")


def metric(name: str, value: float = 1) -> Metric:
    """A gauge with one point."""
    point = NumberDataPoint({}, None, 5, value)  # type: ignore[arg-type]
    return Metric(name, "described", "1", Gauge([point]))


def scoped(*names: str, scope: InstrumentationScope = SCOPE) -> ScopeMetrics:
    """Gauges of one scope."""
    return ScopeMetrics(scope, [metric(name) for name in names], scope.schema_url or "")


class Producer(otel_shm.MetricProducer):
    """Produces what it is given, or raises it; remembers how it was asked."""

    def __init__(self, made: Any) -> None:
        self.made = made
        self.asked: list[float] = []

    def produce(self, timeout_millis: float = 10_000) -> Iterable[ScopeMetrics] | MetricsData:
        """What it is given."""
        self.asked.append(timeout_millis)
        if isinstance(self.made, BaseException):
            raise self.made
        return self.made


def names(data: MetricsData | None) -> list[tuple[Any, str, list[str]]]:
    """Service, scope and metrics of all that is in the data."""
    return [
        (
            resource.resource.attributes.get("service.name"),
            scope.scope.name,
            [metric.name for metric in scope.metrics],
        )
        for resource in (data.resource_metrics if data else ())
        for scope in resource.scope_metrics
    ]


def test_metrics_of_a_producer_come_with_ours(
    make_provider: Make, reader: InMemoryMetricReader
) -> None:
    """In one MetricsData, as they were made; those of ours first."""
    producer = Producer([scoped("a", "b")])
    provider = make_provider(reader, metric_producers=[producer])
    provider.get_meter("m").create_counter("c").add(1)
    data = reader.get_metrics_data()
    assert names(data) == [("test", "m", ["c"]), ("test", "foreign", ["a", "b"])]
    assert data is not None
    (resource,) = data.resource_metrics
    assert resource.scope_metrics[1].schema_url == "https://scope"
    assert resource.scope_metrics[1].metrics[0] == metric("a")


def test_producer_alone_is_enough(make_provider: Make, reader: InMemoryMetricReader) -> None:
    """Nothing of ours need be measured; nothing at all is None, as exporters expect."""
    producer = Producer([scoped("a")])
    make_provider(reader, metric_producers=[producer])
    assert names(reader.get_metrics_data()) == [("test", "foreign", ["a"])]
    for nothing in ([], [scoped()], MetricsData([]), iter(())):
        producer.made = nothing
        assert reader.get_metrics_data() is None


def test_every_collection_asks(make_provider: Make) -> None:
    """Each producer once in each collection of each reader, with the time that is left of it."""
    producers = [Producer([scoped("a")]), Producer([scoped("b")])]
    readers = [InMemoryMetricReader(), InMemoryMetricReader()]
    make_provider(*readers, metric_producers=producers)
    for reader in (readers[0], readers[1], readers[0]):
        assert names(reader.get_metrics_data()) == [("test", "foreign", ["a", "b"])]
    for producer in producers:
        assert len(producer.asked) == 3
        assert all(0 < timeout <= 10_000 for timeout in producer.asked)


def test_producer_with_resources_of_its_own(
    make_provider: Make, reader: InMemoryMetricReader
) -> None:
    """What it makes of another resource stays so; what it makes of ours is joined with ours."""
    made = MetricsData(
        [
            ResourceMetrics(OTHER, [scoped("a")], ""),
            ResourceMetrics(Resource({"service.name": "test"}), [scoped("b")], ""),
        ]
    )
    provider = make_provider(reader, metric_producers=[Producer(made)])
    provider.get_meter("m").create_counter("c").add(1)
    assert sorted(names(reader.get_metrics_data())) == [
        ("other", "foreign", ["a"]),
        ("test", "foreign", ["b"]),
        ("test", "m", ["c"]),
    ]


def test_producer_that_uses_a_scope_of_ours(
    make_provider: Make, reader: InMemoryMetricReader
) -> None:
    """Each scope is there once: OTLP loses the first of two that are equal."""
    ours = InstrumentationScope("m")
    producer = Producer([scoped("a", scope=ours), scoped("b", scope=ours)])
    provider = make_provider(reader, metric_producers=[producer])
    provider.get_meter("m").create_counter("c").add(1)
    data = reader.get_metrics_data()
    assert names(data) == [("test", "m", ["c", "a", "b"])]
    assert data is not None
    encoded = encode_metrics(data).resource_metrics[0].scope_metrics
    assert [[metric.name for metric in scope.metrics] for scope in encoded] == [["c", "a", "b"]]


@pytest.mark.parametrize(
    "wrong",
    [RuntimeError("broken"), None, 5, [5], [None], MetricsData([None])],  # type: ignore[list-item]
    ids=repr,
)
def test_producer_that_fails_is_left_out(
    make_provider: Make,
    reader: InMemoryMetricReader,
    caplog: pytest.LogCaptureFixture,
    wrong: Any,
) -> None:
    """An exception, or what is no metrics, is logged, and costs nobody else's metrics."""
    failing, good = Producer(wrong), Producer([scoped("a")])
    provider = make_provider(reader, metric_producers=[failing, good])
    provider.get_meter("m").create_counter("c").add(1)
    found = [("test", "m", ["c"]), ("test", "foreign", ["a"])]
    with caplog.at_level(logging.ERROR):
        assert names(reader.get_metrics_data()) == found
    assert "Producer failed to produce metrics." in caplog.text


def test_producer_runs_where_it_is_collected(
    buffer_path: Any, make_provider: Make, processes: Processes
) -> None:
    """Only the process that collects asks its producers."""
    asked, go_on = Gate(), Gate()

    def collect() -> int:
        producer = Producer([scoped("child")])
        reader = InMemoryMetricReader()
        provider = otel_shm.MeterProvider(
            [reader], buffer=buffer_path, metric_producers=[producer], shutdown_on_exit=False
        )
        assert names(reader.get_metrics_data())[0][2] == ["child"]
        asked.open()
        go_on.wait()
        del provider
        return len(producer.asked)

    child = processes.fork(collect)
    asked.wait()
    producer, reader = Producer([scoped("parent")]), InMemoryMetricReader()
    make_provider(reader, buffer=buffer_path, metric_producers=[producer])
    assert reader.get_metrics_data() is None
    assert producer.asked == []
    go_on.open()
    assert child.result() == 1
    assert names(reader.get_metrics_data())[0][2] == ["parent"]


def test_join() -> None:
    """Each resource once, in it each scope once; what has no metrics is gone."""
    first = InstrumentationScope("first")
    same = Resource({"service.name": "test"}, "https://resource")
    joined = join(
        [
            ResourceMetrics(OURS, [scoped("a"), scoped(scope=first)], "https://resource"),
            ResourceMetrics(OTHER, [scoped()], ""),
            ResourceMetrics(same, [scoped("b"), scoped("c", scope=first)], ""),
        ]
    )
    assert names(joined) == [("test", "foreign", ["a", "b"]), ("test", "first", ["c"])]
    assert joined is not None
    assert joined.resource_metrics[0].schema_url == "https://resource"
    assert join([]) is None
    assert join([ResourceMetrics(OURS, [], "")]) is None


def test_scopes_that_are_equal_but_not_the_same() -> None:
    """Version, schema and attributes tell scopes apart, as resources are told apart by all of theirs."""
    scopes = [
        InstrumentationScope("s"),
        InstrumentationScope("s", "1"),
        InstrumentationScope("s", "1", "https://schema"),
        InstrumentationScope("s", attributes={"a": 1}),
    ]
    metrics = [ResourceMetrics(OURS, [scoped("a", scope=scope)], "") for scope in scopes * 2]
    joined = join(metrics)
    assert names(joined) == [("test", "s", ["a", "a"])] * 4


def test_produced_keeps_what_is_its_own() -> None:
    """Scopes alone get the resource that is given, data keeps its resources."""
    made = produced(
        [Producer([scoped("a")]), Producer(MetricsData([ResourceMetrics(OTHER, [], "x")]))],
        OURS,
        50.0,
    )
    assert [each.resource for each in made] == [OURS, OTHER]
    assert made[0].schema_url == "https://resource"


def test_points_of_producers_reach_points(
    make_provider: Make, reader: InMemoryMetricReader
) -> None:
    """They are data like any other."""
    make_provider(reader, metric_producers=[Producer([scoped("a")])])
    (point,) = points_of(reader.get_metrics_data())
    assert (point.name, point.value, point.kind, point.unit) == ("a", 1, "Gauge", "1")
