# SPDX-License-Identifier: Apache-2.0
"""Celery's prefork workers, ended after each task: one exact total of real tasks, exported at the end."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from buffers import shm
from otlp_collector import Collector, otlp_collector
from processes import until
from receiver import Receiver  # pytest's `pythonpath` setting points at examples/
from serving import APPS, PYTHON, assert_collected, assert_one_series, run

__all__ = ["otlp_collector", "shm"]  # fixtures: found by their names in this module

pytestmark = pytest.mark.slow

TASKS = 9
Broker = Callable[[Path], AbstractContextManager[Path]]


@contextmanager
def redis(folder: Path) -> Iterator[Path]:
    """A Redis that listens on a socket in a folder."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("needs redis-server")
    socket = folder / "redis.sock"
    options = ("--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", str(folder))
    with subprocess.Popen([program, *options], stdout=subprocess.DEVNULL) as process:
        try:
            until(socket.is_socket)
            yield socket
        finally:
            process.terminate()


@contextmanager
def spool(folder: Path) -> Iterator[Path]:
    """The broker that is a folder."""
    broker = folder / "broker"
    broker.mkdir()
    yield broker


def work(folder: Path, endpoint: str, broker: Path, **environment: str) -> None:
    """Has three worker processes do the tasks, a new process for each, and stops them."""
    done = folder / "done"
    done.mkdir()
    environment |= {"BROKER": str(broker), "DONE": str(done)}
    send = f"import tasks\nfor number in range({TASKS}): tasks.count.delay(number)"
    subprocess.run([PYTHON, "-c", send], cwd=APPS, env=os.environ | environment, check=True)
    # fmt: off
    command = [
        PYTHON, "-m", "celery", "--app=tasks", "worker", "--concurrency=3", "--max-tasks-per-child=1",
        "--without-gossip", "--without-mingle", "--without-heartbeat",
    ]
    # fmt: on
    with run(folder, endpoint, *command, **environment) as workers:
        until(lambda: len(list(done.iterdir())) == TASKS)
        workers.stop()
    assert len({file.suffix for file in done.iterdir()}) == TASKS  # each by a process of its own


@pytest.mark.parametrize("broker", [spool, pytest.param(redis, marks=pytest.mark.slow)])
def test_the_main_process_exports_the_end(broker: Broker, tmp_path: Path) -> None:
    """It imports the app, so it has a provider, and its children share the anonymous buffer."""
    with Receiver() as receiver, broker(tmp_path) as where:
        work(tmp_path, receiver.endpoint, where)
        assert_one_series(receiver, TASKS, "tasks")
        assert len(receiver.requests) == 1


@pytest.mark.slow
def test_providers_of_the_worker_processes(shm: Path, tmp_path: Path) -> None:
    """Made and shut down by Celery's signals, where the main process has none."""
    with Receiver() as receiver, spool(tmp_path) as where:
        buffer = str(shm / "buffer")
        work(tmp_path, receiver.endpoint, where, PROVIDER="children", OTEL_SHM_PATH=buffer)
        assert_one_series(receiver, TASKS, "tasks")


@pytest.mark.slow
def test_a_real_collector_gets_the_total(otlp_collector: Collector, tmp_path: Path) -> None:
    """Not only our own receiver: an OTLP collector over gRPC sees the one exact series."""
    with spool(tmp_path) as where:
        endpoint = otlp_collector.grpc_endpoint
        work(tmp_path, endpoint, where, OTEL_EXPORTER_OTLP_PROTOCOL="grpc")
    assert_collected(otlp_collector, TASKS, "tasks")
