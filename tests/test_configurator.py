# SPDX-License-Identifier: Apache-2.0
"""Under `opentelemetry-instrument`: ours where it is asked for, and not a trace of it elsewhere."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import metrics as api
from opentelemetry.metrics import _internal as api_internal
from opentelemetry.sdk import metrics as sdk
from opentelemetry.sdk.metrics.export import (
    ConsoleMetricExporter,
    InMemoryMetricReader,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.metrics.view import View
from opentelemetry.sdk.resources import Resource
from points import values
from receiver import Receiver  # pytest's `pythonpath` setting points at examples/
from sdk_version import SDK
from test_servers import gunicorn

import otel_shm
from otel_shm import configurator

pytestmark = pytest.mark.slow

APPS = Path(__file__).parent / "apps"
PATIENCE = 60.0  # seconds; nothing here takes a tenth of it

INSTRUMENT = str(Path(sys.executable).with_name("opentelemetry-instrument"))
OURS = {"OTEL_PYTHON_METER_PROVIDER": "otel_shm"}
OURS_IS_SET = "otel_shm.provider\n"
STOCK_IS_SET = "opentelemetry.sdk.metrics._internal\n"

# With an exporter of spans newer SDKs ask the API for the meter provider before they make one.
TRACES = pytest.mark.parametrize("traces", ["none", "console"])


@contextmanager
def running(*arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A Python program under `opentelemetry-instrument`; spans and logs go nowhere by default."""
    process = subprocess.Popen(
        [INSTRUMENT, sys.executable, *(arguments or [str(APPS / "counting.py")])],
        env={
            **os.environ,
            "OTEL_TRACES_EXPORTER": "none",
            "OTEL_LOGS_EXPORTER": "none",
            **environment,
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def run(*arguments: str, **environment: str) -> tuple[int, str, str]:
    """The program from start to end. Returns: exit code, output, errors."""
    with running(*arguments, **environment) as process:
        output, errors = process.communicate("", timeout=PATIENCE)
        return process.returncode, output, errors


def over_http(receiver: Receiver) -> dict[str, str]:
    """What has metrics exported to a receiver."""
    return {
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": f"{receiver.endpoint}/v1/metrics",
        "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "http/protobuf",
    }


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
            str(APPS / "pool.py"),
            "spawn",
            **OURS,
            **over_http(receiver),
            OTEL_TRACES_EXPORTER="console",
            OTEL_SHM_PATH=str(buffer_path),
        )
    assert done == (0, "", "")
    assert receiver.total("hits") == 301
    assert len(receiver.latest("hits")) == 1


# ---- declarative configuration ------------------------------------------------------------------

METER_PROVIDER = """
meter_provider:
  readers:
    - periodic:
        interval: 3600000
        exporter:
          otlp_http:
            endpoint: ENDPOINT/v1/metrics
"""
TRACER_PROVIDER = """
tracer_provider:
  processors:
    - batch:
        exporter:
          console: {}
"""
RESOURCE = """
resource:
  attributes:
    - name: service.name
      value: from-the-file
"""


@pytest.fixture
def declare(tmp_path: Path) -> Any:
    """Writes a configuration file. Returns: what has it used."""
    pytest.importorskip("opentelemetry.configuration")
    file = tmp_path / "otel.yaml"

    def write(text: str) -> dict[str, str]:
        file.write_text(f'file_format: "1.0"\n{text}')
        return {"OTEL_CONFIG_FILE": str(file)}

    return write


def about_the_file(errors: str) -> bool:
    """Whether nothing was said but that the file counts and the launcher's options do not."""
    return all("is set; ignoring configurator kwargs" in line for line in errors.splitlines())


@pytest.mark.parametrize("spans", ["", TRACER_PROVIDER], ids=["metrics", "spans and metrics"])
def test_config_file(spans: str, declare: Any) -> None:
    """The file's readers and resource with our provider; the variables about exporters are not read."""
    with Receiver() as receiver:
        file = declare(RESOURCE + METER_PROVIDER.replace("ENDPOINT", receiver.endpoint) + spans)
        code, output, errors = run(**OURS, **file, OTEL_METRICS_EXPORTER="console")
    assert (code, output) == (0, OURS_IS_SET)
    assert about_the_file(errors)
    (point,) = receiver.points("hits")
    assert (point.value, point.attributes) == (1, {"route": "/"})
    assert point.resource_attributes["service.name"] == "from-the-file"


def test_config_file_without_asking_for_us(declare: Any) -> None:
    """The SDK's provider, as ever."""
    with Receiver() as receiver:
        file = declare(METER_PROVIDER.replace("ENDPOINT", receiver.endpoint) + TRACER_PROVIDER)
        code, output, errors = run(**file)
    assert (code, output) == (0, STOCK_IS_SET)
    assert about_the_file(errors)
    assert receiver.total("hits") == 1


@pytest.mark.parametrize(
    "text",
    ["", TRACER_PROVIDER, "disabled: true\n"],
    ids=["empty", "spans only", "disabled"],
)
def test_config_file_without_metrics(text: str, declare: Any) -> None:
    """A file that wants no metrics gets none, whatever the variables about exporters say."""
    with Receiver() as receiver:
        code, output, _ = run(**OURS, **over_http(receiver), **declare(text))
    assert (code, output) == (0, "opentelemetry.metrics._internal\n")  # the API's, never set
    assert receiver.requests == []


def test_configured_by_code(declare: Any) -> None:
    """`configure_sdk` called by the program itself, without `opentelemetry-instrument`."""
    with Receiver() as receiver:
        text = METER_PROVIDER.replace("ENDPOINT", receiver.endpoint) + TRACER_PROVIDER
        (file,) = declare(text).values()
        code = (
            "from opentelemetry.configuration import configure_sdk, load_config_file\n"
            f"configure_sdk(load_config_file({file!r}))\n"
            f"import runpy; runpy.run_path({str(APPS / 'counting.py')!r})"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, **OURS},
            input="",
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
    assert (done.returncode, done.stdout, done.stderr) == (0, OURS_IS_SET, "")
    assert len(receiver.points("hits")) == 1


# ---- inside one process -------------------------------------------------------------------------


@pytest.fixture
def asked(no_global_provider: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process with no provider yet that is to use ours."""
    monkeypatch.setenv("OTEL_PYTHON_METER_PROVIDER", "otel_shm")


@pytest.mark.usefixtures("asked")
def test_everything_is_handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers, resource, exemplar filter, views and meter configurator, and whether exit shuts down."""
    given: dict[str, Any] = {
        "metric_readers": [InMemoryMetricReader(), InMemoryMetricReader()],
        "resource": Resource({"a": "b"}),
        "exemplar_filter": sdk.AlwaysOnExemplarFilter(),
        "shutdown_on_exit": False,
        "views": [View(instrument_name="x", name="y")],
    }
    if SDK >= (1, 41):
        given["_meter_configurator"] = lambda _scope: None
    got: dict[str, Any] = {}

    class Witness(otel_shm.MeterProvider):
        """Remembers what it was given."""

        def __init__(
            self,
            metric_readers: Any,
            resource: Any,
            exemplar_filter: Any,
            shutdown_on_exit: Any,
            views: Any,
            **options: Any,
        ) -> None:
            got.update(
                metric_readers=metric_readers,
                resource=resource,
                exemplar_filter=exemplar_filter,
                shutdown_on_exit=shutdown_on_exit,
                views=views,
                **options,
            )
            super().__init__(shutdown_on_exit=False)

    monkeypatch.setattr(configurator, "MeterProvider", Witness)
    api.set_meter_provider(sdk.MeterProvider(**given))
    configurator.pre_instrument()
    assert got == {"_meter_configurator": None, **given}
    assert isinstance(api.get_meter_provider(), Witness)


@pytest.mark.usefixtures("asked")
def test_instruments_made_before_count_with_us() -> None:
    """Instruments of the API's placeholders, which had become the SDK's, are ours from then on."""
    # The API itself is not asked for a meter: that would make a provider.
    early = api_internal._PROXY_METER_PROVIDER.get_meter("scope").create_counter("c")
    reader = InMemoryMetricReader()
    api.set_meter_provider(sdk.MeterProvider([reader], shutdown_on_exit=False))
    configurator.pre_instrument()
    early.add(2)
    api.get_meter("scope").create_counter("c").add(3)
    assert values(reader, "c") == {"{}": 5}
    api.get_meter_provider().shutdown()  # type: ignore[attr-defined]


@pytest.mark.usefixtures("asked")
def test_readers_end_when_ours_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody would get anything from them, so their exporters are closed and their threads end."""
    monkeypatch.setenv("OTEL_SHM_PATH", "/no/such/folder/buffer")
    threads = threading.active_count()
    reader = PeriodicExportingMetricReader(ConsoleMetricExporter())
    assert threading.active_count() == threads + 1
    api.set_meter_provider(sdk.MeterProvider([reader], shutdown_on_exit=False))
    configurator.pre_instrument()
    assert threading.active_count() == threads
    assert isinstance(api.get_meter_provider(), api.NoOpMeterProvider)


@pytest.mark.usefixtures("asked")
def test_a_foreign_provider_stays() -> None:
    """One that is neither ours nor the SDK's was set on purpose."""
    foreign = api.NoOpMeterProvider()
    api.set_meter_provider(foreign)
    configurator.pre_instrument()
    assert api.get_meter_provider() is foreign


@pytest.mark.usefixtures("asked")
def test_ours_stays(make_provider: Any) -> None:
    """Called again, for a process that is initialized twice, nothing changes."""
    ours = make_provider()
    api.set_meter_provider(ours)
    configurator.pre_instrument()
    assert api.get_meter_provider() is ours


@pytest.mark.usefixtures("asked")
def test_nobody_configures() -> None:
    """Where nothing set a provider there is nothing to take over: the API makes ours when asked."""
    configurator.pre_instrument()
    assert api_internal._METER_PROVIDER is None


def answer_as_the_api_does() -> None:
    """Has the API get its answer to a configurator's question, and try to keep it."""
    api_internal._set_meter_provider(configurator.postpone(), log=False)


@pytest.mark.usefixtures("asked")
def test_postponed_but_set_by_code() -> None:
    """A provider that the program sets itself is the program's, though a configurator had asked."""
    answer_as_the_api_does()
    assert api.get_meter_provider() is api_internal._PROXY_METER_PROVIDER
    stock = sdk.MeterProvider(shutdown_on_exit=False)
    api.set_meter_provider(stock)
    assert api.get_meter_provider() is stock


@pytest.mark.usefixtures("asked")
def test_postponed_and_never_set(caplog: pytest.LogCaptureFixture) -> None:
    """When the configurator set none, everything is as if it had not asked."""
    once = api_internal._METER_PROVIDER_SET_ONCE
    answer_as_the_api_does()
    configurator.pre_instrument()
    assert api_internal._METER_PROVIDER is None
    assert api_internal._METER_PROVIDER_SET_ONCE is once
    assert caplog.messages == []
