# SPDX-License-Identifier: Apache-2.0
"""The examples do what they say: the receiver, the demo and the notebook."""

from __future__ import annotations

import base64
import collections
import http.client
import re
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import grpc
import nbformat
import pytest
from demo import METRIC, Outcome
from nbclient import NotebookClient
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import (
    OTLPMetricExporter as GrpcExporter,
)
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.metric_exporter import (
    OTLPMetricExporter as HttpExporter,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricExporter, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from receiver import Receiver  # pytest's `pythonpath` setting points at examples/

EXAMPLES = Path(__file__).parent.parent / "examples"


def stock_provider(exporter: MetricExporter, instance: str = "one") -> MeterProvider:
    """An SDK provider that exports only when it is flushed or shut down."""
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=3_600_000)
    return MeterProvider([reader], Resource.create({"service.instance.id": instance}))


def http_exporter(receiver: Receiver, compression: Compression | None = None) -> HttpExporter:
    """A stock OTLP exporter over HTTP."""
    return HttpExporter(f"{receiver.endpoint}/v1/metrics", compression=compression)


def run_demo(*options: str) -> subprocess.CompletedProcess[str]:
    """Runs the demo the way a user does, with few requests."""
    return subprocess.run(
        [sys.executable, str(EXAMPLES / "demo.py"), "--requests=600", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )


def summary(demo: subprocess.CompletedProcess[str]) -> dict[str, list[str]]:
    """The demo's summary table: label to cells."""
    rows = (re.split(r"\s{2,}", line.strip()) for line in demo.stdout.splitlines())
    return {name: cells for name, *cells in rows}


@pytest.mark.parametrize("compression", list(Compression))
def test_receiver_takes_http_in_every_compression(compression: Compression) -> None:
    """A stock OTLP/HTTP exporter is understood, whatever compression it is set to."""
    with Receiver() as receiver:
        provider = stock_provider(http_exporter(receiver, compression))
        counter = provider.get_meter("scope").create_counter("hits")
        counter.add(3, {"route": "/", "codes": [1, 2]})
        provider.shutdown()

    (point,) = receiver.latest("hits")
    assert (point.value, point.kind, point.scope_name) == (3, "sum", "scope")
    assert point.attributes == {"route": "/", "codes": [1, 2]}
    assert point.resource_attributes["service.instance.id"] == "one"
    assert 0 < point.start_time_unix_nano <= point.time_unix_nano
    assert [request.protocol for request in receiver.requests] == ["http"]


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
def test_receiver_takes_grpc(compression: grpc.Compression) -> None:
    """A stock OTLP/gRPC exporter is understood, headers included."""
    with Receiver(grpc=True) as receiver:
        exporter = GrpcExporter(
            receiver.grpc_endpoint, headers={"x-tenant": "t"}, compression=compression
        )
        provider = stock_provider(exporter)
        provider.get_meter("scope").create_gauge("level").set(2.5)
        provider.shutdown()

    (point,) = receiver.latest("level")
    assert (point.value, point.kind, point.attributes) == (2.5, "gauge", {})
    (request,) = receiver.requests
    assert (request.protocol, request.headers["x-tenant"]) == ("grpc", "t")


def test_receiver_without_grpc_says_so() -> None:
    """Asking for a gRPC address that does not exist is an error, not a wrong address."""
    with Receiver() as receiver, pytest.raises(RuntimeError, match="grpc=True"):
        _ = receiver.grpc_endpoint


def test_receiver_keeps_instances_apart() -> None:
    """The same metric from two service.instance.id is two series, and the total is their sum."""
    with Receiver() as receiver:
        for instance, amount in (("one", 3), ("two", 4)):
            provider = stock_provider(http_exporter(receiver), instance)
            provider.get_meter("scope").create_counter("hits").add(amount)
            provider.shutdown()

    assert [point.value for point in receiver.latest("hits")] == [3, 4]
    assert receiver.total("hits") == 7


def test_receiver_keeps_attribute_types_apart() -> None:
    """1, True, 1.0 and "1" make four series."""
    with Receiver() as receiver:
        provider = stock_provider(http_exporter(receiver))
        counter = provider.get_meter("scope").create_counter("hits")
        for value in (1, True, 1.0, "1"):
            counter.add(1, {"a": value})
        provider.shutdown()

    assert {repr(point.attributes["a"]) for point in receiver.latest("hits")} == {
        "1", "True", "1.0", "'1'",
    }  # fmt: skip


def test_receiver_shows_newest_by_time() -> None:
    """A late request with older points does not replace newer ones, but stays in the history."""
    with Receiver() as receiver:
        for value, time_unix_nano in ((5, 2_000), (3, 1_000)):
            request = ExportMetricsServiceRequest()
            metric = request.resource_metrics.add().scope_metrics.add().metrics.add(name="hits")
            metric.sum.data_points.add(as_int=value, time_unix_nano=time_unix_nano)
            assert post(receiver, "/v1/metrics", request.SerializeToString()) == 200

    assert receiver.total("hits") == 5
    assert [point.value for point in receiver.points("hits")] == [5, 3]


def test_receiver_sums_and_counts_histograms() -> None:
    """Both kinds of histogram show the sum as value, and how many values there were."""
    with Receiver() as receiver:
        provider = stock_provider(http_exporter(receiver))
        histogram = provider.get_meter("scope").create_histogram("duration")
        histogram.record(1.5)
        histogram.record(2)
        provider.shutdown()

    (point,) = receiver.latest("duration")
    assert (point.kind, point.value, point.count) == ("histogram", 3.5, 2)


def post(receiver: Receiver, path: str, body: bytes, encoding: str = "identity") -> int:
    """Posts bytes to the receiver and gives the status."""
    connection = http.client.HTTPConnection(receiver.endpoint.removeprefix("http://"))
    connection.request("POST", path, body, {"Content-Encoding": encoding})
    status = connection.getresponse().status
    connection.close()
    return status


def test_receiver_refuses_what_it_cannot_read() -> None:
    """Wrong path, wrong encoding and wrong bytes get an error status, and nothing is kept."""
    with Receiver() as receiver:
        assert post(receiver, "/v1/traces", b"") == 404
        assert post(receiver, "/v1/metrics", b"", encoding="br") == 400
        assert post(receiver, "/v1/metrics", b"not gzip", encoding="gzip") == 400
        assert post(receiver, "/v1/metrics", b"\xff\xff\xff") == 400
        assert receiver.requests == []


def test_receiver_ignores_who_dies_while_sending(capfd: pytest.CaptureFixture[str]) -> None:
    """Half a request, cut off by the sender's death, is neither kept nor reported as an error."""
    with Receiver() as receiver:
        address = ("127.0.0.1", int(receiver.endpoint.rpartition(":")[2]))
        with socket.create_connection(address) as connection:
            connection.sendall(b"POST /v1/metrics HTTP/1.1\r\nContent-Length: 9\r\n\r\n")
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(1) == b""  # the receiver closed its side, and has not answered
        assert receiver.requests == []
    assert capfd.readouterr().err == ""


def test_receiver_wakes_who_waits() -> None:
    """`wait_for` returns True as soon as a request makes it true, and False when time is up."""
    with Receiver() as receiver:
        provider = stock_provider(http_exporter(receiver))
        provider.get_meter("scope").create_counter("hits").add(1)
        assert not receiver.wait_for(lambda: receiver.total("hits") == 1, timeout_seconds=0.05)
        threading.Timer(0.1, provider.shutdown).start()
        assert receiver.wait_for(lambda: receiver.total("hits") == 1, timeout_seconds=20)


@pytest.mark.parametrize(
    "option",
    [
        "--protocol=grpc",
        pytest.param("--workers=2", marks=pytest.mark.slow),
        pytest.param("--preload", marks=pytest.mark.slow),
    ],
)
def test_demo_receives_exactly_what_was_answered(option: str) -> None:
    """With a worker killed on the way, one series from one exporter holds the exact total."""
    demo = run_demo(option)

    assert demo.returncode == 0, demo.stdout
    assert "CHECK passed" in demo.stdout
    rows = summary(demo)
    assert rows["requests answered with 200"] == rows["total received over OTLP"]
    assert rows["series"] == rows["exporters (service.instance.id)"] == ["1"]
    assert int(rows["worker killed with SIGKILL"][0]) > 0


@pytest.mark.slow
def test_demo_compares_with_the_stock_sdk() -> None:
    """`--compare` runs the same load with the SDK's provider, which shows a series a worker."""
    demo = run_demo("--compare", "--workers=2")

    assert demo.returncode == 0, demo.stdout
    assert "The stock SDK under the same load" in demo.stdout
    ours, stock = summary(demo)["series"]
    assert ours == "1"
    assert int(stock) >= 1  # the killed worker may never have come to export


def test_demo_exports_to_another_collector() -> None:
    """With `--endpoint` everything arrives there, and the demo claims nothing about it."""
    with Receiver() as collector:
        demo = run_demo(f"--endpoint={collector.endpoint}")

    assert demo.returncode == 0, demo.stdout
    assert "CHECK skipped" in demo.stdout
    assert summary(demo)["total received over OTLP"] == ["not read"]
    assert f"{collector.total(METRIC):,}" == summary(demo)["requests answered with 200"][0]


@pytest.mark.parametrize(
    ("answered", "failed", "total", "is_exact"),
    [(5, 0, 5, True), (5, 0, 4, False), (5, 0, 6, False), (5, 1, 5, False), (0, 0, 0, False)],
)
def test_demo_check_can_fail(answered: int, failed: int, total: int, is_exact: bool) -> None:
    """Less, more, failed or no requests at all do not pass the demo's check."""
    pids = collections.Counter({1234: answered})
    assert Outcome("otel_shm", pids, failed, 1234, total, 1, 1).is_exact is is_exact


def test_notebook_runs(tmp_path: Path) -> None:
    """Every cell of the notebook runs, its own asserts included."""
    for name in ("quickstart.ipynb", "receiver.py"):
        shutil.copy(EXAMPLES / name, tmp_path)
    notebook = nbformat.read(tmp_path / "quickstart.ipynb", as_version=4)
    NotebookClient(notebook, timeout=60, resources={"metadata": {"path": str(tmp_path)}}).execute()


def test_notebook_is_stored_with_its_plot() -> None:
    """Who reads the notebook on a code host sees the outputs, and the file stays small."""
    notebook = nbformat.read(EXAMPLES / "quickstart.ipynb", as_version=4)
    nbformat.validate(notebook)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.output_type == "error"]
    (plot,) = (o.data["image/png"] for o in outputs if "image/png" in o.get("data", {}))
    assert len(base64.b64decode(plot)) < 60_000
