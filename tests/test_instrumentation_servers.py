# SPDX-License-Identifier: Apache-2.0
"""Instrumented services in several processes: each request is measured once, in one set of series."""

from __future__ import annotations

import collections
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from http.client import RemoteDisconnected
from pathlib import Path

import psutil
import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from processes import until
from receiver import Receiver  # pytest's `pythonpath` setting points at examples/

pytestmark = pytest.mark.slow

APPS = Path(__file__).parent / "apps"
INSTRUMENT = Path(sys.executable).with_name("opentelemetry-instrument")
PATIENCE = 60.0  # seconds; nothing here takes a tenth of it
DURATION, ACTIVE = "http.server.request.duration", "http.server.active_requests"

GUNICORN = [
    *(sys.executable, "-m", "gunicorn", "flask_service:app", "--bind=fd://{fd}"),
    *("--workers=3", "--no-control-socket", "--log-level=warning"),
]
UVICORN = [
    *(sys.executable, "-m", "uvicorn", "fastapi_service:app", "--fd={fd}"),
    *("--workers=2", "--log-level=warning"),
]


class Service:
    """A running service, the requests it is answering, and where its metrics arrive."""

    def __init__(
        self, process: subprocess.Popen[bytes], url: str, folder: Path, receiver: Receiver
    ) -> None:
        self.process, self._url, self._folder = process, url, folder
        self.receiver = receiver
        self._held: list[Future[int]] = []
        self._threads = ThreadPoolExecutor(4)

    def get(self, path: str = "") -> int:
        """Which worker answers."""
        with urllib.request.urlopen(self._url + path, timeout=PATIENCE) as answer:
            return int(answer.read())

    def load(self, requests: int) -> None:
        """Sends requests, a few at a time, and returns when all are answered."""
        collections.deque(self._threads.map(lambda _: self.get(), range(requests)), 0)

    def hold(self, workers: int) -> set[int]:
        """Has each worker begin a request; one that has can take no other."""
        for begun in range(1, workers + 1):
            self._held.append(self._threads.submit(self.get, "held"))
            until(lambda begun=begun: len(self._holding()) == begun)
        return self._holding()

    def _holding(self) -> set[int]:
        return {int(file.name.split()[-1]) for file in self._folder.glob("held by *")}

    def release(self) -> list[int | None]:
        """Which workers answer what was held; None for one that died over it."""
        (self._folder / "released").touch()
        answers: list[int | None] = []
        for future in self._held:
            try:
                answers.append(future.result(PATIENCE))
            except (RemoteDisconnected, ConnectionResetError):
                answers.append(None)
        return answers

    def until_active(self, requests: int) -> None:
        """Waits for the export that tells of so many requests in all workers together."""
        assert self.receiver.wait_for(lambda: self.receiver.total(ACTIVE) == requests, PATIENCE)

    def until_exported(self, counts: dict[str, int]) -> None:
        """Waits for the export that tells of so many requests of each route, and of none active."""
        assert self.receiver.wait_for(
            lambda: self.counts() == counts and self.receiver.total(ACTIVE) == 0, PATIENCE
        )

    def counts(self) -> dict[str, int | None]:
        """How many requests of each route were answered; each route is one series."""
        found = {p.attributes["http.route"]: p.count for p in self.receiver.latest(DURATION)}
        assert len(found) == len(self.receiver.latest(DURATION))
        return found

    def stop(self) -> None:
        """Ends it, and waits until it is gone."""
        self.process.terminate()
        assert self.process.wait(PATIENCE) in (0, -signal.SIGTERM)

    def close(self) -> None:
        """Ends what a failed test left."""
        (self._folder / "released").touch()
        self._threads.shutdown()
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(PATIENCE / 2)
            finally:
                self.process.kill()
                self.process.wait()


@contextmanager
def serving(command: list[str], folder: Path, **environment: str) -> Iterator[Service]:
    """Starts a service that exports every 50 ms; its command takes the descriptor of its socket."""
    with (
        Receiver() as receiver,
        # Inherited while it listens already: no port is guessed, early requests wait in its queue.
        socket.create_server(("127.0.0.1", 0)) as listener,
        (folder / "log").open("wb") as output,
    ):
        process = subprocess.Popen(
            [word.format(fd=listener.fileno()) for word in command],
            cwd=APPS,
            env={
                **os.environ,
                "OTEL_PYTHON_METER_PROVIDER": "otel_shm",
                "OTEL_SHM_PATH": str(folder / "buffer"),
                "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
                "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
                "OTEL_METRIC_EXPORT_INTERVAL": "50",
                "OTEL_SEMCONV_STABILITY_OPT_IN": "http",
                "HOLDING": str(folder),
                **environment,
            },
            stdout=output,
            stderr=output,
            pass_fds=[listener.fileno()],
        )
        port = listener.getsockname()[1]
        service = Service(process, f"http://127.0.0.1:{port}/", folder, receiver)
        try:
            yield service
        finally:
            service.close()


def assert_one_set_of_series(receiver: Receiver) -> None:
    """One instance, one start and no step back in each series of the durations; none active."""
    points = receiver.points(DURATION)
    assert len({point.resource_attributes["service.instance.id"] for point in points}) == 1
    for series in {point.series for point in points}:
        of_one = [point for point in points if point.series == series]
        assert len({point.start_time_unix_nano for point in of_one}) == 1
        counts = [p.count or 0 for p in sorted(of_one, key=lambda p: p.time_unix_nano)]
        assert counts == sorted(counts)
    (active,) = receiver.latest(ACTIVE)
    assert active.value == 0


def exporters(receiver: Receiver) -> set[str]:
    """The processes that have exported."""
    return {request.headers["worker"] for request in receiver.requests}


@pytest.mark.parametrize(
    ("command", "workers"),
    [pytest.param(GUNICORN, 3, id="flask"), pytest.param(UVICORN, 2, id="fastapi")],
)
def test_one_total(command: list[str], workers: int, tmp_path: Path) -> None:
    """All workers' requests count, those that are active too; one of them exports."""
    with serving(command, tmp_path, INSTRUMENT="flask") as service:
        holding = service.hold(workers)
        service.until_active(workers)
        assert {*service.release()} == holding
        service.load(97)
        service.until_exported({"/held": workers, "/": 97})
        assert len(exporters(service.receiver)) == 1
        service.load(3)
        service.stop()
        assert service.counts() == {"/held": workers, "/": 100}
        assert_one_set_of_series(service.receiver)


def test_killed_in_a_request(tmp_path: Path) -> None:
    """A worker that is killed takes its active request with it, and leaves what it had answered."""
    with serving([*GUNICORN, "--preload"], tmp_path, INSTRUMENT="flask") as service:
        service.load(20)
        killed, *others = service.hold(3)
        service.until_active(3)
        os.kill(killed, signal.SIGKILL)
        service.until_active(2)
        assert {*service.release()} == {None, *others}
        service.until_exported({"/held": 2, "/": 20})
        service.stop()
        assert service.counts() == {"/held": 2, "/": 20}
        assert_one_set_of_series(service.receiver)


@pytest.mark.parametrize(
    ("launcher", "libraries"),
    [
        pytest.param([], "flask system_metrics", id="by itself"),
        pytest.param([str(INSTRUMENT)], "", id="by its launcher"),
    ],
)
def test_system_metrics(launcher: list[str], libraries: str, tmp_path: Path) -> None:
    """What is true of the machine comes once, what is true of each process as the sum of all."""
    before = user_seconds()
    with serving(
        [*launcher, *GUNICORN],
        tmp_path,
        INSTRUMENT=libraries,
        OTEL_METRIC_EXPORT_INTERVAL="200",  # by the master, where it has the provider
        OTEL_TRACES_EXPORTER="none",
        OTEL_LOGS_EXPORTER="none",
        OTEL_PYTHON_DISABLED_INSTRUMENTATIONS="",
    ) as service:
        receiver = service.receiver
        holding = service.hold(3)
        assert {*service.release()} == holding
        service.load(20)
        largest = max(psutil.Process(worker).memory_info().rss for worker in holding)
        # Who answers late for once is asked again.
        until(lambda: receiver.total("process.memory.usage") > 2 * largest)
        service.stop()
        counts = service.counts()
        assert (counts["/held"], counts["/"]) == (3, 20)
        assert_one_set_of_series(receiver)
    for request in receiver.requests:
        series = collections.Counter(series_of(request.message))
        assert set(series.values()) == {1}
    assert {name for name, _ in series} >= {DURATION, "process.memory.usage", "system.cpu.time"}
    after = user_seconds()
    seconds = [p for p in receiver.points("system.cpu.time") if p.attributes["state"] == "user"]
    assert {point.attributes["cpu"] for point in seconds} == {*range(1, len(before) + 1)}
    for point in seconds:
        cpu = point.attributes["cpu"] - 1
        assert before[cpu] <= point.value <= after[cpu]


def series_of(message: ExportMetricsServiceRequest) -> Iterator[tuple[str, frozenset[bytes]]]:
    """Name and attributes of each point in an export."""
    for resource in message.resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                for point in getattr(metric, metric.WhichOneof("data")).data_points:
                    attributes = (each.SerializeToString() for each in point.attributes)
                    yield metric.name, frozenset(attributes)


def user_seconds() -> list[float]:
    """How long each processor has worked for programs since the machine was started."""
    return [times.user for times in psutil.cpu_times(percpu=True)]
