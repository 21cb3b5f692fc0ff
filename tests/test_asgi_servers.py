# SPDX-License-Identifier: Apache-2.0
"""uvicorn, hypercorn and granian: their workers make one exact total, exported to its end.

uvicorn lets the signal that stopped it kill its workers when they are done, so no exit handler is run
in them: there a service has its lifespan hook shut the provider down.
"""

from __future__ import annotations

import os
import signal
import uuid
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
    PYTHON,
    SCRIPTS,
    Server,
    assert_collected,
    assert_one_series,
    collecting,
    serve,
)

__all__ = ["otlp_collector", "shm"]  # fixtures: found by their names in this module

pytestmark = pytest.mark.slow

LIFESPAN = {"GOODBYE": "lifespan"}
GUNICORN = ["-m", "gunicorn", "asgi:app", "--bind=fd://{fd}", "--workers=3", "--no-control-socket"]
GRANIAN = ["--port={port}", "--workers=3"]
# Of each: its command with three workers, what each worker says when it is up, and what it needs to
# export the end.
SERVERS: dict[str, tuple[list[str | Path], str, dict[str, str]]] = {
    "uvicorn": (
        [PYTHON, "-m", "uvicorn", "asgi:app", "--fd={fd}", "--workers=3"],
        "Application startup complete",
        LIFESPAN,
    ),
    "hypercorn": (
        [PYTHON, "-m", "hypercorn", "asgi:app", "--bind=fd://{fd}", "--workers=3"],
        "Running on",
        {},
    ),
    "granian": (
        [SCRIPTS / "granian", "asgi:app", "--interface=asgi", *GRANIAN],
        "Started worker-",
        {},
    ),
    "granian, WSGI": (
        [SCRIPTS / "granian", "web:app", "--interface=wsgi", *GRANIAN],
        "Started worker-",
        {},
    ),
    "gunicorn": (
        [PYTHON, *GUNICORN, "--worker-class=asgi"],
        "ASGI server listening",
        {},
    ),
    "gunicorn with uvicorn": (
        [PYTHON, *GUNICORN, "--worker-class=uvicorn_worker.UvicornWorker"],
        "Application startup complete",
        LIFESPAN,
    ),
}


@contextmanager
def started(
    name: str, folder: Path, endpoint: str, buffer: Path, *options: str, **environment: str
) -> Iterator[Server]:
    """A server of SERVERS whose workers are up."""
    command, is_up, needs = SERVERS[name]
    environment = {"OTEL_SHM_PATH": str(buffer), **needs, **environment}
    with serve(folder, endpoint, *command, *options, **environment) as server:
        server.until_said(is_up, 3)
        yield server


@pytest.mark.parametrize("name", SERVERS)
def test_the_last_interval_is_not_lost(name: str, shm: Path, tmp_path: Path) -> None:
    """Nobody exports while it runs; when it is stopped everything arrives, of all workers."""
    with Receiver() as receiver:
        with started(name, tmp_path, receiver.endpoint, shm / "buffer") as server:
            server.load(100)
            assert receiver.points("requests") == []
            server.stop()
        assert_one_series(receiver, 100)


# Without hypercorn: when one of its workers has left it kills those that are still leaving, and one of
# them may be who has been collecting.
@pytest.mark.parametrize("name", ["uvicorn", "granian"])
def test_total_is_exact(name: str, shm: Path, tmp_path: Path) -> None:
    """With short intervals, and the rest of the last one at the end."""
    with Receiver() as receiver:
        with started(
            name, tmp_path, receiver.endpoint, shm / "buffer", OTEL_METRIC_EXPORT_INTERVAL="50"
        ) as server:
            server.load(100)
            assert receiver.wait_for(lambda: receiver.total("requests") == 100, PATIENCE)
            server.load(100)
            server.stop()
        assert_one_series(receiver, 200)


@pytest.mark.parametrize("name", ["uvicorn", "hypercorn", "granian"])
def test_ctrl_c_exports_too(name: str, shm: Path, tmp_path: Path) -> None:
    """SIGINT is a stop like any other."""
    with Receiver() as receiver:
        with started(name, tmp_path, receiver.endpoint, shm / "buffer") as server:
            server.load(30)
            server.stop(signal.SIGINT)
        assert_one_series(receiver, 30)


def test_a_preloading_master_exports_the_end(tmp_path: Path) -> None:
    """With the app in gunicorn's master, uvicorn's workers need no path and no lifespan hook."""
    with Receiver() as receiver:
        command, is_up, _ = SERVERS["gunicorn with uvicorn"]
        with serve(tmp_path, receiver.endpoint, *command, "--preload") as server:
            server.until_said(is_up, 3)
            server.load(100)
            server.stop()
        assert_one_series(receiver, 100)


# Without hypercorn, for the same reason.
@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("uvicorn", "--limit-max-requests=20"),
        ("gunicorn", "--max-requests=20"),
        ("gunicorn with uvicorn", "--max-requests=20"),
    ],
)
def test_recycled_workers_lose_nothing(name: str, option: str, shm: Path, tmp_path: Path) -> None:
    """Workers end after twenty requests each: not one is missing, though only exits export."""
    ledger = tmp_path / "ledger"  # some servers drop requests then: who counted them is asked
    with Receiver() as receiver:
        with started(
            name, tmp_path, receiver.endpoint, shm / "buffer", option, LEDGER=str(ledger)
        ) as server:
            server.load_until(lambda: len(server.answered) >= 5)
            server.stop()
        assert_one_series(receiver, ledger.stat().st_size)


@pytest.mark.parametrize(
    ("name", "options"), [("uvicorn", []), ("granian", ["--respawn-failed-workers"])]
)
def test_a_killed_worker_loses_nothing(
    name: str, options: list[str], shm: Path, tmp_path: Path
) -> None:
    """The one that exports is killed; the server starts another, and counts and identity go on."""
    with Receiver() as receiver:
        with started(
            name,
            tmp_path,
            receiver.endpoint,
            shm / "buffer",
            *options,
            OTEL_METRIC_EXPORT_INTERVAL="50",
        ) as server:
            server.load(60)
            assert receiver.wait_for(lambda: receiver.total("requests") == 60, PATIENCE)
            killed = collecting(shm / "buffer")
            os.kill(killed, signal.SIGKILL)
            until(lambda: collecting(shm / "buffer") not in (killed, 0))
            server.until_said(SERVERS[name][1], 4)
            server.load(60)
            assert receiver.wait_for(lambda: receiver.total("requests") == 120, PATIENCE)
            server.load(60)
            server.stop()
        assert_one_series(receiver, 180)


def test_what_nobody_exported_is_exported_by_the_next(shm: Path, tmp_path: Path) -> None:
    """uvicorn without a lifespan hook: the last interval waits in the named buffer."""
    name = f"test-{uuid.uuid4()}"
    with Receiver() as receiver:
        for goodbye, total in (("none", 0), ("lifespan", 60)):
            with started(
                "uvicorn",
                tmp_path / goodbye,
                receiver.endpoint,
                shm / "buffer",
                GOODBYE=goodbye,
                OTEL_SERVICE_NAME=name,
            ) as server:
                server.load(30)
                server.stop()
            assert receiver.total("requests") == total
        assert_one_series(receiver, 60)


@pytest.mark.parametrize("name", SERVERS)
def test_a_real_collector_gets_the_total(
    name: str, otlp_collector: Collector, shm: Path, tmp_path: Path
) -> None:
    """Not only our own receiver: an OTLP collector over gRPC sees the one exact series."""
    with started(
        name,
        tmp_path,
        otlp_collector.grpc_endpoint,
        shm / "buffer",
        OTEL_EXPORTER_OTLP_PROTOCOL="grpc",
    ) as server:
        server.load(100)
        server.stop()
    assert_collected(otlp_collector, 100)
