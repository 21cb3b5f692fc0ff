# SPDX-License-Identifier: Apache-2.0
"""What the instruments were given is what a real OTLP collector gets, over gRPC and over HTTP."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import (
    OTLPMetricExporter as GrpcExporter,
)
from opentelemetry.exporter.otlp.proto.http.metric_exporter import (
    OTLPMetricExporter as HttpExporter,
)
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics.export import MetricExporter, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from otlp_collector import Collector, Point, otlp_collector

import otel_shm

__all__ = ["otlp_collector"]  # a fixture: found by its name in this module

NEVER = 1e9  # milliseconds between exports: only flushes and the shutdown export here
SERIES = 2_000  # as many as the SDK allows an instrument without being told otherwise


@pytest.fixture(params=["grpc", "http"])
def exporter(request: pytest.FixtureRequest, otlp_collector: Collector) -> MetricExporter:
    """The SDK's own OTLP exporter, of either protocol."""
    if request.param == "grpc":
        return GrpcExporter(endpoint=otlp_collector.grpc_endpoint, insecure=True)
    return HttpExporter(endpoint=otlp_collector.http_endpoint)


@pytest.fixture
def provider(exporter: MetricExporter) -> otel_shm.MeterProvider:
    """A provider that exports when it is flushed or shut down; the test does either."""
    return otel_shm.MeterProvider(
        metric_readers=[PeriodicExportingMetricReader(exporter, export_interval_millis=NEVER)],
        resource=Resource({"service.name": "round-trip", "größe": 1.5, "tags": ["a", "b"]}),
        # A test that failed before its own shutdown must not export to a collector that is gone.
        shutdown_on_exit=False,
    )


def exact(value: Any) -> str:
    """Text that tells 1, 1.0, True and "1" apart, and forgets the order of keys."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {exact(value[key])}" for key in sorted(value)) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(exact, value)) + "]"
    return repr(value)


def totals(points: list[Point]) -> dict[tuple[str, str], int | float]:
    """Value by metric name and attributes; every series must be there once only."""
    values = {(point.name, exact(point.attributes)): point.value for point in points}
    assert len(values) == len(points), "a series arrived more than once"
    return values


def test_every_series_arrives_once(
    provider: otel_shm.MeterProvider, otlp_collector: Collector
) -> None:
    """2,000 series of one counter arrive as 2,000 points, each with its own total."""
    counter = provider.get_meter("round_trip").create_counter("requests")
    attributes: list[dict[str, Any]] = [
        {"route": f"/items/{n}", "shard": n % 7, "odd": n % 2 == 1} for n in range(SERIES)
    ]
    for n, each in enumerate(attributes):
        counter.add(n, each)
        counter.add(1, each)
    provider.shutdown()
    expected = {("requests", exact(each)): n + 1 for n, each in enumerate(attributes)}
    assert totals(otlp_collector.points(SERIES)) == expected


def test_every_instrument_arrives_as_what_it_is(
    provider: otel_shm.MeterProvider, otlp_collector: Collector
) -> None:
    """Kind, direction, unit, description and value of each kind of instrument arrive."""

    def observe(options: CallbackOptions) -> Iterator[Observation]:
        yield Observation(-3, {"sensor": "a"})
        yield Observation(0.5, {"sensor": "b"})

    meter = provider.get_meter("round_trip")
    meter.create_counter("ints", unit="{request}", description="Größe ☃").add(2**53 + 1)
    floats = meter.create_counter("floats", unit="s", description="a\nb")
    for _ in range(10):
        floats.add(0.1)
    updown = meter.create_up_down_counter("updown", unit="By")
    updown.add(5)
    updown.add(-12)
    meter.create_gauge("gauge", unit="Cel", description="warm").set(21.5)
    meter.create_observable_gauge("observed", [observe], unit="1")
    before = time.time_ns()
    provider.shutdown()

    counted, gauged = ("Sum", "AGGREGATION_TEMPORALITY_CUMULATIVE"), ("Gauge", None)
    points = otlp_collector.points(6)
    assert {
        (p.name, p.unit, p.description, p.kind, p.temporality, p.monotonic, exact(p.attributes)): (
            p.value
        )
        for p in points
    } == {
        ("ints", "{request}", "Größe ☃", *counted, True, "{}"): 2**53 + 1,
        ("floats", "s", "a\nb", *counted, True, "{}"): pytest.approx(1.0, abs=1e-15),
        ("updown", "By", "", *counted, False, "{}"): -7,
        ("gauge", "Cel", "warm", *gauged, None, "{}"): 21.5,
        ("observed", "1", "", *gauged, None, "{'sensor': 'a'}"): -3,
        ("observed", "1", "", *gauged, None, "{'sensor': 'b'}"): 0.5,
    }
    assert len(points) == 6
    for point in points:
        assert before <= point.time_unix_nano <= time.time_ns()
        assert point.kind == "Gauge" or 0 < point.start_unix_nano <= before


ATTRIBUTES: list[dict[str, Any]] = [
    {},
    {"str": "1"},
    {"str": ""},
    {"unicode": "größe ☃ 😀 \u202e مرحبا 日本"},
    {"unicode größe ☃": "key"},
    {"lines": 'a\nb\t"c" \\d'},
    {"long": "x" * 10_000},
    {"bool": True},
    {"bool": False},
    {"int": 1},
    {"int": -(2**63)},
    {"int": 2**63 - 1},
    {"float": 1.0},
    {"float": -0.1},
    {"float": 1e300},
    {"float": 5e-324},
    {"bytes": b""},
    {"bytes": bytes(range(256))},
    {"none": None},
    {"array": ()},
    {"array": ("a", "größe")},
    {"array": (1, 2)},
    {"array": (1.0, 2.5)},
    {"array": (True, False)},
    {"array": (b"\x00", b"\xff")},
    {"array": (1, "a", None, 2.0, True, b"b")},
    {"array": ((1, 2), ("a",), ())},
    {"map": {}},
    {"map": {"a": 1, "b": "größe", "c": None}},
    {"map": {"a": {"b": {"c": (1, {"d": b"e"}, 1.5)}}, "f": {}}},
    # One attribute name, one series for each type of value.
    {"same": 1},
    {"same": 1.0},
    {"same": True},
    {"same": "1"},
    {"same": b"1"},
    {"same": (1,)},
    {"same": None},
    {"a": 1, "b": "two", "c": 3.0, "d": True, "e": None, "f": b"6", "g": (7,), "h": {"i": 8}},
]


def test_every_type_of_attribute_arrives(
    provider: otel_shm.MeterProvider, otlp_collector: Collector
) -> None:
    """Each attribute set is a series of its own and arrives with its types, nested ones too."""
    counter = provider.get_meter("round_trip").create_counter("typed")
    for n, attributes in enumerate(ATTRIBUTES):
        counter.add(n, attributes)
    for attributes in ATTRIBUTES:
        counter.add(100, dict(reversed(attributes.items())))
    provider.shutdown()
    expected = {("typed", exact(attributes)): 100 + n for n, attributes in enumerate(ATTRIBUTES)}
    assert totals(otlp_collector.points(len(ATTRIBUTES))) == expected


def test_bound_and_unbound_calls_add_to_one_series(
    provider: otel_shm.MeterProvider, otlp_collector: Collector
) -> None:
    """What is bound to an attribute set is the same series as a call with that set."""
    meter: Any = provider.get_meter("round_trip")  # the API's Meter knows of no bind
    counter, gauge = meter.create_counter("requests"), meter.create_gauge("level")
    counter.bind({"route": "/", "status": 200}).add(2)
    counter.add(3, {"status": 200, "route": "/"})
    gauge.set(1, {"tank": "a"})
    gauge.bind({"tank": "a"}).set(4.5)
    provider.shutdown()
    assert totals(otlp_collector.points(2)) == {
        ("requests", "{'route': '/', 'status': 200}"): 5,
        ("level", "{'tank': 'a'}"): 4.5,
    }


def test_resource_and_scope_arrive(
    provider: otel_shm.MeterProvider, otlp_collector: Collector
) -> None:
    """Every scope's points come under its name, version and attributes and the one resource."""
    first = provider.get_meter("first", "1.2", attributes={"größe": "☃", "n": 1})
    first.create_counter("requests").add(1)
    provider.get_meter("second").create_counter("requests").add(2)
    provider.shutdown()
    points = otlp_collector.points(2)
    assert sorted((p.scope.strip(), exact(p.scope_attributes), p.value) for p in points) == [
        ("first 1.2", "{'größe': '☃', 'n': 1}", 1),
        ("second", "{}", 2),
    ]
    for point in points:
        assert point.resource["service.name"] == "round-trip"
        assert point.resource["größe"] == 1.5
        assert point.resource["tags"] == ("a", "b")


def test_totals_go_on_from_export_to_export(
    provider: otel_shm.MeterProvider, otlp_collector: Collector
) -> None:
    """Each export carries the total so far, later in time and from the same start."""
    counter = provider.get_meter("round_trip").create_counter("requests")
    for _ in range(2):
        counter.add(1, {"route": "/"})
        counter.add(0.5, {"route": "/float"})
        assert provider.force_flush()
    provider.shutdown()
    points = otlp_collector.points(6)
    for route, values in (("/", [1, 2, 2]), ("/float", [0.5, 1.0, 1.0])):
        series = [point for point in points if point.attributes == {"route": route}]
        series.sort(key=lambda point: point.time_unix_nano)
        assert [point.value for point in series] == values
        assert len({point.start_unix_nano for point in series}) == 1
        assert len({point.time_unix_nano for point in series}) == len(values)


def test_forked_workers_arrive_as_one_total(
    provider: otel_shm.MeterProvider, otlp_collector: Collector
) -> None:
    """What forked workers add before they are gone is in the one point their parent exports."""
    counter = provider.get_meter("round_trip").create_counter("requests")
    counter.add(1, {"route": "/"})
    workers = []
    for _ in range(4):
        worker = os.fork()
        if worker == 0:
            failed = 1
            try:
                for _ in range(1_000):
                    counter.add(1, {"route": "/"})
                counter.add(1, {"worker": "new"})
                failed = 0
            finally:
                os._exit(failed)  # no exit handlers: not one of them exports
        workers.append(worker)
    assert [os.waitpid(worker, 0)[1] for worker in workers] == [0] * 4
    provider.shutdown()
    assert totals(otlp_collector.points(2)) == {
        ("requests", "{'route': '/'}"): 4_001,
        ("requests", "{'worker': 'new'}"): 4,
    }
