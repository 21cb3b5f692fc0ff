# SPDX-License-Identifier: Apache-2.0
"""uWSGI, which forks without telling the interpreter and whose master runs no exit handlers."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from buffers import shm
from otlp_collector import Collector, otlp_collector
from processes import until
from receiver import Receiver  # pytest's `pythonpath` setting points at examples/
from serving import (
    PATIENCE,
    SCRIPTS,
    Server,
    assert_collected,
    assert_one_series,
    collecting,
    serve,
)

__all__ = ["otlp_collector", "shm"]  # fixtures: found by their names in this module

pytestmark = pytest.mark.slow

# Stopped otherwise, a worker that is not quite done with its last request runs no exit handlers.
GRACEFULLY = "--hook-master-start=unix_signal:15 gracefully_kill_them_all"
# Whether the app is loaded before the fork, and what the interpreter is told of that.
PREFORKING = [
    "",
    "--py-call-uwsgi-fork-hooks",
    pytest.param("--py-call-osafterfork", marks=pytest.mark.slow),
    pytest.param("--threads=2", marks=pytest.mark.slow),
]


@contextmanager
def uwsgi(
    folder: Path, endpoint: str, *options: str, module: str = "web", **environment: str
) -> Iterator[Server]:
    """The service with three workers, all of them up."""
    # fmt: off
    command = [
        SCRIPTS / "uwsgi", f"--module={module}:app", "--need-app", "--http-socket=fd://{fd}",
        "--master", "--processes=3", "--enable-threads", GRACEFULLY,
    ]
    # fmt: on
    options = tuple(filter(None, options))
    with serve(folder, endpoint, *command, *options, **environment) as server:
        load_until_all_answered(server)
        yield server


def load_until_all_answered(server: Server) -> None:
    """It forgets to stop a worker that it is about to start, or has just started."""
    server.load_until(
        lambda: len(server.workers()) == 3 and server.workers() <= set(server.answered)
    )


@pytest.mark.parametrize("option", PREFORKING)
def test_the_last_interval_is_not_lost(option: str, tmp_path: Path) -> None:
    """Forked workers share an anonymous buffer; when they are stopped all arrives, and at once."""
    with Receiver() as receiver:
        with uwsgi(tmp_path, receiver.endpoint, option) as server:
            server.load(100)
            assert receiver.points("requests") == []
            server.stop()
        assert_one_series(receiver, server.answered.total())


def test_without_uwsgis_python_package(tmp_path: Path) -> None:
    """Workers are told of their fork by the server itself, and so they export as they go."""
    with Receiver() as receiver:
        with uwsgi(
            tmp_path, receiver.endpoint, module="alone", OTEL_METRIC_EXPORT_INTERVAL="50"
        ) as server:
            server.load(100)
            total = server.answered.total()
            assert receiver.wait_for(lambda: receiver.total("requests") == total, PATIENCE)
            server.stop()
        assert_one_series(receiver, total)


def test_lazy_workers_share_a_named_buffer(shm: Path, tmp_path: Path) -> None:
    """Where each worker loads the app itself."""
    with Receiver() as receiver:
        with uwsgi(
            tmp_path, receiver.endpoint, "--lazy-apps", OTEL_SHM_PATH=str(shm / "buffer")
        ) as server:
            server.load(100)
            server.stop()
        assert_one_series(receiver, server.answered.total())


@pytest.mark.parametrize("option", PREFORKING[:2])
def test_workers_export_and_not_the_master(option: str, shm: Path, tmp_path: Path) -> None:
    """With short intervals the end arrives too: the master, which would not send it, never collects."""
    with Receiver() as receiver:
        with uwsgi(
            tmp_path,
            receiver.endpoint,
            option,
            OTEL_METRIC_EXPORT_INTERVAL="50",
            OTEL_SHM_PATH=str(shm / "buffer"),
        ) as server:
            server.load(100)
            assert receiver.wait_for(
                lambda: receiver.total("requests") == server.answered.total(), PATIENCE
            )
            assert collecting(shm / "buffer") in server.workers()
            server.load(100)
            server.stop()
        assert_one_series(receiver, server.answered.total())


def test_recycled_workers_lose_nothing(tmp_path: Path) -> None:
    """Workers that end after ten requests each: not one is missing, though only exits export."""
    with Receiver() as receiver:
        options = ["--max-requests=10", "--min-worker-lifetime=0"]
        with uwsgi(tmp_path, receiver.endpoint, *options) as server:
            server.load_until(
                lambda: (
                    len(server.answered) >= 6
                    and len(server.workers()) == 3
                    and server.workers() == {pid for pid, n in server.answered.items() if n < 10}
                )
            )
            server.stop()
        assert_one_series(receiver, server.answered.total())


def test_a_killed_worker_loses_nothing(shm: Path, tmp_path: Path) -> None:
    """The one that exports is killed; counts and identity go on with those that are left."""
    with Receiver() as receiver:
        with uwsgi(
            tmp_path,
            receiver.endpoint,
            OTEL_METRIC_EXPORT_INTERVAL="50",
            OTEL_SHM_PATH=str(shm / "buffer"),
        ) as server:
            server.load(60)
            assert receiver.wait_for(
                lambda: receiver.total("requests") == server.answered.total(), PATIENCE
            )
            killed = collecting(shm / "buffer")
            os.kill(killed, signal.SIGKILL)
            until(lambda: collecting(shm / "buffer") not in (killed, 0))
            load_until_all_answered(server)
            assert receiver.wait_for(
                lambda: receiver.total("requests") == server.answered.total(), PATIENCE
            )
            server.load(60)
            server.stop()
        assert_one_series(receiver, server.answered.total())


def test_reload_goes_on(shm: Path, tmp_path: Path) -> None:
    """SIGHUP replaces the master too; the total and its identity are those of before."""
    with Receiver() as receiver:
        with uwsgi(tmp_path, receiver.endpoint, OTEL_SHM_PATH=str(shm / "buffer")) as server:
            server.load(60)
            server.process.send_signal(signal.SIGHUP)
            server.load_until(lambda: len(server.answered) >= 6)
            server.stop()
        assert_one_series(receiver, server.answered.total())


def test_a_real_collector_gets_the_total(otlp_collector: Collector, tmp_path: Path) -> None:
    """Not only our own receiver: an OTLP collector over gRPC sees the one exact series."""
    with uwsgi(
        tmp_path, otlp_collector.grpc_endpoint, OTEL_EXPORTER_OTLP_PROTOCOL="grpc"
    ) as server:
        server.load(100)
        server.stop()
    assert_collected(otlp_collector, server.answered.total())
