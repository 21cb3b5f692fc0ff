# SPDX-License-Identifier: Apache-2.0
"""An OTLP metrics receiver inside this process: what a collector would have got, to look at.

Run as a program it listens where exporters send to by default, and prints what arrives:

    python examples/receiver.py
"""

from __future__ import annotations

import argparse
import gzip
import signal
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)

if TYPE_CHECKING:
    import grpc
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
    from typing_extensions import Self

__all__ = ["Point", "Receiver", "Request"]


@dataclass(frozen=True)
class Request:
    """One export request, as it came in.

    Attributes:
        arrival_time_unix_nano: wall clock when it had been read, nanoseconds since 1970.
        protocol: ``http`` or ``grpc``.
        headers: HTTP headers or gRPC metadata, names in lower case.
        message: the decoded protobuf message.
    """

    arrival_time_unix_nano: int
    protocol: str
    headers: dict[str, str]
    message: ExportMetricsServiceRequest


@dataclass(frozen=True)
class Point:
    """One data point with everything that says which series it belongs to.

    Attributes:
        resource_attributes: who sent it, ``service.instance.id`` among them.
        scope_name: name of the meter.
        metric_name: name of the instrument.
        kind: ``sum``, ``gauge``, ``histogram`` or ``exponential_histogram``.
        attributes: attributes of the series.
        value: the number; for the histograms the sum of what was recorded.
        count: how many values a histogram recorded; None for the other kinds.
        start_time_unix_nano: start of counting, nanoseconds since 1970; 0 when not told.
        time_unix_nano: time of the value, nanoseconds since 1970.
    """

    resource_attributes: dict[str, Any]
    scope_name: str
    metric_name: str
    kind: str
    attributes: dict[str, Any]
    value: int | float
    count: int | None
    start_time_unix_nano: int
    time_unix_nano: int

    @property
    def series(self) -> tuple[str, ...]:
        """Identity of the series; it includes the resource, as it does for a metrics backend."""
        # repr() tells 1, True, 1.0 and "1" apart, which comparing the dicts would not.
        return (
            repr(self.resource_attributes),
            self.scope_name,
            self.metric_name,
            self.kind,
            repr(self.attributes),
        )


class Receiver:
    """Listens on 127.0.0.1 for OTLP metrics and keeps all of them.

    It listens from the moment it is made until ``close()`` or the end of a ``with`` block. All its
    methods may be called from any thread.

    Example:
        >>> with Receiver() as receiver:
        ...     exporter = OTLPMetricExporter(receiver.endpoint + "/v1/metrics")
        ...     ...
        ...     assert receiver.wait_for(lambda: receiver.total("hits") == 3, timeout_seconds=5)

    Args:
        grpc: listen for OTLP over gRPC too, on a port of its own.
        http_port: where to listen for OTLP over HTTP; 0: any free port.
        grpc_port: the same for gRPC.
    """

    _grpc_server: grpc.Server | None = None
    _grpc_port = 0

    def __init__(self, *, grpc: bool = False, http_port: int = 0, grpc_port: int = 0) -> None:
        self._arrived = threading.Condition()
        self._requests: list[Request] = []
        self._points: list[Point] = []
        self._latest: dict[tuple[str, ...], Point] = {}
        if grpc:
            self._grpc_server, self._grpc_port = _start_grpc_server(self._receive, grpc_port)
        self._http_server = _HttpServer(("127.0.0.1", http_port), _http_handler(self._receive))
        threading.Thread(
            target=self._http_server.serve_forever,
            kwargs={"poll_interval": 0.05},  # seconds; close() waits for as long as this
            name="otlp-http-receiver",
            daemon=True,
        ).start()

    def close(self) -> None:
        """Stops listening; what was received stays readable."""
        self._http_server.shutdown()
        self._http_server.server_close()
        if self._grpc_server is not None:
            self._grpc_server.stop(grace=None).wait()

    def __enter__(self) -> Self:
        """Gives itself: it listens already."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Stops listening."""
        self.close()

    @property
    def endpoint(self) -> str:
        """Base address for OTLP over HTTP, for ``OTEL_EXPORTER_OTLP_ENDPOINT``."""
        return f"http://127.0.0.1:{self._http_server.server_port}"

    @property
    def grpc_endpoint(self) -> str:
        """Address for OTLP over gRPC.

        Raises:
            RuntimeError: the receiver was made without ``grpc=True``.
        """
        if self._grpc_server is None:
            raise RuntimeError("this receiver has no gRPC port; make it with Receiver(grpc=True)")
        return f"http://127.0.0.1:{self._grpc_port}"

    @property
    def requests(self) -> list[Request]:
        """All requests so far, in order of arrival."""
        with self._arrived:
            return list(self._requests)

    def points(self, metric_name: str) -> list[Point]:
        """All points of a metric so far, in order of arrival."""
        with self._arrived:
            return [point for point in self._points if point.metric_name == metric_name]

    def latest(self, metric_name: str) -> list[Point]:
        """The newest point of each series of a metric, in order of first arrival."""
        with self._arrived:
            return [p for p in self._latest.values() if p.metric_name == metric_name]

    def total(self, metric_name: str) -> int | float:
        """What a dashboard shows for the whole service: the newest values of all series, summed.

        It expects cumulative sums, which is what the OTLP exporters send unless told otherwise.
        """
        return sum(point.value for point in self.latest(metric_name))

    def wait_for(self, predicate: Callable[[], Any], timeout_seconds: float) -> bool:
        """Waits until something is true of what was received.

        Args:
            predicate: asked now and after every request that arrives.
            timeout_seconds: longest time to wait, in seconds.

        Returns:
            Whether it became true in time.
        """
        with self._arrived:
            return bool(self._arrived.wait_for(predicate, timeout_seconds))

    def _receive(
        self, protocol: str, headers: dict[str, str], message: ExportMetricsServiceRequest
    ) -> None:
        """Takes one request in and wakes who waits for it."""
        points = list(_points_of(message))
        with self._arrived:
            self._requests.append(Request(time.time_ns(), protocol, headers, message))
            self._points += points
            for point in points:
                # Two processes may send at once and overtake each other: the newest is the one
                # with the latest time, as in a backend, not the one that came in last.
                known = self._latest.get(point.series)
                if known is None or point.time_unix_nano >= known.time_unix_nano:
                    self._latest[point.series] = point
            self._arrived.notify_all()


_Receive = Callable[[str, dict[str, str], ExportMetricsServiceRequest], None]


class _HttpServer(ThreadingHTTPServer):
    """A server with a thread for each connection."""

    daemon_threads = True  # an open connection must not delay the end

    def handle_error(self, request: object, client_address: object) -> None:
        """Prints a traceback, but not because an exporter was killed while it was sending."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


def _http_handler(receive: _Receive) -> type[BaseHTTPRequestHandler]:
    """Makes the class that answers ``POST /v1/metrics``."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # exporters keep their connection open
        # Headers and body leave in two writes; without this Nagle's algorithm holds back the
        # second until the first is acknowledged, and every export takes 40 ms longer.
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            """Reads one export request and answers it."""
            length = int(self.headers.get("Content-Length", 0))
            body = self.rfile.read(length)
            if len(body) < length:  # the exporter died; the first half may look like a message
                raise ConnectionAbortedError
            if self.path != "/v1/metrics":
                self.send_error(404, "only /v1/metrics is served here")
                return
            try:
                body = _decompress(body, self.headers.get("Content-Encoding", "identity"))
                message = ExportMetricsServiceRequest.FromString(body)
            except (ValueError, OSError, EOFError, zlib.error, DecodeError) as error:
                self.send_error(400, f"not an OTLP metrics request: {error}")
                return
            receive("http", {k.lower(): v for k, v in self.headers.items()}, message)
            answer = ExportMetricsServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *args: Any, **kwargs: Any) -> None:
            """Keeps the terminal to whoever uses the receiver."""

    return Handler


def _start_grpc_server(receive: _Receive, port: int) -> tuple[grpc.Server, int]:
    """Starts the gRPC server, on a free port if that is 0, and gives both."""
    # Imported here so that whoever speaks only HTTP need not have grpcio.
    import grpc
    from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as service

    class Servicer(service.MetricsServiceServicer):
        def Export(  # noqa: N802  the protocol gives the name
            self, request: ExportMetricsServiceRequest, context: grpc.ServicerContext
        ) -> ExportMetricsServiceResponse:
            """Takes one export request in and answers it."""
            headers = {key: str(value) for key, value in context.invocation_metadata()}
            receive("grpc", headers, request)
            return ExportMetricsServiceResponse()

    server = grpc.server(ThreadPoolExecutor(max_workers=4))
    service.add_MetricsServiceServicer_to_server(Servicer(), server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    return server, port


def _decompress(body: bytes, encoding: str) -> bytes:
    """Undoes a ``Content-Encoding``; raises ValueError for one that OTLP does not know."""
    if encoding == "gzip":
        return gzip.decompress(body)
    if encoding == "deflate":
        return zlib.decompress(body)
    if encoding == "identity":
        return body
    raise ValueError(f"unknown Content-Encoding {encoding!r}")


def _points_of(message: ExportMetricsServiceRequest) -> Iterator[Point]:
    """All data points of a request."""
    for resource_metrics in message.resource_metrics:
        resource_attributes = _attributes(resource_metrics.resource.attributes)
        for scope_metrics in resource_metrics.scope_metrics:
            for metric in scope_metrics.metrics:
                kind = metric.WhichOneof("data")
                if kind is None:  # a metric without data has no points
                    continue
                for point in getattr(metric, kind).data_points:
                    is_number = kind in ("sum", "gauge")
                    value_field = (point.WhichOneof("value") or "as_int") if is_number else "sum"
                    yield Point(
                        resource_attributes=resource_attributes,
                        scope_name=scope_metrics.scope.name,
                        metric_name=metric.name,
                        kind=kind,
                        attributes=_attributes(point.attributes),
                        value=getattr(point, value_field),
                        count=None if is_number else point.count,
                        start_time_unix_nano=point.start_time_unix_nano,
                        time_unix_nano=point.time_unix_nano,
                    )


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    """OTLP key-value pairs as a dict, sorted by key so that order makes no other series."""
    return {pair.key: _value(pair.value) for pair in sorted(pairs, key=lambda pair: pair.key)}


def _value(value: AnyValue) -> Any:
    """An OTLP value as the Python object it stands for."""
    field = value.WhichOneof("value")
    if field is None:
        return None
    if field == "array_value":
        return [_value(item) for item in value.array_value.values]
    if field == "kvlist_value":
        return _attributes(value.kvlist_value.values)
    return getattr(value, field)


class _Printing(Receiver):
    """A receiver that prints each point: value, series and who it came from."""

    def _receive(
        self, protocol: str, headers: dict[str, str], message: ExportMetricsServiceRequest
    ) -> None:
        super()._receive(protocol, headers, message)
        for point in _points_of(message):
            service, instance = (
                point.resource_attributes.get(key)
                for key in ("service.name", "service.instance.id")
            )
            print(
                f"{point.metric_name} {point.attributes} {point.value} from {service} {instance}",
                flush=True,
            )


def main() -> None:
    """Receives until Ctrl-C."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--http-port", type=int, default=4318, help="default: 4318; 0: any")
    parser.add_argument("--grpc-port", type=int, default=4317, help="default: 4317; 0: any")
    options = parser.parse_args()
    with suppress(KeyboardInterrupt), _Printing(grpc=True, **vars(options)) as receiver:
        print(f"OTLP at {receiver.endpoint}, gRPC at {receiver.grpc_endpoint}", flush=True)
        signal.pause()


if __name__ == "__main__":
    main()
