# SPDX-License-Identifier: Apache-2.0
"""Under `opentelemetry-instrument`: ours where it is asked for, and not a trace of it elsewhere."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from launched import (
    APPS,
    INSTRUMENT,
    OURS,
    OURS_IS_SET,
    PATIENCE,
    STOCK_IS_SET,
    over_http,
    run,
    running,
)
from receiver import Receiver  # pytest's `pythonpath` setting points at examples/
from sdk_version import SDK
from test_servers import gunicorn

pytestmark = pytest.mark.slow

# With an exporter of spans newer SDKs ask the API for the meter provider before they make one.
TRACES = pytest.mark.parametrize("traces", ["none", "console"])


@TRACES
def test_asked_for(traces: str) -> None:
    """One variable is enough; resource and exporter are the configurator's, each point comes once."""
    with Receiver() as receiver:
        done = run(
            **OURS,
            **over_http(receiver),
            OTEL_TRACES_EXPORTER=traces,
            OTEL_SERVICE_NAME="my-service",
            OTEL_EXPORTER_OTLP_HEADERS="x-tenant=t",
        )
    assert done == (0, OURS_IS_SET, "")
    (point,) = receiver.points("hits")
    assert (point.value, point.attributes, point.scope_name) == (1, {"route": "/"}, "app")
    assert point.resource_attributes["service.name"] == "my-service"
    assert "telemetry.auto.version" in point.resource_attributes  # only the configurator knows it
    assert receiver.requests[0].headers["x-tenant"] == "t"


def test_grpc() -> None:
    """The distribution's default protocol."""
    with Receiver(grpc=True) as receiver:
        done = run(**OURS, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.grpc_endpoint)
    assert done == (0, OURS_IS_SET, "")
    assert receiver.total("hits") == 1


@TRACES
def test_merely_installed(traces: str) -> None:
    """Not asked for, the SDK's provider is used and nothing is said."""
    with Receiver() as receiver:
        done = run(**over_http(receiver), OTEL_TRACES_EXPORTER=traces)
    assert done == (0, STOCK_IS_SET, "")
    assert receiver.total("hits") == 1


@pytest.mark.parametrize("name", ["sdk_meter_provider", " otel_shm", "OTEL_SHM", "nobody", ""])
def test_another_one_asked_for(name: str) -> None:
    """Any other name is none of our business."""
    with Receiver() as receiver:
        done = run(**over_http(receiver), OTEL_PYTHON_METER_PROVIDER=name)
    assert done == (0, STOCK_IS_SET, "")
    assert receiver.total("hits") == 1


@TRACES
def test_no_exporter(traces: str) -> None:
    """`none`: measures, and exports nothing."""
    done = run(**OURS, OTEL_METRICS_EXPORTER="none", OTEL_TRACES_EXPORTER=traces)
    assert done == (0, OURS_IS_SET, "")


@TRACES
def test_several_exporters(traces: str) -> None:
    """Each gets everything, once."""
    with Receiver() as receiver:
        code, output, errors = run(
            **OURS,
            **over_http(receiver),
            OTEL_TRACES_EXPORTER=traces,
            OTEL_METRICS_EXPORTER="console,otlp",
        )
    assert (code, errors) == (0, "")
    assert output.startswith(OURS_IS_SET)
    data = json.loads(output.removeprefix(OURS_IS_SET))
    (metric,) = data["resource_metrics"][0]["scope_metrics"][0]["metrics"]
    assert metric["name"] == "hits"
    assert len(receiver.points("hits")) == 1


@TRACES
def test_prometheus(traces: str) -> None:
    """The exporter's server is started once, and answers with our totals."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    with running(
        **OURS,
        OTEL_TRACES_EXPORTER=traces,
        OTEL_METRICS_EXPORTER="prometheus",
        OTEL_EXPORTER_PROMETHEUS_HOST="127.0.0.1",
        OTEL_EXPORTER_PROMETHEUS_PORT=str(port),
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == OURS_IS_SET
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE) as page:
            lines = page.read().decode().splitlines()
        output, errors = process.communicate("", timeout=PATIENCE)
    assert any(line.startswith("hits") and line.endswith(" 1.0") for line in lines)
    assert (process.returncode, output, errors) == (0, "", "")


@TRACES
def test_a_mistake_costs_the_metrics_only(traces: str) -> None:
    """A buffer that cannot be made is named, once; the service runs, and exports no totals of its own."""
    with Receiver() as receiver:
        code, output, errors = run(
            **OURS,
            **over_http(receiver),
            OTEL_TRACES_EXPORTER=traces,
            OTEL_SHM_PATH="/no/such/folder/buffer",
            OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED="true",  # there is something to export
        )
    assert (code, output) == (0, "opentelemetry.metrics\n")  # the API's provider that does nothing
    assert errors.count("This process has no metrics") == 1
    assert errors.count("BufferPathError: [Errno 2] buffer '/no/such/folder/buffer'") == 1
    assert "Failed to auto initialize" not in errors
    assert receiver.requests == []


@TRACES
def test_no_configurator(traces: str) -> None:
    """Where none is chosen the API makes our provider itself, as without `opentelemetry-instrument`."""
    with Receiver() as receiver:
        code, output, errors = run(
            **OURS,
            **over_http(receiver),
            OTEL_TRACES_EXPORTER=traces,
            OTEL_PYTHON_CONFIGURATOR="nobody",
        )
    assert (code, output) == (0, OURS_IS_SET)
    (line,) = errors.splitlines()  # the distribution's own is said to be left out
    assert line.startswith("Configuration of configurator not loaded")
    (point,) = receiver.points("hits")
    assert "telemetry.auto.version" not in point.resource_attributes


VENDOR = """
from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter


class Configurator:
    def configure(self, **options):
        resource = Resource.create({"vendor": "yes"})
        if SPANS_FIRST:
            BatchSpanProcessor(ConsoleSpanExporter()).shutdown()
        reader = PeriodicExportingMetricReader(OTLPMetricExporter())
        metrics.set_meter_provider(MeterProvider([reader], resource))
"""


@pytest.mark.parametrize("spans_first", [False, True])
def test_a_configurator_of_somebody_else(spans_first: bool, tmp_path: Path) -> None:
    """One found before the distribution's, which uses nothing of the SDK's own configurator."""
    folder = tmp_path / "vendor-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: vendor\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(
        "[opentelemetry_configurator]\nvendor = vendor:Configurator\n"
    )
    (tmp_path / "vendor.py").write_text(f"SPANS_FIRST = {spans_first}\n{VENDOR}")
    with Receiver() as receiver:
        code, output, errors = run(**OURS, **over_http(receiver), PYTHONPATH=str(tmp_path))
    assert (code, output) == (0, OURS_IS_SET)
    (line,) = errors.splitlines()  # it is this that a configurator of ours would cost everybody
    assert line == "Configuration of configurator not loaded, vendor already loaded"
    (point,) = receiver.points("hits")
    assert (point.value, point.resource_attributes["vendor"]) == (1, "yes")


@pytest.mark.skipif(SDK < (1, 36), reason="opentelemetry-instrumentation has no such call yet")
def test_initialized_by_code() -> None:
    """As is advised for uWSGI and gunicorn's workers: a call instead of the command."""
    code = (
        "from opentelemetry.instrumentation.auto_instrumentation import initialize; initialize()\n"
        f"import runpy; runpy.run_path({str(APPS / 'counting.py')!r})"
    )
    with Receiver() as receiver:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, **OURS, **over_http(receiver), "OTEL_TRACES_EXPORTER": "console"},
            input="",
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
    assert (done.returncode, done.stdout, done.stderr) == (0, OURS_IS_SET, "")
    assert len(receiver.points("hits")) == 1


@pytest.mark.parametrize("sharing", ["path", "inherited"])
@TRACES
def test_gunicorn(traces: str, sharing: str, buffer_path: Path, tmp_path: Path) -> None:
    """One exact total in one series, without a path too: the master is configured before it forks."""
    environment = {"OTEL_SHM_PATH": str(buffer_path)} if sharing == "path" else {}
    with Receiver() as receiver:
        with gunicorn(
            tmp_path,
            receiver.endpoint,
            launcher=[INSTRUMENT],
            OTEL_TRACES_EXPORTER=traces,
            OTEL_LOGS_EXPORTER="none",
            OTEL_METRIC_EXPORT_INTERVAL="50",
            **environment,
        ) as server:
            server.load(100)
            assert receiver.wait_for(lambda: receiver.total("requests") == 100, PATIENCE)
            server.load(100)
            assert len(server.answered) > 1  # or it was one worker's own total
            server.stop()
    assert receiver.total("requests") == 200
    (point,) = receiver.latest("requests")
    assert "telemetry.auto.version" in point.resource_attributes
    assert len({point.series for point in receiver.points("requests")}) == 1
    assert len({point.start_time_unix_nano for point in receiver.points("requests")}) == 1


def test_spawned_processes(buffer_path: Path) -> None:
    """Processes that start afresh are configured each for themselves, and share the buffer."""
    with Receiver() as receiver:
        done = run(
            str(APPS / "pools.py"),
            *("processes", "spawn", "everybody"),
            **OURS,
            **over_http(receiver),
            OTEL_TRACES_EXPORTER="console",
            OTEL_SHM_PATH=str(buffer_path),
        )
    assert done == (0, "", "")
    assert receiver.total("hits") == 300
    assert len(receiver.latest("hits")) == 1
