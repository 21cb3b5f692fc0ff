# SPDX-License-Identifier: Apache-2.0
"""What becomes of a named buffer when its service starts again, and of one that another service has."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from buffers import counter_of, shm, totals
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from points import points_of
from processes import Gate, Processes, processes

from otel_shm import BufferRestartError, BufferServiceError, MeterProvider
from otel_shm.buffer import Buffer

__all__ = ["processes", "shm"]  # fixtures

TOTAL = ("requests", "{}")


def measure(path: Path, restart: str) -> tuple[int, int]:
    """In a process of its own: adds one. Returns the total then, and which file it is."""
    buffer = Buffer(path, restart=restart)
    counter_of(buffer).measure(1)
    return int(totals(buffer)[TOTAL] or 0), os.stat(path).st_ino


def test_resume_goes_on(shm: Path, processes: Processes) -> None:
    """The totals of a service that has ended are those with which it starts again."""
    found = [processes.spawn(measure, shm / "b", "resume").result()[0] for _ in range(3)]
    assert found == [1, 2, 3]


def test_reset_starts_anew(shm: Path, processes: Processes) -> None:
    """Where nobody uses the file any more, it is replaced by a new one."""
    found = [processes.spawn(measure, shm / "b", "reset").result()[0] for _ in range(3)]
    assert found == [1, 1, 1]
    assert os.listdir(shm) == ["b"]


def test_reset_leaves_a_buffer_in_use_alone(shm: Path, processes: Processes) -> None:
    """While a process of the service lives, a worker that starts belongs to it."""
    buffer = Buffer(shm / "b", restart="reset")
    counter_of(buffer).measure(10)
    assert processes.spawn(measure, shm / "b", "reset").result()[0] == 11
    assert processes.spawn(measure, shm / "b", "reset").result()[0] == 12
    assert totals(buffer) == {TOTAL: 12}


def test_reset_of_many_at_once_gives_one_file(shm: Path) -> None:
    """Workers that start together over the file of a dead service end up with the same new one."""
    path = shm / "b"
    for _ in range(8):
        with Processes() as started:
            started.fork(measure, path, "resume").result()  # and is dead
        start, stay = Gate(), Gate()
        measured, tell = os.pipe()

        def worker(start: Gate = start, stay: Gate = stay, tell: int = tell) -> tuple[int, int]:
            start.wait()
            buffer = Buffer(path, restart="reset")
            counter_of(buffer).measure(1)
            os.write(tell, b".")
            stay.wait()
            return int(totals(buffer)[TOTAL] or 0), os.stat(path).st_ino

        with Processes() as started:
            workers = [started.fork(worker) for _ in range(6)]
            start.open()
            for _ in workers:
                assert os.read(measured, 1) == b"."
            stay.open()
            assert {worker.result() for worker in workers} == {(6, os.stat(path).st_ino)}
        os.close(measured)
        os.close(tell)


def test_policy_is_checked_and_taken_from_the_environment(
    shm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A policy that there is not is an error that names those there are."""
    with pytest.raises(BufferRestartError, match="must be 'resume' or 'reset', not 'again'"):
        Buffer(shm / "b", restart="again")
    monkeypatch.setenv("OTEL_SHM_RESTART", "never")
    with pytest.raises(BufferRestartError, match="not 'never'"):
        MeterProvider(buffer=shm / "b", shutdown_on_exit=False)


def count(path: Path, restart: str) -> tuple[int, int]:
    """In a process of its own: one request more. Returns the exported total and its start."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], buffer=path, restart=restart)
    provider.get_meter("m").create_counter("requests").add(1)
    (point,) = points_of(reader.get_metrics_data())
    return point.value, point.start


def test_a_reset_counter_has_a_new_start(shm: Path, processes: Processes) -> None:
    """So a backend sees that counting began anew; resumed it has the start of the first time."""
    path = shm / "b"
    first = processes.spawn(count, path, "reset").result()
    resumed = processes.spawn(count, path, "resume").result()
    again = processes.spawn(count, path, "reset").result()
    assert (first[0], resumed[0], again[0]) == (1, 2, 1)
    assert first[1] == resumed[1] < again[1]


def service(name: str | None) -> Resource:
    """A resource as a process of a service has it."""
    return Resource.create({"service.name": name} if name else {})


def test_another_service_is_refused(shm: Path) -> None:
    """Two services on one path would be one to the backend: an error that names both."""
    provider = MeterProvider(buffer=shm / "b", resource=service("shop"), shutdown_on_exit=False)
    with pytest.raises(BufferServiceError, match=r"belongs to service 'shop', .* 'bank'"):
        MeterProvider(buffer=shm / "b", resource=service("bank"), shutdown_on_exit=False)
    provider.shutdown()


def test_a_service_without_a_name_is_told(shm: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its process may just have forgotten it: it takes part, and the log says as what."""
    for name in ("shop", None):
        MeterProvider(buffer=shm / "b", resource=service(name), shutdown_on_exit=False).shutdown()
    assert "belongs to service 'shop'" in caplog.text
