# SPDX-License-Identifier: Apache-2.0
"""Processes that name one buffer: who exports, who goes on when that one exits, dies or just stops."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MetricsTimeoutError
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, PeriodicExportingMetricReader
from points import points_of, values
from processes import Gate, Processes, processes, until
from recording import NEVER, Recorder, recorded

import otel_shm
from otel_shm._core import ffi, lib
from otel_shm.scanner import Scanner

__all__ = ["processes"]  # a fixture: found by its name in this module

Make = Callable[..., otel_shm.MeterProvider]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Where recorders of all processes write."""
    return tmp_path / "exports"


def fellow(path: Path, log: Path, interval: float = NEVER) -> otel_shm.MeterProvider:
    """A provider of a process of its own, on the buffer that all fellows name."""
    return otel_shm.MeterProvider(
        [PeriodicExportingMetricReader(Recorder(log), interval)],
        buffer=path,
        shutdown_on_exit=False,
    )


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


def test_another_takes_over_from_a_killed_collector(
    buffer_path: Path, log: Path, processes: Processes
) -> None:
    """Whoever exports is killed, one after the other: the next one goes on at its next tick."""

    def work(me: int) -> None:
        provider = fellow(buffer_path, log, 5)
        provider.get_meter("m").create_counter("c").add(10**me)
        threading.Event().wait()  # for ever: it is killed here

    children = [processes.fork(work, me) for me in range(4)]
    until(lambda: recorded(log) and recorded(log)[-1].value == 1111)
    exporting: list[int] = []
    while children:
        pid = until(lambda: [x.pid for x in recorded(log)[-1:] if x.pid not in exporting])[0]
        exporting.append(pid)
        (collector,) = (child for child in children if child.pid == pid)
        collector.kill()
        children.remove(collector)
    lines = recorded(log)
    assert len(set(exporting)) == 4
    assert lines[-1].value == 1111
    assert len({(line.instance, line.start) for line in lines}) == 1


def test_a_stopped_collector_stays_the_collector(
    buffer_path: Path, log: Path, processes: Processes
) -> None:
    """For as long as it may be in the middle of an export nobody else begins one; nothing is lost."""
    (stopped, stop), (added, say) = os.pipe(), os.pipe()

    def collect() -> None:
        provider = fellow(buffer_path, log, 5)
        provider.get_meter("m").create_counter("c").add(1)
        threading.Event().wait()  # for ever: it is killed here

    def add() -> None:
        until(lambda: recorded(log))  # so it is not this process that collects
        provider = fellow(buffer_path, log)
        os.read(stopped, 1)
        provider.get_meter("m").create_counter("c").add(10)
        for _ in range(20):
            provider.force_flush()
        os.write(say, b".")
        threading.Event().wait()

    collector, other = processes.fork(collect), processes.fork(add)
    until(lambda: recorded(log))
    os.kill(collector.pid, signal.SIGSTOP)
    os.write(stop, b".")
    assert os.read(added, 1) == b"."
    assert {(line.pid, line.value) for line in recorded(log)} == {(collector.pid, 1)}
    os.kill(collector.pid, signal.SIGCONT)
    until(lambda: recorded(log)[-1].value == 11)
    lines = recorded(log)
    assert {line.pid for line in lines} == {collector.pid}
    assert len({(line.instance, line.start) for line in lines}) == 1
    assert not other.is_answered
    for end in (stopped, stop, added, say):
        os.close(end)


def test_a_collector_that_leaves_in_the_middle_of_an_export(
    buffer_path: Path, log: Path, processes: Processes
) -> None:
    """What it was sending is sent once, and the next one goes on."""
    (exporting, begin), (going_on, go_on) = os.pipe(), os.pipe()

    def collect() -> None:
        def hold_up() -> None:
            if not recorded(log):
                os.write(begin, b".")
                os.read(going_on, 1)

        provider = otel_shm.MeterProvider(
            [PeriodicExportingMetricReader(Recorder(log, hold_up), 5)],
            buffer=buffer_path,
            shutdown_on_exit=False,
        )
        provider.get_meter("m").create_counter("c").add(1)
        provider.shutdown()

    def add() -> None:
        os.read(exporting, 1)
        provider = fellow(buffer_path, log)
        provider.get_meter("m").create_counter("c").add(10)
        os.write(go_on, b".")
        provider.shutdown()

    children = [processes.fork(collect), processes.fork(add)]
    for child in children:
        child.result()
    for end in (exporting, begin, going_on, go_on):
        os.close(end)
    sent = [line.value for line in recorded(log)]
    assert (sent[0], sent[-1], sorted(sent)) == (1, 11, sent)
    assert len({(line.instance, line.start) for line in recorded(log)}) == 1


def exports_within(path: Path, log: Path) -> None:
    """A fellow that counts and waits until it has exported itself; else the test waits in vain."""
    provider = fellow(path, log, 5)
    provider.get_meter("m").create_counter("c").add(10)
    until(lambda: any(line.pid == os.getpid() for line in recorded(log)))
    provider.shutdown()


def test_after_a_shutdown_others_export(
    make_provider: Make, buffer_path: Path, log: Path, processes: Processes
) -> None:
    """A process that lives on after its provider's shutdown keeps nobody from exporting."""
    provider = make_provider(
        PeriodicExportingMetricReader(Recorder(log), NEVER), buffer=buffer_path
    )
    provider.get_meter("m").create_counter("c").add(1)
    provider.force_flush()
    provider.shutdown()
    processes.fork(exports_within, buffer_path, log).result()
    assert recorded(log)[-1].value == 11


def test_reading_after_a_shutdown_keeps_nobody_from_exporting(
    make_provider: Make,
    reader: InMemoryMetricReader,
    buffer_path: Path,
    log: Path,
    processes: Processes,
) -> None:
    """A reader that is asked once more answers, and does not become the collector for good."""
    provider = make_provider(reader, buffer=buffer_path)
    provider.get_meter("m").create_counter("c").add(1)
    provider.shutdown()
    assert values(reader) == {"{}": 1}
    processes.fork(exports_within, buffer_path, log).result()
    assert recorded(log)[-1].value == 11


def test_child_of_a_process_that_was_shut_down_keeps_nobody_from_exporting(
    make_provider: Make, buffer_path: Path, log: Path, tmp_path: Path, processes: Processes
) -> None:
    """The SDK starts the reader's thread again in a child, which then collects once more."""
    reader = PeriodicExportingMetricReader(Recorder(log), NEVER)
    provider = make_provider(reader, buffer=buffer_path)
    provider.get_meter("m").create_counter("c").add(1)
    provider.shutdown()
    lives = tmp_path / "lives"

    def daemon() -> None:
        assert reader._daemon_thread is not None
        reader._daemon_thread.join()
        lives.touch()
        threading.Event().wait()  # for ever: it is killed by the end of the test

    processes.fork(daemon)
    until(lives.exists)
    processes.fork(exports_within, buffer_path, log).result()
    assert recorded(log)[-1].value == 11


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
