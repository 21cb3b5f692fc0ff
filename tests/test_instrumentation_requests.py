# SPDX-License-Identifier: Apache-2.0
"""The instrumented `requests` tells on our provider what it tells on the SDK's."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests
from instrumented import Look, conventions, named, on_both, todays_conventions
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from receiver import Receiver  # pytest's `pythonpath` setting points at examples/
from recording import NEVER

import otel_shm

__all__ = ["conventions", "todays_conventions"]  # fixtures: found by their names in this module


class Answers(BaseHTTPRequestHandler):
    """Answers with the status that the path names."""

    def do_GET(self) -> None:
        self.send_response(int(self.path[1:]))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def log_message(self, *_: object) -> None:
        """Keeps the terminal to the tests."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Where a server answers."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def nobody() -> Iterator[str]:
    """Where nobody listens, and nobody can start to."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


@contextmanager
def instrumented(provider: MeterProvider) -> Iterator[requests.Session]:
    """A session whose requests are measured, whatever proxies the machine has."""
    RequestsInstrumentor().instrument(meter_provider=provider)
    try:
        with requests.Session() as session:
            session.trust_env = False
            yield session
    finally:
        RequestsInstrumentor().uninstrument()


@pytest.mark.parametrize("temporality", ["cumulative", "delta"])
def test_like_the_sdk(address: str, nobody: str, conventions: str, temporality: str) -> None:
    """The same metrics, series and counts: of good answers, of bad ones and of none."""

    def scenario(provider: MeterProvider, look: Look) -> None:
        with instrumented(provider) as session:
            for status in (200, 200, 404, 500):
                assert session.get(f"{address}/{status}").status_code == status
            session.put(f"{address}/201", data="1")
            with pytest.raises(requests.ConnectionError):
                session.get(f"{nobody}/")
            look()
            session.get(f"{address}/200")

    ours, stock = on_both(scenario, temporality)
    assert ours == stock
    first, last = map(named, ours)
    old = {"http.client.duration"} if conventions in ("", "http/dup") else set()
    new = {"http.client.request.duration"} if conventions else set()
    assert set(first) == set(last) == old | new
    for name in old | new:
        assert sorted(point[-2] for point in first[name].points.values()) == [1, 1, 1, 1, 2]
        counts = [point[-2] for point in last[name].points.values()]
        assert sorted(counts) == ([1] if temporality == "delta" else [1, 1, 1, 1, 3])


def test_exports_are_not_measured(address: str, todays_conventions: str) -> None:
    """An exporter that uses `requests` itself does not count its own exports."""
    with Receiver() as receiver:
        exporter = OTLPMetricExporter(f"{receiver.endpoint}/v1/metrics")
        provider = otel_shm.MeterProvider(
            [PeriodicExportingMetricReader(exporter, export_interval_millis=NEVER)],
            resource=Resource({}),
            shutdown_on_exit=False,
        )
        with instrumented(provider) as session:
            session.get(f"{address}/200")
            provider.force_flush()
            provider.force_flush()
            provider.shutdown()
    points = receiver.points("http.client.request.duration")
    assert [point.count for point in points] == [1, 1, 1]
    assert {point.attributes["server.port"] for point in points} == {int(address.split(":")[-1])}
