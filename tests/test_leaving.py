# SPDX-License-Identifier: Apache-2.0
"""Processes of one buffer that leave, one by one or all at once: the end is exported, and once."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MetricsTimeoutError
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, PeriodicExportingMetricReader
from points import points_of
from processes import Gate, Processes, processes, until
from recording import NEVER, Recorder, fellow, log, recorded

import otel_shm
from otel_shm._core import ffi, lib
from otel_shm.scanner import Scanner

__all__ = ["log", "processes"]  # fixtures: found by their names in this module

Make = Callable[..., otel_shm.MeterProvider]


@pytest.mark.parametrize("attempt", range(8))
def test_concurrent_exits_export_everything(
    attempt: int, buffer_path: Path, log: Path, processes: Processes
) -> None:
    """All leave at the same moment; the last export has what every one of them added."""
    gate, count = Gate(), 8

    def work(me: int) -> None:
        provider = fellow(buffer_path, log, 1 if attempt % 2 else NEVER)
        counter = provider.get_meter("m").create_counter("c")
        counter.add(1)
        gate.wait()
        for _ in range(10 * (me % 3)):
            counter.add(1)
        counter.add(10**me)
        provider.shutdown()

    children = [processes.fork(work, me) for me in range(count)]
    gate.open()
    for child in children:
        child.result()
    lines = recorded(log)
    assert lines[-1].value == sum(1 + 10 * (me % 3) + 10**me for me in range(count))
    assert [line.value for line in lines] == sorted(line.value for line in lines)
    assert len({(line.instance, line.start) for line in lines}) == 1


def test_a_collector_that_is_just_done_is_waited_for(
    buffer_path: Path, log: Path, processes: Processes
) -> None:
    """Between its last export and the end of its lock a leaving process sends nothing more."""
    done, go_on = Gate(), Gate()

    def leave() -> None:
        buffer = otel_shm.Buffer(buffer_path)
        assert buffer.collector_acquire()
        header = ffi.cast("oshm_header *", lib.oshm_buffer_header(buffer._handle))
        header.collector_state = lib.OSHM_COLLECTOR_NONE  # what it says just before it unlocks
        done.open()
        go_on.wait()

    other = processes.fork(leave)
    done.wait()
    provider = fellow(buffer_path, log)
    provider.get_meter("m").create_counter("c").add(1)
    thread = threading.Thread(target=provider.shutdown)
    thread.start()
    thread.join(0.2)  # time to go wrong in
    assert thread.is_alive()
    go_on.open()
    other.result()
    thread.join()
    assert [line.value for line in recorded(log)] == [1]


def test_exits_do_not_queue_up(
    buffer_path: Path, log: Path, tmp_path: Path, processes: Processes
) -> None:
    """Where exporting takes long, whoever waited for an export that has its data needs no other."""
    gate, slow = Gate(), threading.Event()

    def work() -> None:
        exporter = Recorder(log, lambda: slow.wait(0.3))
        provider = otel_shm.MeterProvider(
            [PeriodicExportingMetricReader(exporter, NEVER)],
            buffer=buffer_path,
            shutdown_on_exit=False,
        )
        provider.get_meter("m").create_counter("c").add(1)
        (tmp_path / f"ready{os.getpid()}").touch()
        gate.wait()
        provider.shutdown()

    children = [processes.fork(work) for _ in range(6)]
    until(lambda: len(list(tmp_path.glob("ready*"))) == 6)
    gate.open()
    for child in children:
        child.result()
    assert recorded(log)[-1].value == 6
    assert len(recorded(log)) <= 3


def test_each_of_several_exporters_gets_everything(
    buffer_path: Path, tmp_path: Path, processes: Processes
) -> None:
    """Who leaves while another's first exporter has had its last export makes that one once more."""
    logs = [tmp_path / "first", tmp_path / "second"]
    about_to_leave = tmp_path / "about to leave"
    begun = Gate()

    def hold_up() -> None:
        if not about_to_leave.exists():
            begun.open()
            until(about_to_leave.exists)
            threading.Event().wait(0.2)  # time to note that this export has begun

    def provider(before: Callable[[], object]) -> otel_shm.MeterProvider:
        return otel_shm.MeterProvider(
            [
                PeriodicExportingMetricReader(Recorder(log, hook), NEVER)
                for log, hook in zip(logs, (before, lambda: None), strict=True)
            ],
            buffer=buffer_path,
            shutdown_on_exit=False,
        )

    def leave_later() -> None:
        late = provider(lambda: None)
        counter = late.get_meter("m").create_counter("c")
        begun.wait()
        counter.add(10)
        about_to_leave.touch()
        late.shutdown()

    other = processes.fork(leave_later)
    first = provider(hold_up)
    first.get_meter("m").create_counter("c").add(1)
    first.shutdown()
    other.result()
    assert [recorded(log)[-1].value for log in logs] == [11, 11]


def test_an_export_of_one_reader_is_not_taken_for_all(
    buffer_path: Path, tmp_path: Path, processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has nothing left to export, but a reader that ticks once more, says nothing of its others."""
    logs = [tmp_path / "first", tmp_path / "second"]
    held, waits, begun = (tmp_path / name for name in ("held", "waits", "begun"))
    late, done = tmp_path / "late", tmp_path / "done"

    def provider() -> tuple[otel_shm.MeterProvider, PeriodicExportingMetricReader]:
        readers = [PeriodicExportingMetricReader(Recorder(log), NEVER) for log in logs]
        made = otel_shm.MeterProvider(readers, buffer=buffer_path, shutdown_on_exit=False)
        return made, readers[0]

    def make_last_exports() -> None:
        buffer = otel_shm.Buffer(buffer_path)
        assert buffer.collector_acquire(leaving=True)
        held.touch()
        until(waits.exists)
        buffer.begin_collection()
        begun.touch()
        until(late.exists)
        buffer.collector_release(exported=True)

    def leave_before() -> None:
        leaving, first = provider()

        def tick(_seconds: float) -> None:
            waits.touch()
            until(leaving._collector.acquire)
            first.collect()

        monkeypatch.setattr("otel_shm.provider.sleep", tick)
        until(held.exists)
        leaving.shutdown()
        done.touch()

    def leave_behind() -> None:
        leaving, _ = provider()

        def wait(_seconds: float) -> None:
            late.touch()
            until(done.exists)

        monkeypatch.setattr("otel_shm.provider.sleep", wait)
        until(begun.exists)
        leaving.get_meter("m").create_counter("c").add(1)
        leaving.shutdown()

    children = [processes.fork(work) for work in (make_last_exports, leave_before, leave_behind)]
    for child in children:
        child.result()
    assert [[line.value for line in recorded(log)][-1:] for log in logs] == [[1], [1]]


@pytest.mark.parametrize("error", [MemoryError("no memory"), MetricsTimeoutError("too late")])
def test_an_export_that_failed_is_not_taken_for_the_last_one(
    make_provider: Make, log: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Readers hide that they could not collect; who leaves next has it to export then."""
    readers = [PeriodicExportingMetricReader(Recorder(log), NEVER) for _ in range(2)]
    provider = make_provider(*readers)
    collected = count()

    def scan(*arguments: Any) -> Any:
        if next(collected) == 1:
            raise error
        return whole_scan(*arguments)

    whole_scan = Scanner.collect
    monkeypatch.setattr(Scanner, "collect", scan)
    before = provider.buffer.last_collection
    provider.shutdown()
    assert provider.buffer.last_collection == before + 2
    assert not provider.buffer.collector_exported_since(before)


def test_an_export_that_took_too_long_is_not_taken_for_the_last_one(
    make_provider: Make, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readers hide that their time was over before they could collect."""
    readers = [PeriodicExportingMetricReader(Recorder(log), NEVER) for _ in range(2)]
    provider = make_provider(*readers)
    collected, go_on = count(), threading.Event()

    def scan(*arguments: Any) -> Any:
        if next(collected) == 1:
            go_on.wait()
        return whole_scan(*arguments)

    whole_scan = Scanner.collect
    monkeypatch.setattr(Scanner, "collect", scan)
    before = provider.buffer.last_collection
    provider.shutdown(timeout_millis=200)
    assert not provider.buffer.collector_exported_since(before)
    go_on.set()


def test_the_last_collection_waits_for_another_one(
    make_provider: Make, reader: InMemoryMetricReader
) -> None:
    """However short its timeout, it is not lost because another reader's takes longer just then."""
    slow = InMemoryMetricReader()
    provider = make_provider(reader, slow)
    meter = provider.get_meter("m")
    meter.create_counter("c").add(1)
    begun, go_on = threading.Event(), threading.Event()

    def hold_up(_options: CallbackOptions) -> list[Observation]:
        begun.set()
        go_on.wait()
        return []

    meter.create_observable_gauge("g", [hold_up])
    other = threading.Thread(target=slow.collect)
    other.start()
    begun.wait()
    threading.Timer(0.2, go_on.set).start()
    provider._collector.leave()
    found = provider._collector.collect(reader, timeout_millis=10)
    assert [point.value for point in points_of(found)] == [1]
    other.join()
