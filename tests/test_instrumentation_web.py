# SPDX-License-Identifier: Apache-2.0
"""Instrumented web services tell on our provider what they tell on the SDK's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fastapi
import flask
import pytest
from instrumented import Look, Told, conventions, named, on_both, todays_conventions
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware as AsgiMiddleware
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware as WsgiMiddleware
from opentelemetry.metrics import MeterProvider
from opentelemetry.sdk import metrics as sdk
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.metrics.view import (
    DropAggregation,
    ExponentialBucketHistogramAggregation,
    View,
)
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON
from werkzeug.test import Client

import otel_shm

__all__ = ["conventions", "todays_conventions"]  # fixtures: found by their names in this module

Send = Callable[[str, str], int]  # method and path of a request; the status of the answer
REQUESTS = [
    *(("GET", "/"), ("GET", "/"), ("GET", "/users/ann"), ("GET", "/users/bob")),
    *(("GET", "/nowhere"), ("DELETE", "/"), ("POST", "/"), ("GET", "/broken"), ("GET", "/look")),
]
STATUS = [200, 200, 200, 200, 404, 405, 201, 500, 200]
BODY = "0123456789"


def wsgi(meters: MeterProvider, look: Callable[[], object], tracers: Any = None) -> Send:
    """A WSGI application in the middleware."""

    def app(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        if path == "/broken":
            raise ZeroDivisionError
        if path == "/look":
            look()
        known = path in ("/", "/look") or path.startswith("/users/")
        status = {"POST": "201 Created", "DELETE": "405 Not Allowed"}.get(method, "200 OK")
        start_response(status if known else "404 Not Found", [("Content-Length", "10")])
        return [BODY.encode()]

    client = Client(WsgiMiddleware(app, tracer_provider=tracers, meter_provider=meters))

    def send(method: str, path: str) -> int:
        try:
            return client.open(path, method=method, data=BODY).status_code
        except ZeroDivisionError:
            return 500

    return send


def flask_app(meters: MeterProvider, look: Callable[[], object], tracers: Any = None) -> Send:
    """A Flask application, instrumented."""
    app = flask.Flask(__name__)
    app.logger.disabled = True  # of the tracebacks of /broken

    @app.get("/")
    @app.get("/users/<name>")
    def answer(name: str = "") -> str:
        return BODY

    @app.post("/")
    def make() -> tuple[str, int]:
        return BODY, 201

    @app.get("/look")
    def looked_at() -> str:
        look()
        return BODY

    @app.get("/broken")
    def broken() -> str:
        raise ZeroDivisionError

    FlaskInstrumentor().instrument_app(app, tracer_provider=tracers, meter_provider=meters)

    def send(method: str, path: str) -> int:
        return app.test_client().open(path, method=method, data=BODY).status_code

    return send


def asgi(meters: MeterProvider, look: Callable[[], object], tracers: Any = None) -> Send:
    """An ASGI application in the middleware."""

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await receive()
        method, path = scope["method"], scope["path"]
        if path == "/broken":
            raise ZeroDivisionError
        if path == "/look":
            look()
        known = path in ("/", "/look") or path.startswith("/users/")
        status = {"POST": 201, "DELETE": 405}.get(method, 200) if known else 404
        headers = [(b"content-length", b"10")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": BODY.encode()})

    return asgi_client(AsgiMiddleware(app, tracer_provider=tracers, meter_provider=meters))


def fastapi_app(meters: MeterProvider, look: Callable[[], object], tracers: Any = None) -> Send:
    """A FastAPI application, instrumented; some of its functions run in other threads."""
    app = fastapi.FastAPI()

    @app.get("/")
    async def root() -> str:
        return BODY

    @app.get("/users/{name}")
    def user(name: str) -> str:
        return BODY

    @app.post("/", status_code=201)
    async def make() -> str:
        return BODY

    @app.get("/look")
    def looked_at() -> str:
        look()
        return BODY

    @app.get("/broken")
    def broken() -> str:
        raise ZeroDivisionError

    FastAPIInstrumentor.instrument_app(app, tracer_provider=tracers, meter_provider=meters)
    return asgi_client(app)


def asgi_client(app: Any) -> Send:
    """Sends requests to an ASGI application, each in an event loop of its own."""

    async def call(method: str, path: str) -> int:
        messages: list[dict[str, Any]] = []
        body = [{"type": "http.request", "body": BODY.encode(), "more_body": False}]

        async def receive() -> dict[str, Any]:
            return body.pop() if body else {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            messages.append(message)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"content-length", b"10")],
            "server": ("localhost", 80),
            "client": ("127.0.0.1", 50000),
        }
        try:
            await app(scope, receive, send)
        except ZeroDivisionError:
            return 500
        return int(messages[0]["status"])

    return lambda method, path: asyncio.run(call(method, path))


@pytest.fixture(params=[wsgi, flask_app, asgi, fastapi_app])
def service(request: pytest.FixtureRequest) -> Any:
    """An instrumented service in each of the ways."""
    yield request.param
    # What the instrumentation does to the whole process.
    FastAPIInstrumentor.uninstrument_app(fastapi.FastAPI())


ACTIVE = "http.server.active_requests"


def duration(conventions: str) -> str:
    """The name of the durations; of the old ones where there are both."""
    return "http.server.request.duration" if conventions == "http" else "http.server.duration"


def count(metric: Told) -> int:
    """How many durations there are in all series."""
    return sum(point[-2] for point in metric.points.values())


def names(service: Any, conventions: str) -> set[str]:
    """The metrics that there are to be."""
    has_sizes = service in (asgi, fastapi_app)
    found = {ACTIVE}
    if conventions in ("", "http/dup"):
        found |= {"http.server.duration"}
        found |= {"http.server.request.size", "http.server.response.size"} if has_sizes else set()
    if conventions in ("http", "http/dup"):
        found |= {"http.server.request.duration"}
        if has_sizes:
            found |= {"http.server.request.body.size", "http.server.response.body.size"}
    return found


@pytest.mark.parametrize("temporality", ["cumulative", "delta"])
def test_like_the_sdk(service: Any, conventions: str, temporality: str) -> None:
    """The same metrics, series, counts and sizes, while a request is running and after it."""

    def scenario(provider: MeterProvider, look: Look) -> None:
        send = service(provider, look)
        assert [send(*request) for request in REQUESTS] == STATUS
        look()
        send("GET", "/")

    ours, stock = on_both(scenario, temporality)
    assert ours == stock
    during, after, later = map(named, ours)
    assert set(during) | set(after) == names(service, conventions)
    assert sorted(during[ACTIVE].points.values()) == ["0", "0", "1"]  # by method
    assert sorted(after[ACTIVE].points.values()) == ["0", "0", "0"]
    counts = [count(look[duration(conventions)]) for look in (during, after, later)]
    total = len(REQUESTS)
    assert counts == (
        [total - 1, 1, 1] if temporality == "delta" else [total - 1, total, total + 1]
    )


def test_threads(service: Any, todays_conventions: str) -> None:
    """Requests in several threads at once: not one is missing, none is still active."""

    def scenario(provider: MeterProvider, look: Look) -> None:
        send = service(provider, look)
        send("GET", "/")  # FastAPI puts its middleware together at the first request
        with ThreadPoolExecutor(4) as threads:
            assert set(threads.map(lambda _: send("GET", "/"), range(99))) == {200}

    ours, stock = on_both(scenario)
    assert ours == stock
    (after,) = map(named, ours)
    assert list(after[ACTIVE].points.values()) == ["0"]
    assert count(after[duration(todays_conventions)]) == 100


def test_views(service: Any, todays_conventions: str) -> None:
    """Other buckets, fewer attributes, one instrument left out: as the views have it."""
    views = [
        View(
            instrument_name=duration(todays_conventions),
            attribute_keys={"http.request.method"},
            aggregation=ExponentialBucketHistogramAggregation(max_size=20),
        ),
        View(instrument_name=ACTIVE, aggregation=DropAggregation()),
    ]

    def scenario(provider: MeterProvider, look: Look) -> None:
        send = service(provider, look)
        assert [send(*request) for request in REQUESTS[:-1]] == STATUS[:-1]

    ours, stock = on_both(scenario, views=views)
    assert ours == stock
    (after,) = map(named, ours)
    assert set(after) == names(service, todays_conventions) - {ACTIVE}
    metric = after[duration(todays_conventions)]
    assert metric.kind == "ExponentialHistogram"
    assert {text: point[0] for text, point in metric.points.items()} == {
        "{'http.request.method': 'DELETE'}": 1,
        "{'http.request.method': 'GET'}": 6,
        "{'http.request.method': 'POST'}": 1,
    }


@pytest.mark.parametrize("is_sampled", [True, False])
def test_exemplars(service: Any, todays_conventions: str, is_sampled: bool) -> None:
    """A request in a sampled span: its duration's exemplar leads to the span of the request."""
    spans = InMemorySpanExporter()
    tracers = TracerProvider(sampler=ALWAYS_ON if is_sampled else ALWAYS_OFF)
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    found = []
    for provider_class in (sdk.MeterProvider, otel_shm.MeterProvider):
        reader = InMemoryMetricReader()
        provider = provider_class([reader], shutdown_on_exit=False)
        send = service(provider, lambda: None, tracers)
        with tracers.get_tracer("test").start_as_current_span("outer") as outer:
            assert send("GET", "/users/ann") == 200
        # The request's own span, which the exemplars of all but the active requests are in.
        inner = {
            (span.context.trace_id, span.context.span_id)
            for span in spans.get_finished_spans()
            if span.parent and span.parent.span_id == outer.get_span_context().span_id
        }
        spans.clear()
        assert len(inner) == is_sampled
        data = reader.get_metrics_data()
        assert data is not None
        found.append(
            {
                metric.name: [
                    (
                        dict(exemplar.filtered_attributes),
                        (exemplar.trace_id, exemplar.span_id) in inner,
                    )
                    for point in metric.data.data_points
                    for exemplar in point.exemplars
                ]
                for metric in data.resource_metrics[0].scope_metrics[0].metrics
            }
        )
        provider.shutdown()
        assert found[-1][duration(todays_conventions)] == [({}, True)] * is_sampled
    stock, ours = found
    assert ours == stock
