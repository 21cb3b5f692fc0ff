# SPDX-License-Identifier: Apache-2.0
"""MeterProvider: the SDK's signature, its readers, meters, flush, shutdown and resource."""

from __future__ import annotations

import gc
import inspect
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any
from unittest.mock import MagicMock, Mock

import pytest
from opentelemetry import metrics as api
from opentelemetry.sdk import metrics as sdk
from opentelemetry.sdk.metrics.export import (
    InMemoryMetricReader,
    MetricExporter,
    MetricExportResult,
    MetricReader,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.resources import Resource
from points import Point, points_of, values

import otel_shm
from otel_shm import MeterProvider

SDK_LOGGER = "opentelemetry.sdk.metrics._internal"
NEVER = 1e9  # milliseconds between exports: only flush and shutdown export

Make = Callable[..., MeterProvider]


class Exporter(MetricExporter):
    """Keeps what it gets."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.got: list[MetricsData] = []
        self.ended = 0

    def export(self, metrics_data: MetricsData, *_: Any, **__: Any) -> MetricExportResult:
        """Keeps one collection."""
        self.got.append(metrics_data)
        return MetricExportResult.SUCCESS

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Has nothing waiting."""
        return True

    def shutdown(self, timeout_millis: float = 30_000, **_: Any) -> None:
        """Counts how often it is ended."""
        self.ended += 1

    def points(self) -> list[Point]:
        """All points so far."""
        return [point for data in self.got for point in points_of(data)]


class Failing(InMemoryMetricReader):
    """A reader that cannot."""

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Fails."""
        raise RuntimeError("no flush")

    def shutdown(self, timeout_millis: float = 30_000, **_: Any) -> None:
        """Fails."""
        raise RuntimeError("no end")


def test_signature_begins_as_the_sdks() -> None:
    """Arguments by position mean the same; what is ours is by keyword and has a default."""
    ours = inspect.signature(MeterProvider).parameters
    stock = inspect.signature(sdk.MeterProvider).parameters
    by_position = [n for n, p in stock.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert list(ours)[: len(by_position)] == by_position
    for name in stock:
        assert (ours[name].kind, ours[name].default) == (stock[name].kind, stock[name].default)
    more = [parameter for name, parameter in ours.items() if name not in stock]
    assert all(p.kind is p.KEYWORD_ONLY and p.default in (None, ()) for p in more)
    for name in ("get_meter", "force_flush", "shutdown"):
        mine, theirs = (
            {
                n: (p.kind, p.default)
                for n, p in inspect.signature(getattr(c, name)).parameters.items()
            }
            for c in (MeterProvider, sdk.MeterProvider)
        )
        assert mine == theirs


def test_arguments_by_position(reader: InMemoryMetricReader) -> None:
    """Readers, resource, exemplar filter, at-exit and views, as code for the SDK passes them."""
    resource = Resource({"k": "v"})
    provider = MeterProvider([reader], resource, sdk.AlwaysOffExemplarFilter(), False, [])
    provider.get_meter("m").create_counter("c").add(1)
    (point,) = points_of(reader.get_metrics_data())
    assert point.resource == resource
    provider.shutdown()


def test_without_arguments() -> None:
    """No reader is no reason to fail: everything is measured, nobody looks."""
    provider = MeterProvider(shutdown_on_exit=False)
    provider.get_meter("m").create_counter("c").add(1)
    assert provider.force_flush() is True
    provider.shutdown()
    assert isinstance(provider, api.MeterProvider)


@pytest.mark.parametrize("first", [MeterProvider, sdk.MeterProvider])
@pytest.mark.parametrize("second", [MeterProvider, sdk.MeterProvider])
def test_a_reader_has_one_provider(
    reader: InMemoryMetricReader, first: type[Any], second: type[Any]
) -> None:
    """Of whatever class: the SDK's exception and text, and the first one is not disturbed."""
    provider = first([reader], shutdown_on_exit=False)
    counter = provider.get_meter("m").create_counter("c")
    counter.add(1)
    with pytest.raises(Exception, match="has been registered already in other") as raised:
        second([reader], shutdown_on_exit=False)
    text = f"MetricReader {reader} has been registered already in other MeterProvider instance"
    assert str(raised.value) == text
    counter.add(1)
    assert values(reader) == {"{}": 2}
    provider.shutdown()


def test_a_reader_twice_in_one_provider(reader: InMemoryMetricReader) -> None:
    """The same reader given twice is the same mistake."""
    with pytest.raises(Exception, match="has been registered already"):
        MeterProvider([reader, reader], shutdown_on_exit=False)


@pytest.mark.parametrize("stand_in", [Mock, MagicMock, lambda: Mock(spec=MetricReader)])
def test_stand_ins_for_readers(stand_in: Callable[[], Mock], make_provider: Make) -> None:
    """Tests of other projects pass mocks: they get the callback, flush and shutdown."""
    readers = [stand_in() for _ in range(3)]
    provider = make_provider(*readers)
    provider.get_meter("m").create_counter("c").add(1)
    provider.force_flush(timeout_millis=1000)
    provider.shutdown(timeout_millis=1000)
    for each in readers:
        (callback,), _ = each._set_collect_callback.call_args
        assert points_of(callback(each, timeout_millis=1000))[0].value == 1
        for method in (each.force_flush, each.shutdown):
            (((), options),) = method.call_args_list
            assert 0 < options["timeout_millis"] <= 1000


def test_meter_is_made_once(provider: MeterProvider) -> None:
    """The same scope is the same meter, the first argument is all that is needed."""
    assert provider.get_meter("m") is provider.get_meter("m")
    assert provider.get_meter("m", schema_url="s") is not provider.get_meter("m")


@pytest.mark.parametrize("name", ["", None])
def test_meter_without_a_name(
    provider: MeterProvider, name: Any, reader: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The SDK's warning and a meter that measures nothing, bind() included."""
    meter = provider.get_meter(name)
    assert caplog.record_tuples == [
        (SDK_LOGGER, logging.WARNING, "Meter name cannot be None or empty.")
    ]
    assert_measures_nothing(meter, reader)


@pytest.mark.parametrize("text", ["true", " TRUE ", "True"])
def test_disabled_sdk(
    text: str, monkeypatch: pytest.MonkeyPatch, make_provider: Make, reader: Any
) -> None:
    """OTEL_SDK_DISABLED: meters measure nothing."""
    monkeypatch.setenv("OTEL_SDK_DISABLED", text)
    assert_measures_nothing(make_provider(reader).get_meter("m"), reader)


@pytest.mark.parametrize("text", ["", "false", "1", "yes"])
def test_sdk_that_is_not_disabled(
    text: str, monkeypatch: pytest.MonkeyPatch, make_provider: Make, reader: Any
) -> None:
    """Any other value of OTEL_SDK_DISABLED leaves it on."""
    monkeypatch.setenv("OTEL_SDK_DISABLED", text)
    make_provider(reader).get_meter("m").create_counter("c").add(1)
    assert values(reader) == {"{}": 1}


def test_meter_of_a_provider_that_was_shut_down(
    provider: MeterProvider, reader: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The SDK's warning and a meter that measures nothing; the old instruments go on."""
    counter = provider.get_meter("m").create_counter("c")
    provider.shutdown()
    meter = provider.get_meter("m")
    assert caplog.record_tuples == [
        (SDK_LOGGER, logging.WARNING, "A shutdown `MeterProvider` can not provide a `Meter`")
    ]
    assert_measures_nothing(meter, reader)
    counter.add(1)
    assert values(reader) == {"{}": 1}


def assert_measures_nothing(meter: Any, reader: InMemoryMetricReader) -> None:
    """All that can be done with a meter can be done with it, without a point."""
    for instrument in (meter.create_counter("c"), meter.create_up_down_counter("u")):
        instrument.add(1, {"a": 1})
        instrument.bind({"a": 1}).add(1)
    meter.create_gauge("g").set(1)
    meter.create_gauge("g").bind().set(1)
    meter.create_histogram("h").record(1)
    meter.create_observable_gauge("o", [lambda _options: [api.Observation(1)]])
    assert isinstance(meter, api.Meter)
    assert reader.get_metrics_data() is None


def test_force_flush_tells_which_readers_failed(make_provider: Make) -> None:
    """The SDK's exception and text, a line each; the other readers were flushed."""
    exporter = Exporter()
    readers = [Failing(), PeriodicExportingMetricReader(exporter, NEVER), Failing()]
    provider = make_provider(*readers)
    provider.get_meter("m").create_counter("c").add(1)
    with pytest.raises(Exception, match="force_flush failed") as raised:
        provider.force_flush()
    assert str(raised.value) == (
        "MeterProvider.force_flush failed because the following metric readers failed during "
        "collect:\nFailing: RuntimeError('no flush')\nFailing: RuntimeError('no flush')"
    )
    assert [point.value for point in exporter.points()] == [1]
    with pytest.raises(Exception, match="shutdown failed"):
        provider.shutdown()


def test_shutdown_tells_which_readers_failed(make_provider: Make) -> None:
    """The SDK's exception and text; the other readers were stopped, and it stays shut down."""
    exporter = Exporter()
    provider = make_provider(Failing(), PeriodicExportingMetricReader(exporter, NEVER))
    provider.get_meter("m").create_counter("c").add(1)
    with pytest.raises(Exception, match="shutdown failed") as raised:
        provider.shutdown()
    assert str(raised.value) == (
        "MeterProvider.shutdown failed because the following metric readers failed during "
        "shutdown:\nFailing: RuntimeError('no end')"
    )
    assert [point.value for point in exporter.points()] == [1]
    assert exporter.ended == 1


@pytest.mark.parametrize("method", ["force_flush", "shutdown"])
def test_no_time_is_a_failure_of_each_reader(make_provider: Make, method: str) -> None:
    """With a timeout of zero nobody gets to run, and everybody is named."""
    provider = make_provider(InMemoryMetricReader(), Mock())
    with pytest.raises(Exception, match=f"MeterProvider.{method} failed") as raised:
        getattr(provider, method)(timeout_millis=0)
    assert [line.split(":")[0] for line in str(raised.value).splitlines()[1:]] == [
        "InMemoryMetricReader",
        "Mock",
    ]


def test_flush_returns_true(provider: MeterProvider) -> None:
    """As the API says; also when there was nothing to send."""
    assert provider.force_flush() is True


def test_shutdown_only_once(provider: MeterProvider, caplog: pytest.LogCaptureFixture) -> None:
    """The second time is a warning of the SDK and nothing else."""
    assert provider.shutdown() is None
    assert provider.shutdown() is None
    assert caplog.record_tuples == [
        (SDK_LOGGER, logging.WARNING, "shutdown can only be called once")
    ]


def test_shutdown_exports_a_last_time(make_provider: Make) -> None:
    """What was measured since the last tick is sent, then the exporter is ended."""
    exporter = Exporter()
    provider = make_provider(PeriodicExportingMetricReader(exporter, NEVER))
    counter = provider.get_meter("m").create_counter("c")
    counter.add(1)
    provider.force_flush()
    counter.add(1)
    provider.shutdown()
    assert [point.value for point in exporter.points()] == [1, 2]
    assert exporter.ended == 1


def test_shutdown_in_many_threads(make_provider: Make, caplog: pytest.LogCaptureFixture) -> None:
    """One of them does it, the others are warned."""
    exporter = Exporter()
    provider = make_provider(PeriodicExportingMetricReader(exporter, NEVER))
    provider.get_meter("m").create_counter("c").add(1)
    start = threading.Barrier(16)

    def work() -> None:
        start.wait()
        provider.shutdown()

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert exporter.ended == 1
    assert len(exporter.got) == 1
    texts = [record.getMessage() for record in caplog.records]
    assert texts == ["shutdown can only be called once"] * 15


def test_ticks_export(make_provider: Make) -> None:
    """A periodic reader exports by itself, again and again, the same series with the same start."""
    exporter = Exporter()
    provider = make_provider(PeriodicExportingMetricReader(exporter, 5))
    provider.get_meter("m").create_counter("c").add(1)
    deadline = time.monotonic() + 20
    while len(exporter.got) < 3 and time.monotonic() < deadline:
        time.sleep(0.005)
    provider.shutdown()
    assert len(exporter.got) >= 3
    assert len({point.start for point in exporter.points()}) == 1
    assert {point.value for point in exporter.points()} == {1}


def test_all_is_collectable_after_shutdown() -> None:
    """Provider, reader, exporter, buffer and meters go when nobody has them any more."""
    gc.collect()
    before = set(os.listdir("/proc/self/fd"))
    exporter = Exporter()
    reader = PeriodicExportingMetricReader(exporter, NEVER)
    provider = MeterProvider([reader], shutdown_on_exit=True)
    meter = provider.get_meter("m")
    meter.create_observable_gauge("g", [lambda _options: []])
    counter = meter.create_counter("c")
    counter.add(1, {"a": 1})
    provider.force_flush()
    provider.shutdown()
    gone = [weakref.ref(x) for x in (provider, reader, exporter, meter, counter, provider.buffer)]
    del provider, reader, exporter, meter, counter
    gc.collect()
    assert [reference() for reference in gone] == [None] * 6
    assert set(os.listdir("/proc/self/fd")) <= before


def test_buffer_may_be_given_as_an_object(make_provider: Make, reader: Any) -> None:
    """A Buffer made beforehand is used as it is."""
    buffer = otel_shm.Buffer(series=5)
    provider = make_provider(reader, buffer=buffer)
    assert provider.buffer is buffer
    assert provider.buffer.statistics.series_capacity == 5
