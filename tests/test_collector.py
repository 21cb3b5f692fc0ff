# SPDX-License-Identifier: Apache-2.0
"""Collecting: the same MetricsData as the SDK's, in one process at a time, whatever the file holds."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.sdk import metrics as sdk
from opentelemetry.sdk.metrics import MetricsTimeoutError
from opentelemetry.sdk.metrics.export import (
    ConsoleMetricExporter,
    InMemoryMetricReader,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.resources import Resource
from points import exact, points_of, values
from processes import Processes, processes
from prometheus_client import CollectorRegistry, generate_latest
from sdk_version import todays_sdk

from otel_shm import Meter, MeterProvider

__all__ = ["processes"]  # a fixture: found by its name in this module

Make = Callable[..., MeterProvider]
RESOURCE = Resource({"service.name": "compared", "n": 1, "list": ["a", "b"]}, "https://resource")

ATTRIBUTES: list[Any] = [
    None,
    {},
    {"a": 1},
    {"a": True},
    {"a": 1.0},
    {"a": "1"},
    {"b": 2, "a": 1},
    {"list": [1, "x", None, [2.5]], "map": {"k": {"deep": b"bytes"}}},
    {"unicode": "größe \U0001f600", "empty": "", "none": None},
]
# Eighths add up exactly, in whatever order.
INTS = st.integers(-(2**40), 2**40)
FLOATS = st.integers(-(2**40), 2**40).map(lambda n: n / 8)
CALLS = st.lists(
    st.one_of(
        st.tuples(
            st.just("counter"), st.integers(0, 2), INTS | FLOATS, st.sampled_from(ATTRIBUTES)
        ),
        st.tuples(st.just("updown"), st.integers(0, 1), INTS | FLOATS, st.sampled_from(ATTRIBUTES)),
        st.tuples(st.just("gauge"), st.just(0), INTS, st.sampled_from(ATTRIBUTES)),
        st.tuples(st.just("gauge"), st.just(1), FLOATS, st.sampled_from(ATTRIBUTES)),
        st.tuples(st.just("observed"), st.just(0), INTS, st.sampled_from(ATTRIBUTES)),
    ),
    max_size=40,
)


class Scene:
    """Some meters and instruments of a provider, of whatever class, and what is observed."""

    def __init__(self, provider: Any) -> None:
        first = provider.get_meter("first", "1.0", "https://first", {"k": (1, "v")})
        second = provider.get_meter("second")
        self.observed: list[Observation] = []
        self.instruments: dict[str, list[Any]] = {
            "counter": [
                first.create_counter("Requests.Total", "{request}", "All of them"),
                first.create_counter("requests.total", "ms"),
                second.create_counter("requests.total", "{request}", "All of them"),
            ],
            "updown": [
                second.create_up_down_counter("in/flight", description="two\nlines"),
                first.create_up_down_counter("requests.total", "{request}", "All of them"),
            ],
            "gauge": [first.create_gauge("level", "By"), second.create_gauge("level", "By")],
        }
        second.create_observable_gauge("seen", [lambda _options: list(self.observed)], "Cel", "d")

    def call(self, kind: str, which: int, amount: float, attributes: Any) -> None:
        """Measures once."""
        if kind == "observed":
            self.observed.append(Observation(amount, attributes))
        elif kind == "gauge":
            self.instruments[kind][which].set(amount, attributes)
        else:
            self.instruments[kind][which].add(amount, attributes)


def both() -> list[tuple[InMemoryMetricReader, Any]]:
    """A provider of ours and one of the SDK's, each with a reader."""
    pairs = []
    for provider_class in (MeterProvider, sdk.MeterProvider):
        reader = InMemoryMetricReader()
        pairs.append((reader, provider_class([reader], RESOURCE, shutdown_on_exit=False)))
    return pairs


def comparable(data: MetricsData | None) -> list[tuple[Any, ...]]:
    """All of the points but their times, with types; attributes in any order."""
    return [
        (
            *(point.resource, point.scope.name, point.scope.version, point.scope.schema_url),
            exact(dict(point.scope.attributes or {})),
            *(point.name, point.unit, point.description),
            *(point.kind, point.monotonic, point.temporality),
            exact(point.attributes),
            exact(point.value),
            point.start is None,
        )
        for point in points_of(data)
    ]


def encoded(data: MetricsData | None) -> ExportMetricsServiceRequest:
    """As the OTLP exporters send it, but the times, and with sorted attributes."""
    message = encode_metrics(data or MetricsData(resource_metrics=[]))

    def sort(entries: Any) -> None:
        for entry in entries:
            sort(entry.value.kvlist_value.values)
        entries.sort(key=lambda entry: entry.key)

    for resource in message.resource_metrics:
        sort(resource.resource.attributes)
        for scope in resource.scope_metrics:
            sort(scope.scope.attributes)
            for metric in scope.metrics:
                for point in getattr(metric, metric.WhichOneof("data")).data_points:
                    sort(point.attributes)
                    point.ClearField("start_time_unix_nano")
                    point.ClearField("time_unix_nano")
    return message


@todays_sdk
@given(calls=CALLS, collect_after=st.integers(0, 40))
def test_same_calls_give_the_same_data(calls: list[Any], collect_after: int) -> None:
    """Point by point and in the same order as the SDK, and the same when encoded as OTLP."""
    (reader, provider), (stock_reader, stock_provider) = both()
    scenes = [Scene(provider), Scene(stock_provider)]
    for number, call in enumerate(calls):
        if number == collect_after:
            assert comparable(reader.get_metrics_data()) == comparable(
                stock_reader.get_metrics_data()
            )
        for scene in scenes:
            scene.call(*call)
    data, stock_data = reader.get_metrics_data(), stock_reader.get_metrics_data()
    assert (data is None) == (stock_data is None)
    assert comparable(data) == comparable(stock_data)
    assert encoded(data) == encoded(stock_data)
    provider.shutdown()
    stock_provider.shutdown()


def test_data_is_made_of_the_sdks_classes(meter: Meter, reader: InMemoryMetricReader) -> None:
    """Exporters ask for types, lengths and JSON: all of them find what they know."""
    meter.create_counter("c").add(1, {"a": 1})
    meter.create_gauge("g").set(1.5)
    data = reader.get_metrics_data()
    assert data is not None
    text = json.loads(data.to_json())
    assert [m["name"] for m in text["resource_metrics"][0]["scope_metrics"][0]["metrics"]] == [
        "c",
        "g",
    ]
    (resource,) = data.resource_metrics
    (scope,) = resource.scope_metrics
    assert [type(metric.data) for metric in scope.metrics] == [sdk.export.Sum, sdk.export.Gauge]
    assert [len(metric.data.data_points) for metric in scope.metrics] == [1, 1]
    for metric in scope.metrics:
        assert type(metric.data.data_points[0]) is sdk.export.NumberDataPoint
        assert list(metric.data.data_points[0].exemplars) == []


def test_times(meter: Meter, reader: InMemoryMetricReader) -> None:
    """A series' start never changes, is not after the end, and differs between series."""
    counter = meter.create_counter("c")
    counter.add(1, {"n": 1})
    (first,) = points_of(reader.get_metrics_data())
    counter.add(1, {"n": 1})
    counter.add(1, {"n": 2})
    second = points_of(reader.get_metrics_data())
    assert first.start is not None
    assert second[0].start == first.start
    assert second[1].start is not None
    assert first.start < second[1].start
    assert first.time < second[0].time == second[1].time
    assert all(point.start is not None and point.start <= point.time for point in second)


def test_nothing_measured_is_no_data(meter: Meter, reader: InMemoryMetricReader) -> None:
    """Instruments alone make no data: None, so that no exporter prints or sends."""
    meter.create_counter("c").bind({"a": 1})
    meter.create_gauge("g")
    assert reader.get_metrics_data() is None


def test_very_deep_attributes_harm_no_other_metric(
    meter: Meter, reader: InMemoryMetricReader
) -> None:
    """What no OTLP message can hold is left out; the other points still can be encoded."""
    value: Any = 1
    counter = meter.create_counter("c")
    for depth in range(60):
        value = [value]
        counter.add(1, {"deep": value, "depth": depth})
    meter.create_counter("good").add(1)
    data = reader.get_metrics_data()
    assert len(points_of(data)) == 61
    message = ExportMetricsServiceRequest.FromString(encode_metrics(data).SerializeToString())
    names = [metric.name for metric in message.resource_metrics[0].scope_metrics[0].metrics]
    assert names == ["c", "good"]


def test_only_one_process_gets_data(
    make_provider: Make, reader: InMemoryMetricReader, processes: Processes
) -> None:
    """Who forks the others is the one; everybody else's reader gets nothing."""
    counter = make_provider(reader).get_meter("m").create_counter("c")

    def work() -> dict[str, Any] | None:
        counter.add(10)
        return values(reader) if reader._collect(reader) else None

    counter.add(1)
    assert processes.fork(work).result() is None
    assert values(reader) == {"{}": 11}
    assert processes.fork(work).result() is None
    assert values(reader) == {"{}": 21}


@todays_sdk
def test_prometheus_is_answered_in_any_process(
    make_provider: Make, reader: InMemoryMetricReader, processes: Processes
) -> None:
    """Whichever worker is scraped shows the total of all, also while another one exports."""
    registry = CollectorRegistry()
    provider = make_provider(reader, PrometheusMetricReader(registry=registry))
    counter = provider.get_meter("m").create_counter("hits")
    counter.add(1)
    assert values(reader) == {"{}": 1}

    def scrape() -> tuple[bool, str]:
        counter.add(10)
        return reader.get_metrics_data() is None, generate_latest(registry).decode()

    for expected in (11.0, 21.0):
        exports_nothing, text = processes.fork(scrape).result()
        assert exports_nothing
        assert f'hits_total{{otel_scope_name="m"}} {expected}\n' in text.replace(
            ',otel_scope_schema_url="",otel_scope_version=""', ""
        )
    assert "21.0" in generate_latest(registry).decode()


@todays_sdk
def test_prometheus_text(make_provider: Make) -> None:
    """The stock Prometheus exporter works unchanged; the text passes Prometheus' own check."""
    registry = CollectorRegistry()
    provider = make_provider(PrometheusMetricReader(registry=registry))
    meter = provider.get_meter("m", "1.0")
    meter.create_counter("http.requests", "1", "Requests").add(3, {"route": "/", "code": 200})
    meter.create_up_down_counter("in.flight", description="Now").add(-2)
    meter.create_gauge("temperature", "Cel", "Outside").set(1.5)
    meter.create_observable_gauge("load", [lambda _o: [Observation(7)]], description="Load")
    text = generate_latest(registry).decode()
    samples = [line for line in text.splitlines() if not line.startswith("#")]
    assert sum(line.startswith(("http_requests", "in_flight", "load")) for line in samples) == 3
    for kind in ("counter", "gauge"):
        assert f" {kind}\n" in text
    assert any('code="200"' in line and line.endswith(" 3.0") for line in samples)
    promtool = shutil.which("promtool")
    if promtool:
        check = subprocess.run(
            [promtool, "check", "metrics"], input=text, text=True, capture_output=True, timeout=60
        )
        assert "error" not in (check.stdout + check.stderr).lower(), check.stderr


def test_console_exporter(make_provider: Make) -> None:
    """The stock console exporter prints what was measured, and nothing where nothing was."""
    out = io.StringIO()
    reader = PeriodicExportingMetricReader(ConsoleMetricExporter(out=out), 1e9)
    provider = make_provider(reader)
    provider.force_flush()
    assert out.getvalue() == ""
    provider.get_meter("m").create_counter("c").add(2, {"a": [1]})
    provider.force_flush()
    (metric,) = json.loads(out.getvalue())["resource_metrics"][0]["scope_metrics"][0]["metrics"]
    assert metric["data"]["data_points"][0]["value"] == 2
    assert metric["data"]["data_points"][0]["attributes"] == {"a": [1]}


def test_collections_do_not_overlap(make_provider: Make) -> None:
    """Fifty threads that collect: one at a time, each complete."""
    readers = [InMemoryMetricReader() for _ in range(5)]
    meter = make_provider(*readers).get_meter("m")
    running, most, count = 0, 0, 0

    def observe(_options: CallbackOptions) -> Iterable[Observation]:
        nonlocal running, most, count
        running += 1
        most, count = max(most, running), count + 1
        threading.Event().wait(0.001)
        running -= 1
        return [Observation(1)]

    meter.create_observable_gauge("g", [observe])
    meter.create_counter("c").add(1)
    start, seen = threading.Barrier(50), []

    def collect(reader: InMemoryMetricReader) -> None:
        start.wait()
        data = reader._collect(reader, timeout_millis=60_000)  # type: ignore[misc]
        seen.append({point.name for point in points_of(data)})

    threads = [threading.Thread(target=collect, args=[readers[n % 5]]) for n in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, count) == (1, 50)
    assert seen == [{"g", "c"}] * 50


def test_waiting_for_another_collection_times_out(
    meter: Meter, reader: InMemoryMetricReader
) -> None:
    """MetricsTimeoutError, the one exception that the SDK's readers know how to take."""
    inside, go_on = threading.Event(), threading.Event()

    def observe(_options: CallbackOptions) -> Iterable[Observation]:
        inside.set()
        go_on.wait(60)
        return []

    meter.create_observable_gauge("g", [observe])
    meter.create_counter("c").add(1)
    thread = threading.Thread(target=reader.get_metrics_data)
    thread.start()
    assert inside.wait(60)
    with pytest.raises(MetricsTimeoutError):
        reader._collect(reader, timeout_millis=10)  # type: ignore[misc]
    go_on.set()
    thread.join()
    assert values(reader) == {"{}": 1}


def test_a_failing_scan_is_a_timeout_to_the_reader(
    meter: Meter,
    reader: InMemoryMetricReader,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Anything else would end the SDK's export thread for good; it is logged and tried again."""
    meter.create_counter("c").add(1)
    with monkeypatch.context() as patched:
        patched.setattr("otel_shm.scanner.Scanner.collect", no_memory)
        with contextlib.suppress(MetricsTimeoutError):
            assert reader.get_metrics_data() is None
    assert any(record.levelno >= logging.WARNING for record in caplog.records)
    assert values(reader) == {"{}": 1}


def no_memory(*_: Any) -> Any:
    """A scan that gets no memory."""
    raise MemoryError("no memory to scan the buffer")
