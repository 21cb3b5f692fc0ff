# SPDX-License-Identifier: Apache-2.0
"""Forks behind the interpreter's back: a child that no at-fork hook was called in."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from processes import Processes, processes, until
from recording import NEVER, Recorder, recorded

import otel_shm
from otel_shm import forks

__all__ = ["processes"]  # a fixture: found by its name in this module

Make = Callable[..., otel_shm.MeterProvider]

PATIENCE = 20.0  # seconds; it took 30 to wait for the parent's thread


def untold(work: Callable[[], object]) -> int:
    """Calls the C library's own fork. Returns: how the child ended, 0 if work() was in time."""
    pid = ctypes.PyDLL(None).fork()  # and not CDLL, so that this thread has the GIL in the child
    if pid == 0:
        code = 1
        try:
            began = time.monotonic()
            work()
            code = 0 if time.monotonic() - began < PATIENCE else 2
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_shutdown_makes_up_for_the_hooks(make_provider: Make, tmp_path: Path) -> None:
    """It waits for no thread of the parent, and exports what both have counted."""
    log = tmp_path / "exports"
    provider = make_provider(PeriodicExportingMetricReader(Recorder(log), NEVER))
    counter = provider.get_meter("m").create_counter("c")
    counter.add(1)

    def work() -> None:
        counter.add(10)
        provider.shutdown()

    assert untold(work) == 0
    assert [line.value for line in recorded(log)] == [11]
    assert {line.pid for line in recorded(log)} != {os.getpid()}


def test_readers_tick_again(make_provider: Make, tmp_path: Path) -> None:
    """A server that says when it has forked makes of the child one like any other."""
    log = tmp_path / "exports"
    reader = PeriodicExportingMetricReader(Recorder(log), NEVER)
    counter = make_provider(reader).get_meter("m").create_counter("c")
    counter.add(1)

    def work() -> None:
        counter.add(10)
        reader._export_interval_millis = 5
        forks.notice()
        until(lambda: recorded(log))

    assert untold(work) == 0
    assert recorded(log)[0].value == 11


def test_a_told_child_is_not_told_again(make_provider: Make, processes: Processes) -> None:
    """Where the hooks were called there is nothing to make up for."""
    provider = make_provider()

    def work() -> tuple[int, int]:
        attached = provider.buffer.statistics.attached
        thread_count = threading.active_count()
        forks.notice()
        assert threading.active_count() == thread_count
        return attached, provider.buffer.statistics.attached

    assert processes.fork(work).result() == (2, 2)
