# SPDX-License-Identifier: Apache-2.0
"""The examples with servers, started by the commands that they name: exact totals arrive."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
from pathlib import Path

import pytest
from buffers import shm
from receiver import Receiver  # pytest's `pythonpath` setting points at examples/
from serving import (
    PATIENCE,
    PYTHON,
    SCRIPTS,
    Server,
    assert_one_series,
    collecting,
    is_running,
    run,
    serve,
)

__all__ = ["shm"]  # fixtures: found by their names in this module

ROOT = Path(__file__).parent.parent
WORKERS = 4
REQUESTS = 100
TASKS = 20
ADD = """
from opentelemetry import metrics
metrics.get_meter("shop").create_counter("orders").add(3, {"channel": "web"})
"""
GUNICORN = "GUNICORN_CMD_ARGS=--bind=fd://{fd} --no-control-socket"


def command(example: str, program: str, *environment: str) -> list[str]:
    """The line of an example's explanation that starts a program, run in the project's folder,
    or in the one that it changes to.

    Nothing but the example chooses the provider.
    """
    text = (ROOT / "examples" / example).read_text()
    folder = ROOT.joinpath(*re.findall(r"^ {4}cd (\w+)$", text, re.MULTILINE))
    (line,) = re.findall(rf"^#? {{4,}}({program} .*)$", text, re.MULTILINE)
    path = f"PATH={SCRIPTS}:{os.environ['PATH']}"
    started = ["env", f"--chdir={folder}", "--unset=OTEL_PYTHON_METER_PROVIDER", path, *environment]
    return [*started, *shlex.split(line, comments=True)]


def load(server: Server) -> None:
    """Sends requests until each worker answered some, and not fewer than REQUESTS."""
    while len(server.answered) < WORKERS or server.answered.total() < REQUESTS:
        server.load(REQUESTS)


def test_gunicorn_wsgi(tmp_path: Path) -> None:
    """The preloading master exports what its workers counted."""
    started = command("gunicorn_wsgi.py", "gunicorn", GUNICORN)
    with Receiver() as receiver:
        with serve(tmp_path, receiver.endpoint, *started) as server:
            load(server)
            server.stop()
        assert_one_series(receiver, server.answered.total())


def test_uvicorn_fastapi(shm: Path, tmp_path: Path) -> None:
    """The lifespan of the last worker exports what all counted."""
    started = [*command("uvicorn_fastapi.py", "uvicorn"), "--fd={fd}"]
    with Receiver() as receiver:
        with serve(
            tmp_path, receiver.endpoint, *started, OTEL_SHM_PATH=str(shm / "buffer")
        ) as server:
            server.until_said("Application startup complete", WORKERS)
            load(server)
            server.stop()
        assert_one_series(receiver, server.answered.total())


def test_celery_tasks(tmp_path: Path) -> None:
    """The worker's main process exports the tasks of its children; the sender exports nothing."""
    with Receiver() as receiver:
        environment = {"BROKER_FOLDER": str(tmp_path / "broker")}
        with run(
            tmp_path / "sender",
            receiver.endpoint,
            *command("celery_tasks.py", "python"),
            **environment,
        ) as sender:
            sender.ends()
        with run(
            tmp_path / "worker",
            receiver.endpoint,
            *command("celery_tasks.py", "celery"),
            **environment,
        ) as worker:
            worker.until_said("succeeded in", TASKS)
            worker.stop()
        assert_one_series(receiver, TASKS, "tasks")
        assert len(receiver.requests) == 1


def test_supervisor(tmp_path: Path) -> None:
    """A service that sets nothing: the supervisor exports it, and leaves no buffer."""
    started = command("supervisor.sh", "sh", GUNICORN)
    with Receiver() as receiver:
        with serve(
            tmp_path, receiver.endpoint, *started, OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf"
        ) as server:
            load(server)
            server.stop()
        assert_one_series(receiver, server.answered.total())


def test_sidecar(shm: Path, tmp_path: Path) -> None:
    """A service that exports nothing: the process beside it does, and has its end."""
    buffer = shm / "buffer"
    started = command("sidecar.sh", "sh", GUNICORN)
    environment = {"OTEL_SHM_PATH": str(buffer), "OTEL_METRIC_EXPORT_INTERVAL": "50"}
    sidecar = 0
    with Receiver() as receiver:
        try:
            with serve(tmp_path, receiver.endpoint, *started, **environment) as server:
                load(server)
                total = server.answered.total()
                assert receiver.wait_for(lambda: receiver.total("requests") == total, PATIENCE)
                sidecar = collecting(buffer)
                assert sidecar not in {0, *server.answered}
                server.load(REQUESTS)
                server.stop()
            assert not is_running(sidecar)
        finally:
            if is_running(sidecar):  # in a session of its own, so `serve` does not end it
                os.kill(sidecar, signal.SIGKILL)
        assert_one_series(receiver, server.answered.total())


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_receiver(protocol: str) -> None:
    """As a program it says where it listens, and prints what arrives."""
    listens = [*command("receiver.py", "python"), "--http-port=0", "--grpc-port=0"]
    with subprocess.Popen(listens, stdout=subprocess.PIPE, text=True) as receiver:
        assert receiver.stdout is not None
        try:
            http, grpc = re.findall(r"http://[\d.:]+", receiver.stdout.readline())
            environment = {
                "OTEL_PYTHON_METER_PROVIDER": "otel_shm",
                "OTEL_EXPORTER_OTLP_ENDPOINT": grpc if protocol == "grpc" else http,
                "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
                "OTEL_SERVICE_NAME": "shop",
            }
            subprocess.run([PYTHON, "-c", ADD], env=os.environ | environment, check=True)
            line = receiver.stdout.readline()
            assert line.startswith("orders {'channel': 'web'} 3 from shop "), line
        finally:
            receiver.send_signal(signal.SIGINT)  # Ctrl-C
        assert receiver.wait(PATIENCE) == 0


pytestmark = pytest.mark.slow
