# SPDX-License-Identifier: Apache-2.0
"""Processes that name one buffer: who exports, and who goes on when that one dies, stops or leaves."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

from opentelemetry.sdk.metrics.export import InMemoryMetricReader, PeriodicExportingMetricReader
from points import values
from processes import Processes, processes, until
from recording import NEVER, Recorder, fellow, log, recorded

import otel_shm

__all__ = ["log", "processes"]  # fixtures: found by their names in this module

Make = Callable[..., otel_shm.MeterProvider]


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
    until(lambda: recorded(log) and recorded(log)[-1].value == 1)
    os.kill(collector.pid, signal.SIGSTOP)
    os.write(stop, b".")
    assert os.read(added, 1) == b"."
    assert {line.pid for line in recorded(log)} == {collector.pid}
    assert recorded(log)[-1].value == 1
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
    assert sent[0] <= 1  # 0, if it ticked before it added
    assert (sent[-1], sorted(sent)) == (11, sent)
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
