# SPDX-License-Identifier: Apache-2.0
"""Several gunicorn workers: the exact total of real requests arrives as one series, whatever happens."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

import pytest
from buffers import shm
from otlp_collector import Collector, otlp_collector
from processes import until
from receiver import Receiver  # pytest's `pythonpath` setting points at examples/
from serving import PATIENCE, PYTHON, Server, assert_collected, assert_one_series, serve

__all__ = ["otlp_collector", "shm"]  # fixtures: found by their names in this module

HEARS = "hears signals"


@contextmanager
def gunicorn(
    folder: Path,
    endpoint: str,
    *options: str,
    launcher: Sequence[str] = (),
    workers: int = 3,
    preload: bool = False,
    app: str = "web:app",
    **environment: str,
) -> Iterator[Server]:
    """The service, once signals can end its workers; started by a launcher if one is given."""
    # fmt: off
    command = [
        *launcher,
        PYTHON, "-m", "gunicorn", app,
        "--bind=fd://{fd}", f"--workers={workers}", "--no-control-socket",
        "--log-level=warning", "--timeout=60", "--graceful-timeout=20",
        *(["--preload"] if preload else []),
    ]
    # fmt: on
    with serve(folder, endpoint, *command, *options, **environment) as started:
        started.until_said(HEARS, workers)
        yield started


def workers_of(server: Server) -> set[int]:
    """The three workers, once signals can end them (apps/gunicorn.conf.py)."""

    def all_hear() -> set[int]:
        workers = server.workers()
        said = server.log()
        heard = len(workers) == 3 and all(f"{pid} {HEARS}" in said for pid in workers)
        return workers if heard else set()

    return until(all_hear)


Start = Callable[..., AbstractContextManager[Server]]


@pytest.fixture(params=["preload", "path"])
def start(request: pytest.FixtureRequest, shm: Path, tmp_path: Path) -> Start:
    """Starts the service: its workers inherit one buffer from the master, or it is named."""
    if request.param == "preload":
        return partial(gunicorn, tmp_path, preload=True)
    return partial(gunicorn, tmp_path, OTEL_SHM_PATH=str(shm / "buffer"))


@pytest.mark.parametrize(
    ("protocol", "worker_class"),
    [
        ("http/protobuf", "sync"),
        ("grpc", "gthread"),
        pytest.param("http/protobuf", "gthread", marks=pytest.mark.slow),
        pytest.param("grpc", "sync", marks=pytest.mark.slow),
    ],
)
def test_total_is_exact(start: Start, protocol: str, worker_class: str) -> None:
    """With short intervals, and the rest of the last one at the end."""
    with Receiver(grpc=True) as receiver:
        endpoint = receiver.grpc_endpoint if protocol == "grpc" else receiver.endpoint
        with start(
            endpoint,
            f"--worker-class={worker_class}",
            OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
            OTEL_METRIC_EXPORT_INTERVAL="50",
        ) as server:
            server.load(100)
            assert receiver.wait_for(lambda: receiver.total("requests") == 100, PATIENCE)
            server.load(100)
            server.stop()
        assert_one_series(receiver, 200)


def observing(receiver: Receiver) -> set[object]:
    """The processes whose callbacks were heard of."""
    return {point.attributes["pid"] for point in receiver.points("workers")}


@pytest.mark.slow
def test_greenlets(start: Start) -> None:
    """What answers to the collector is a greenlet too, and keeps no request waiting."""
    with Receiver() as receiver:
        with start(
            receiver.endpoint,
            "--worker-class=gevent",
            app="web_observed:app",
            OTEL_METRIC_EXPORT_INTERVAL="50",
        ) as server:
            server.load(100)
            assert receiver.wait_for(lambda: receiver.total("requests") == 100, PATIENCE)
            assert receiver.wait_for(lambda: server.workers() <= observing(receiver), PATIENCE)
            server.load(100)
            server.stop()
            assert "Traceback" not in server.log()
        assert_one_series(receiver, 200)


def test_killed_workers_lose_nothing(start: Start) -> None:
    """Every worker is killed once, the one that exports among them; counts and identity go on."""
    with Receiver() as receiver:
        with start(receiver.endpoint, OTEL_METRIC_EXPORT_INTERVAL="50") as server:
            server.load(60)
            for pid in workers_of(server):
                os.kill(pid, signal.SIGKILL)
                until(lambda pid=pid: pid not in workers_of(server))
                server.load(60)
            assert receiver.wait_for(lambda: receiver.total("requests") == 240, PATIENCE)
            server.load(60)
            server.stop()
        assert_one_series(receiver, 300)


@pytest.mark.parametrize("worker_class", ["sync", pytest.param("gthread", marks=pytest.mark.slow)])
def test_recycled_workers_lose_nothing(start: Start, worker_class: str) -> None:
    """Workers that end after ten requests each: not one is missing, though only exits export."""
    with Receiver() as receiver:
        with start(
            receiver.endpoint,
            f"--worker-class={worker_class}",
            "--max-requests=10",
        ) as server:
            server.load(120)
            assert len(server.answered) >= 6  # or nobody was recycled
            workers_of(server)
            server.stop()
        assert_one_series(receiver, 120)


@pytest.mark.parametrize(
    "number",
    [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGQUIT],
)
def test_the_last_interval_is_not_lost(number: int, start: Start) -> None:
    """A server that was never up long enough to export sends everything when it is stopped."""
    with Receiver() as receiver:
        with start(receiver.endpoint) as server:
            server.load(60)
            assert receiver.points("requests") == []
            server.stop(number)
        assert_one_series(receiver, 60)


def test_a_killed_master_loses_nothing(start: Start) -> None:
    """Workers that find their master gone leave, and what they and it had counted is exported."""
    with Receiver() as receiver:
        with start(
            receiver.endpoint,
            "--timeout=2",  # a worker looks for its master twice in that time
        ) as server:
            server.load(60)
            server.stop(signal.SIGKILL, -signal.SIGKILL)
        assert_one_series(receiver, 60)


def test_reload_goes_on(shm: Path, tmp_path: Path) -> None:
    """SIGHUP replaces all workers; the total and its identity are those of before."""
    with Receiver() as receiver:
        with gunicorn(
            tmp_path,
            receiver.endpoint,
            OTEL_SHM_PATH=str(shm / "buffer"),
            OTEL_METRIC_EXPORT_INTERVAL="50",
        ) as server:
            server.load(60)
            first = server.workers()
            server.process.send_signal(signal.SIGHUP)
            until(lambda: not first & workers_of(server))
            server.load(60)
            server.stop()
        assert_one_series(receiver, 120)


def test_a_real_collector_gets_the_total(otlp_collector: Collector, tmp_path: Path) -> None:
    """Not only our own receiver: an OTLP collector over gRPC sees the one exact series."""
    with gunicorn(
        tmp_path,
        otlp_collector.grpc_endpoint,
        preload=True,
        OTEL_EXPORTER_OTLP_PROTOCOL="grpc",
        OTEL_METRIC_EXPORT_INTERVAL="50",
    ) as server:
        server.load(100)
        server.stop()
    assert_collected(otlp_collector, 100)
