# SPDX-License-Identifier: Apache-2.0
"""Processes that Python starts, threads and tasks: one exact total, exported to its end, nothing left.

The interval is so long that only exits export; and the children that multiprocessing forks run no exit
handlers.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from buffers import shm
from otlp_collector import Collector, otlp_collector
from receiver import Receiver  # pytest's `pythonpath` setting points at examples/
from serving import PYTHON, assert_collected, assert_one_series, run

__all__ = ["otlp_collector", "shm"]  # fixtures: found by their names in this module

METHODS = ["fork", "spawn", "forkserver"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["processes", "pool", "executor"])
@pytest.mark.parametrize(
    ("who", "protocol"),
    [
        ("children", "http/protobuf"),
        pytest.param("everybody", "grpc", marks=pytest.mark.slow),
    ],
)
def test_processes(
    kind: str, method: str, who: str, protocol: str, shm: Path, tmp_path: Path
) -> None:
    """However they are started, and whether or not who starts them has a provider."""
    with Receiver(grpc=True) as receiver:
        with run(
            tmp_path,
            receiver.grpc_endpoint if protocol == "grpc" else receiver.endpoint,
            *(PYTHON, "pools.py", kind, method, who),
            OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
            OTEL_SHM_PATH=str(shm / "buffer"),
        ) as program:
            program.ends()
        assert_one_series(receiver, 300, "hits")


@pytest.mark.parametrize("method", METHODS)
def test_children_that_outlive_the_main_program(method: str, shm: Path, tmp_path: Path) -> None:
    """The provider of the main process is shut down before multiprocessing waits for its children."""
    with Receiver() as receiver:
        with run(
            tmp_path,
            receiver.endpoint,
            *(PYTHON, "pools.py", "late processes", method),
            OTEL_SHM_PATH=str(shm / "buffer"),
        ) as program:
            program.ends()
        assert_one_series(receiver, 300, "hits")


@pytest.mark.parametrize("kind", ["processes", "pool", "executor"])
def test_forked_children_leave_the_export_to_who_forked_them(kind: str, tmp_path: Path) -> None:
    """They need no path, and however many come and go, there is one export, at the end."""
    with Receiver() as receiver:
        with run(
            tmp_path, receiver.endpoint, PYTHON, "pools.py", kind, "fork", "everybody"
        ) as program:
            program.ends()
        assert_one_series(receiver, 300, "hits")
        assert len(receiver.requests) == 1


def test_programs_that_name_the_buffer(shm: Path, tmp_path: Path) -> None:
    """Plain subprocesses belong together by OTEL_SHM_PATH alone."""
    with Receiver() as receiver:
        with run(
            tmp_path,
            receiver.endpoint,
            *(PYTHON, "pools.py", "programs"),
            OTEL_SHM_PATH=str(shm / "buffer"),
        ) as program:
            program.ends()
        assert_one_series(receiver, 300, "hits")


@pytest.mark.parametrize("kind", ["threads", "tasks"])
def test_one_process(kind: str, tmp_path: Path) -> None:
    """Threads and asyncio's tasks share the process's lane."""
    with Receiver() as receiver:
        with run(tmp_path, receiver.endpoint, PYTHON, "pools.py", kind) as program:
            program.ends()
        assert_one_series(receiver, 300, "hits")


@pytest.mark.parametrize(
    "method", ["forkserver", *(pytest.param(m, marks=pytest.mark.slow) for m in METHODS[:2])]
)
def test_a_real_collector_gets_the_total(
    method: str, otlp_collector: Collector, shm: Path, tmp_path: Path
) -> None:
    """Not only our own receiver: an OTLP collector over gRPC sees the one exact series."""
    with run(
        tmp_path,
        otlp_collector.grpc_endpoint,
        *(PYTHON, "pools.py", "executor", method, "everybody"),
        OTEL_EXPORTER_OTLP_PROTOCOL="grpc",
        OTEL_SHM_PATH=str(shm / "buffer"),
    ) as program:
        program.ends()
    assert_collected(otlp_collector, 300, "hits")
