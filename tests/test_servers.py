# SPDX-License-Identifier: Apache-2.0
"""Several gunicorn workers: the exact total of real requests arrives as one series, whatever happens."""

from __future__ import annotations

import collections
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from otlp_collector import Collector, otlp_collector
from processes import until
from receiver import Receiver  # pytest's `pythonpath` setting points at examples/

__all__ = ["otlp_collector"]  # a fixture: found by its name in this module

APPS = Path(__file__).parent / "apps"
PATIENCE = 60.0  # seconds; nothing here takes a tenth of it
HOUR = "3600000"  # milliseconds between exports: only exits export


class Server:
    """A running gunicorn; counts what it answered, by the worker that did."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process = process
        self.url = f"http://127.0.0.1:{port}/"
        self.answered: collections.Counter[int] = collections.Counter()

    def load(self, requests: int) -> None:
        """Sends requests, a few at a time, and returns when all are answered."""

        def get(_number: int) -> int:
            with urllib.request.urlopen(self.url, timeout=PATIENCE) as answer:
                return int(answer.read())

        with ThreadPoolExecutor(4) as threads:
            self.answered.update(threads.map(get, range(requests)))

    def workers(self) -> set[int]:
        """The worker processes there are now."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        return {int(child) for child in children.split()}

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Ends it with a signal, and waits until the master is gone."""
        self.process.send_signal(number)
        assert self.process.wait(PATIENCE) == 0


@contextmanager
def gunicorn(folder: Path, endpoint: str, *options: str, **environment: str) -> Iterator[Server]:
    """The service with three workers, exporting to an endpoint."""
    with (
        # Inherited while it listens already: no port is guessed, early requests wait in its queue.
        socket.create_server(("127.0.0.1", 0)) as listener,
        (folder / "gunicorn.log").open("wb") as output,
    ):
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "gunicorn", "web:app"),
                *(f"--bind=fd://{listener.fileno()}", "--workers=3", "--no-control-socket"),
                *("--log-level=warning", "--timeout=60", "--graceful-timeout=20"),
                *options,
            ],
            cwd=APPS,
            env={
                **os.environ,
                "OTEL_PYTHON_METER_PROVIDER": "otel_shm",
                "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
                "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
                **environment,
            },
            stdout=output,
            stderr=output,
            pass_fds=[listener.fileno()],
        )
        port = listener.getsockname()[1]
    try:
        yield Server(process, port)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(PATIENCE / 2)
            finally:
                process.kill()
                process.wait()


@pytest.fixture(params=["preload", "path"])
def sharing(request: pytest.FixtureRequest, buffer_path: Path) -> tuple[str, dict[str, str]]:
    """How workers come by one buffer: inherited from the master, or named. Option and environment."""
    if request.param == "preload":
        return "--preload", {}
    return "--log-level=warning", {"OTEL_SHM_PATH": str(buffer_path)}


def assert_one_series(receiver: Receiver, total: int) -> None:
    """The total of all answers, in one series of one instance that never went back."""
    points = receiver.points("requests")
    assert receiver.total("requests") == total
    assert len(receiver.latest("requests")) == 1
    assert len({point.resource_attributes["service.instance.id"] for point in points}) == 1
    assert len({point.start_time_unix_nano for point in points}) == 1
    values = [point.value for point in sorted(points, key=lambda point: point.time_unix_nano)]
    assert values == sorted(values)
    assert receiver.total("in_flight") == 0


@pytest.mark.parametrize("worker_class", ["sync", "gthread"])
@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_total_is_exact(
    sharing: tuple[str, dict[str, str]], protocol: str, worker_class: str, tmp_path: Path
) -> None:
    """With short intervals, and the rest of the last one at the end."""
    option, environment = sharing
    with Receiver(grpc=True) as receiver:
        endpoint = receiver.grpc_endpoint if protocol == "grpc" else receiver.endpoint
        with gunicorn(
            tmp_path,
            endpoint,
            option,
            f"--worker-class={worker_class}",
            OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
            OTEL_METRIC_EXPORT_INTERVAL="50",
            **environment,
        ) as server:
            server.load(100)
            assert receiver.wait_for(lambda: receiver.total("requests") == 100, PATIENCE)
            server.load(100)
            server.stop()
        assert_one_series(receiver, 200)


def test_killed_workers_lose_nothing(sharing: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    """Every worker is killed once, the one that exports among them; counts and identity go on."""
    option, environment = sharing
    with Receiver() as receiver:
        with gunicorn(
            tmp_path, receiver.endpoint, option, OTEL_METRIC_EXPORT_INTERVAL="50", **environment
        ) as server:
            server.load(60)
            first = until(lambda: len(server.workers()) == 3 and server.workers())
            for pid in first:
                os.kill(pid, signal.SIGKILL)
                until(lambda pid=pid: pid not in server.workers() and len(server.workers()) == 3)
                server.load(60)
            assert receiver.wait_for(lambda: receiver.total("requests") == 240, PATIENCE)
            server.load(60)
            server.stop()
        assert_one_series(receiver, 300)


def test_recycled_workers_lose_nothing(sharing: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    """Workers that end after ten requests each: not one is missing, though only exits export."""
    option, environment = sharing
    with Receiver() as receiver:
        with gunicorn(
            tmp_path,
            receiver.endpoint,
            option,
            "--max-requests=10",
            OTEL_METRIC_EXPORT_INTERVAL=HOUR,
            **environment,
        ) as server:
            server.load(120)
            assert len(server.answered) >= 6  # or nobody was recycled
            server.stop()
        assert_one_series(receiver, 120)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_the_last_interval_is_not_lost(
    number: int, sharing: tuple[str, dict[str, str]], tmp_path: Path
) -> None:
    """A server that was never up long enough to export sends everything when it is stopped."""
    option, environment = sharing
    with Receiver() as receiver:
        with gunicorn(
            tmp_path, receiver.endpoint, option, OTEL_METRIC_EXPORT_INTERVAL=HOUR, **environment
        ) as server:
            server.load(60)
            assert receiver.points("requests") == []
            server.stop(number)
        assert_one_series(receiver, 60)


def test_a_killed_master_loses_nothing(sharing: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    """Workers that find their master gone leave, and what they and it had counted is exported."""
    option, environment = sharing
    with Receiver() as receiver:
        with gunicorn(
            tmp_path,
            receiver.endpoint,
            option,
            "--timeout=2",  # a worker looks for its master twice in that time
            OTEL_METRIC_EXPORT_INTERVAL=HOUR,
            **environment,
        ) as server:
            server.load(60)
            workers = server.workers()
            server.process.kill()
            server.process.wait()
            until(lambda: not any(map(is_running, workers)))
        assert_one_series(receiver, 60)


def is_running(pid: int) -> bool:
    """Whether there is such a process that has not ended."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def test_reload_goes_on(buffer_path: Path, tmp_path: Path) -> None:
    """SIGHUP replaces all workers; the total and its identity are those of before."""
    with Receiver() as receiver:
        with gunicorn(
            tmp_path,
            receiver.endpoint,
            OTEL_SHM_PATH=str(buffer_path),
            OTEL_METRIC_EXPORT_INTERVAL="50",
        ) as server:
            server.load(60)
            first = server.workers()
            server.process.send_signal(signal.SIGHUP)
            until(lambda: len(server.workers()) == 3 and not first & server.workers())
            server.load(60)
            server.stop()
        assert_one_series(receiver, 120)


def test_a_real_collector_gets_the_total(otlp_collector: Collector, tmp_path: Path) -> None:
    """Not only our own receiver: an OTLP collector over gRPC sees the one exact series."""
    with gunicorn(
        tmp_path,
        otlp_collector.grpc_endpoint,
        "--preload",
        OTEL_EXPORTER_OTLP_PROTOCOL="grpc",
        OTEL_METRIC_EXPORT_INTERVAL="50",
    ) as server:
        server.load(100)
        server.stop()
    points = [point for point in otlp_collector.points(2) if point.name == "requests"]
    assert max(point.value for point in points) == 100
    assert (
        len({(point.resource["service.instance.id"], point.start_unix_nano) for point in points})
        == 1
    )
