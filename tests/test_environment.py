# SPDX-License-Identifier: Apache-2.0
"""Set up by environment variables only: exporters, protocols, resource and the buffer."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from launched import program
from receiver import Receiver  # pytest's `pythonpath` setting points at examples/

import otel_shm
from otel_shm import BufferPathError, BufferSizeError, MeterProvider, OtelShmError

APP = Path(__file__).parent / "apps" / "counting.py"
PATIENCE = 60.0  # seconds; nothing here takes a tenth of it

Make = Callable[..., MeterProvider]


def running(**environment: str) -> AbstractContextManager[subprocess.Popen[str]]:
    """The app in a process of its own, with nothing of OpenTelemetry set but this."""
    asked = {"OTEL_PYTHON_METER_PROVIDER": "otel_shm", **environment}
    return program(sys.executable, str(APP), **asked)


def run(**environment: str) -> tuple[int, str, str]:
    """The app from start to end. Returns: exit code, output, errors."""
    with running(**environment) as process:
        output, errors = process.communicate("", timeout=PATIENCE)
        return process.returncode, output, errors


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc", None])
def test_otlp(protocol: str | None) -> None:
    """Endpoint, protocol (gRPC if none is named), resource and headers are the standard ones."""
    with Receiver(grpc=True) as receiver:
        is_http = protocol == "http/protobuf"
        environment = {"OTEL_EXPORTER_OTLP_PROTOCOL": protocol} if protocol else {}
        code, output, errors = run(
            OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint if is_http else receiver.grpc_endpoint,
            OTEL_SERVICE_NAME="my-service",
            OTEL_RESOURCE_ATTRIBUTES="deployment.environment.name=test",
            OTEL_EXPORTER_OTLP_HEADERS="x-tenant=t",
            **environment,
        )
    assert (code, output.strip(), errors) == (0, "otel_shm.provider", "")
    (point,) = receiver.points("hits")
    assert (point.value, point.attributes, point.scope_name) == (1, {"route": "/"}, "app")
    assert point.resource_attributes["service.name"] == "my-service"
    assert point.resource_attributes["deployment.environment.name"] == "test"
    (request,) = receiver.requests
    assert request.protocol == ("http" if is_http else "grpc")
    assert request.headers["x-tenant"] == "t"


def test_metrics_variables_go_before_general_ones() -> None:
    """As the specification has it for all signals."""
    with Receiver() as receiver:
        code, _, errors = run(
            OTEL_METRICS_EXPORTER="otlp",
            OTEL_EXPORTER_OTLP_PROTOCOL="grpc",
            OTEL_EXPORTER_OTLP_METRICS_PROTOCOL="http/protobuf",
            OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=f"{receiver.endpoint}/v1/metrics",
        )
    assert (code, errors) == (0, "")
    assert receiver.total("hits") == 1


def test_interval() -> None:
    """OTEL_METRIC_EXPORT_INTERVAL: points come while the app still runs."""
    with Receiver() as receiver:
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_METRIC_EXPORT_INTERVAL": "50",
        }
        with running(**environment) as process:
            assert receiver.wait_for(lambda: len(receiver.points("hits")) >= 3, PATIENCE)
            assert process.poll() is None


def test_console() -> None:
    """The SDK's console exporter, by its name."""
    code, output, errors = run(OTEL_METRICS_EXPORTER="console")
    assert (code, errors) == (0, "")
    data = json.loads(output[output.index("{") :])
    (metric,) = data["resource_metrics"][0]["scope_metrics"][0]["metrics"]
    assert metric["name"] == "hits"


def test_several_exporters() -> None:
    """Comma-separated, spaces allowed: each gets everything."""
    with Receiver() as receiver:
        code, output, errors = run(
            OTEL_METRICS_EXPORTER=" console , otlp ",
            OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint,
            OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
        )
    assert (code, errors) == (0, "")
    assert '"hits"' in output
    assert receiver.total("hits") == 1


def test_no_exporter() -> None:
    """`none` measures and exports nothing, without a word."""
    assert run(OTEL_METRICS_EXPORTER="none") == (0, "otel_shm.provider\n", "")


def test_prometheus() -> None:
    """The Prometheus exporter's own variables: it is scraped at the port they name."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    with running(
        OTEL_METRICS_EXPORTER="prometheus",
        OTEL_EXPORTER_PROMETHEUS_HOST="127.0.0.1",
        OTEL_EXPORTER_PROMETHEUS_PORT=str(port),
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "otel_shm.provider"
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE) as page:
            text = page.read().decode()
    assert any(line.startswith("hits") and line.endswith(" 1.0") for line in text.splitlines())


@pytest.mark.parametrize(
    ("environment", "text"),
    [
        (
            {"OTEL_METRICS_EXPORTER": "nowhere"},
            "OTEL_METRICS_EXPORTER names 'nowhere', but no installed package offers that exporter",
        ),
        (
            {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"},
            "OTEL_EXPORTER_OTLP_PROTOCOL must be one of grpc, http/protobuf, not 'http/json'",
        ),
        ({"OTEL_SHM_SERIES": "many"}, "OTEL_SHM_SERIES must be a whole number, not 'many'"),
        ({"OTEL_SHM_PATH": "/no/such/folder/buffer"}, "/no/such/folder/buffer"),
        ({"OTEL_SHM_BACKEND": "java"}, "OTEL_SHM_BACKEND must be 'fast' or 'cffi', not 'java'"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_mistakes_are_named(environment: dict[str, str], text: str) -> None:
    """A wrong setting ends the app at its start and says which one it is."""
    code, _, errors = run(**{"OTEL_METRICS_EXPORTER": "otlp", **environment})
    assert code != 0
    assert text in errors


@pytest.mark.parametrize("backend", ["fast", "cffi"])
def test_backend(backend: str) -> None:
    """OTEL_SHM_BACKEND chooses it, and `otel_shm.backend` says which one it is."""
    code = "import otel_shm; print(otel_shm.backend, otel_shm.Counter.__module__)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "OTEL_SHM_BACKEND": backend},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert done.stdout.split()[0] == backend


def test_path(
    make_provider: Make, buffer_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OTEL_SHM_PATH names the buffer, the argument goes before it, and empty is not set."""
    monkeypatch.setenv("OTEL_SHM_PATH", str(buffer_path))
    assert make_provider().buffer.path == str(buffer_path)
    other = tmp_path / "other"
    assert os.fspath(make_provider(buffer=other).buffer.path or "") == str(other)
    other.unlink()
    monkeypatch.setenv("OTEL_SHM_PATH", "")
    assert make_provider().buffer.path is None


def test_sizes(make_provider: Make, buffer_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OTEL_SHM_SERIES, _LANES and _RECORD_BYTES are those of a new buffer; arguments go first."""
    sizes = {"OTEL_SHM_SERIES": "64", "OTEL_SHM_LANES": " 3 ", "OTEL_SHM_RECORD_BYTES": "8192"}
    for name, value in sizes.items():
        monkeypatch.setenv(name, value)
    provider = make_provider(buffer=buffer_path)
    assert provider.buffer.statistics.series_capacity == 64
    # Three lanes and 16 baselines of 64 series' slots, three mailboxes, 8 KiB of records and the
    # small rest: never the default.
    assert buffer_path.stat().st_size < 400_000
    assert make_provider(series=65).buffer.statistics.series_capacity == 65


@pytest.mark.parametrize("name", ["OTEL_SHM_SERIES", "OTEL_SHM_LANES", "OTEL_SHM_RECORD_BYTES"])
@pytest.mark.parametrize("value", ["x", "1.5", "0", "-1", "1e3", str(2**70)])
def test_bad_sizes(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is no size is one clear error, which is a ValueError too."""
    monkeypatch.setenv(name, value)
    with pytest.raises(BufferSizeError) as raised:
        MeterProvider(shutdown_on_exit=False)
    assert isinstance(raised.value, (ValueError, OtelShmError))
    assert name in str(raised.value)


def test_errors_of_a_path(tmp_path: Path) -> None:
    """A path that cannot be used is a BufferPathError, an OSError too, with the path in it."""
    for path in (tmp_path, tmp_path / "no" / "such"):
        with pytest.raises(BufferPathError) as raised:
            otel_shm.Buffer(path)
        assert isinstance(raised.value, OSError)
        assert str(path) in str(raised.value)


def test_provider_after_an_error(make_provider: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed set-up leaves nothing behind that would stop the next one."""
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    reader = InMemoryMetricReader()
    monkeypatch.setenv("OTEL_SHM_SERIES", "x")
    with pytest.raises(BufferSizeError):
        MeterProvider([reader], shutdown_on_exit=False)
    monkeypatch.delenv("OTEL_SHM_SERIES")
    make_provider(reader).get_meter("m").create_counter("c").add(1)
    assert reader.get_metrics_data() is not None
