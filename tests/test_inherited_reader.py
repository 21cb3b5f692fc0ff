# SPDX-License-Identifier: Apache-2.0
"""Readers copied by fork are made usable; the private names that takes exist in what is installed."""

from __future__ import annotations

import threading
from importlib.metadata import version
from typing import Any
from unittest.mock import MagicMock, Mock

import pytest
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import (
    OTLPMetricExporter as GrpcExporter,
)
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.metric_exporter import (
    OTLPMetricExporter as HttpExporter,
)
from opentelemetry.sdk.metrics import MeterProvider as StockMeterProvider
from opentelemetry.sdk.metrics.export import (
    ConsoleMetricExporter,
    InMemoryMetricReader,
    MetricExporter,
    PeriodicExportingMetricReader,
)
from receiver import Receiver  # pytest's `pythonpath` setting points at examples/

from otel_shm.inherited_reader import renew

NEVER = 1e9  # milliseconds between exports


def periodic(exporter: MetricExporter) -> PeriodicExportingMetricReader:
    """A reader that exports when it is told to."""
    return PeriodicExportingMetricReader(exporter, export_interval_millis=NEVER)


#: Since 1.40; with older exporters a child that takes over keeps the parent's channel.
connects_again = pytest.mark.skipif(
    tuple(map(int, version("opentelemetry-exporter-otlp-proto-grpc").split(".")[:2])) < (1, 40),
    reason="this version of the gRPC exporter cannot connect again",
)


def session_of(exporter: HttpExporter) -> Any:
    """The requests.Session of the exporter, where the installed version has it."""
    client = getattr(exporter, "_client", None)
    return exporter._session if client is None else client._transport._session


def test_private_names_are_there() -> None:
    """A version of the SDK or its exporters that renames one of them must not go unnoticed."""
    reader = periodic(ConsoleMetricExporter())
    assert type(reader._export_lock) is type(threading.Lock())
    assert isinstance(reader._exporter, ConsoleMetricExporter)
    reader.shutdown()

    http_exporter = HttpExporter(endpoint="http://127.0.0.1:1")
    assert {"http://", "https://"} <= set(session_of(http_exporter).adapters)
    http_exporter.shutdown()


@connects_again
def test_private_names_of_grpc_are_there() -> None:
    """The gRPC exporter makes its channel and client where a new one is asked for."""
    exporter = GrpcExporter(endpoint="http://127.0.0.1:1", insecure=True)
    assert callable(exporter._initialize_channel_and_stub)
    assert exporter._channel is not None
    assert exporter._client is not None
    exporter.shutdown()


def test_lock_is_new() -> None:
    """A lock that a thread of the parent held is not waited for."""
    reader = periodic(ConsoleMetricExporter())
    with reader._export_lock:
        renew(reader)
        assert reader._export_lock.acquire(timeout=0)
    reader._export_lock.release()
    reader.shutdown()


@connects_again
def test_channel_is_new() -> None:
    """A gRPC channel of the parent is not used again, and not closed either."""
    exporter = GrpcExporter(endpoint="http://127.0.0.1:1", insecure=True)
    reader, channel, client = periodic(exporter), exporter._channel, exporter._client
    renew(reader)
    assert exporter._channel is not channel
    assert exporter._client is not client
    reader.shutdown()
    channel.close()


def test_pool_is_new() -> None:
    """A connection of the parent is not used again; how connections are made stays as it was."""
    exporter = HttpExporter(endpoint="http://127.0.0.1:1")
    reader, session = periodic(exporter), session_of(exporter)
    before = dict(session.adapters)
    pools = {prefix: adapter.poolmanager for prefix, adapter in before.items()}
    renew(reader)
    assert session_of(exporter) is session
    assert list(session.adapters) == list(before)
    for prefix, adapter in session.adapters.items():
        assert type(adapter) is type(before[prefix])
        assert adapter.poolmanager is not pools[prefix]
        assert adapter.max_retries.total == before[prefix].max_retries.total
        assert adapter.poolmanager.connection_pool_kw == pools[prefix].connection_pool_kw
    reader.shutdown()


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_exporter_sends_as_before(protocol: str) -> None:
    """Endpoint, headers and compression are those it was made with."""
    with Receiver(grpc=True) as receiver:
        exporter: Any
        if protocol == "grpc":
            exporter = GrpcExporter(receiver.grpc_endpoint, headers={"x-tenant": "t"})
        else:
            exporter = HttpExporter(
                f"{receiver.endpoint}/v1/metrics",
                headers={"x-tenant": "t"},
                compression=Compression.Gzip,
            )
        provider = StockMeterProvider([reader := periodic(exporter)], shutdown_on_exit=False)
        counter = provider.get_meter("m").create_counter("c")
        counter.add(1)
        provider.force_flush()
        renew(reader)
        counter.add(1)
        provider.force_flush()
        provider.shutdown()
    assert [point.value for point in receiver.points("c")][:2] == [1, 2]
    assert {request.headers["x-tenant"] for request in receiver.requests} == {"t"}
    encodings = {request.headers.get("content-encoding") for request in receiver.requests}
    assert encodings == ({"gzip"} if protocol == "http" else {None})


class Stranger(ConsoleMetricExporter):
    """Somebody's exporter that has names like those of the OTLP exporters for other things."""

    def __init__(self) -> None:
        super().__init__()
        self._client = None
        self._session = Mock(adapters=None)

    def _initialize_channel_and_stub(self, needed: Any) -> None:
        raise AssertionError("not ours to call")


@pytest.mark.parametrize(
    "make",
    [InMemoryMetricReader, Mock, MagicMock, lambda: periodic(Stranger())],
    ids=["in memory", "Mock", "MagicMock", "stranger"],
)
def test_other_readers_are_left_alone(make: Any) -> None:
    """A reader or exporter of another kind is no error."""
    reader = make()
    renew(reader)
    reader.shutdown()
