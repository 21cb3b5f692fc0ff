# SPDX-License-Identifier: Apache-2.0
"""Forked and fellow processes: one total, exported once, whoever dies; nothing hangs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, PeriodicExportingMetricReader
from points import values
from processes import Gate, Processes, processes, until
from receiver import Receiver  # pytest's `pythonpath` setting points at examples/
from recording import NEVER, Recorder, recorded

import otel_shm
from otel_shm.inherited_reader import renew

__all__ = ["processes"]  # a fixture: found by its name in this module

APPS = Path(__file__).parent / "apps"
PATIENCE = 60.0  # seconds; nothing here takes a tenth of it

Make = Callable[..., otel_shm.MeterProvider]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Where recorders of all processes write."""
    return tmp_path / "exports"


@contextmanager
def family(
    receiver: Receiver, protocol: str, **environment: str
) -> Iterator[subprocess.Popen[str]]:
    """apps/family.py, which exports to the receiver."""
    endpoint = receiver.grpc_endpoint if protocol == "grpc" else receiver.endpoint
    process = subprocess.Popen(
        [sys.executable, str(APPS / "family.py")],
        env={
            **os.environ,
            "OTEL_PYTHON_METER_PROVIDER": "otel_shm",
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
            **environment,
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            stream.close()  # the end of input is also what ends its children


def identities(receiver: Receiver, name: str) -> set[tuple[Any, ...]]:
    """What tells series apart in a backend: one element where there is one series."""
    return {
        (
            point.resource_attributes["service.instance.id"],
            repr(point.attributes),
            point.start_time_unix_nano,
        )
        for point in receiver.points(name)
    }


def test_child_never_exports_its_parents_totals(
    make_provider: Make, log: Path, processes: Processes
) -> None:
    """A child forked after counting adds to the one total, and only its parent sends it."""
    reader = PeriodicExportingMetricReader(Recorder(log), 5)
    provider = make_provider(reader)
    counter = provider.get_meter("m").create_counter("c")
    counter.add(5)
    provider.force_flush()
    go_on = Gate()

    def work() -> None:
        counter.add(1)
        reader.collect()
        reader.force_flush()
        provider.force_flush()
        go_on.wait()  # its own ticker ticks meanwhile
        provider.shutdown()

    child = processes.fork(work)
    until(lambda: recorded(log)[-1].value == 6)
    exports = len(recorded(log))
    until(lambda: len(recorded(log)) > exports + 20)
    go_on.open()
    child.result()
    counter.add(1)
    provider.shutdown()
    lines = recorded(log)
    assert {line.pid for line in lines} == {os.getpid()}
    assert [line.value for line in lines] == sorted(line.value for line in lines)
    assert lines[-1].value == 7
    assert len({line.start for line in lines}) == 1


def test_fork_while_exporting_does_not_hang(
    make_provider: Make, log: Path, processes: Processes
) -> None:
    """The parent's export thread holds its lock at the fork; the child flushes and ends at once."""
    inside, go_on = threading.Event(), threading.Event()

    def hold_up() -> None:
        inside.set()
        go_on.wait(PATIENCE)

    reader = PeriodicExportingMetricReader(Recorder(log, hold_up), 5)
    provider = make_provider(reader)
    counter = provider.get_meter("m").create_counter("c")
    counter.add(1)
    assert inside.wait(PATIENCE)
    assert reader._export_lock.locked()

    def work() -> float:
        began = time.monotonic()
        counter.add(1)
        provider.get_meter("new").create_counter("new").add(1)
        reader.force_flush()
        provider.force_flush()
        provider.shutdown()
        return time.monotonic() - began

    assert processes.fork(work).result() < PATIENCE / 2
    assert recorded(log) == []
    go_on.set()
    provider.shutdown()
    assert {line.pid for line in recorded(log)} == {os.getpid()}
    assert {line.name: line.value for line in recorded(log)} == {"c": 2, "new": 1}


def test_child_can_collect_when_nobody_else_does(
    make_provider: Make, log: Path, processes: Processes
) -> None:
    """Forked while the parent exports, orphaned in the middle of it: no lock is waited for."""

    def parent() -> int:
        inside = threading.Event()

        def hold_up() -> None:
            if os.getpid() == me:
                inside.set()
                threading.Event().wait()  # for ever: it is killed here

        me = os.getpid()
        reader = PeriodicExportingMetricReader(Recorder(log, hold_up), 5)
        provider = make_provider(reader)
        counter = provider.get_meter("m").create_counter("c")
        counter.add(1)
        assert inside.wait(PATIENCE)
        child = os.fork()
        if child == 0:
            counter.add(1)
            # The kernel takes its time to give up a dead process's locks.
            until(lambda: provider.force_flush() and recorded(log))
            counter.add(1)
            provider.shutdown()
            os._exit(0)
        os.kill(os.getpid(), signal.SIGKILL)
        return 0

    assert processes.fork(parent).wait() == -signal.SIGKILL
    until(lambda: any(line.value == 3 for line in recorded(log)))


def test_threads_of_a_child_take_a_reader_over_together(
    make_provider: Make, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one thread renews a copied reader, another does not use the parent's locks."""
    reader = PeriodicExportingMetricReader(Recorder(log), NEVER)
    provider = make_provider(reader)
    provider.get_meter("m").create_counter("c").add(1)
    reader._export_lock.acquire()  # as a thread of the parent left it
    provider._after_fork()  # and this is the child now
    inside, go_on = threading.Event(), threading.Event()

    def slow(reader: Any) -> None:
        inside.set()
        go_on.wait(PATIENCE)
        renew(reader)

    monkeypatch.setattr("otel_shm.inherited_reader.renew", slow)
    threads = [threading.Thread(target=reader.collect, daemon=True) for _ in range(2)]
    threads[0].start()
    assert inside.wait(PATIENCE)
    threads[1].start()
    threads[1].join(0.1)  # time to go wrong in
    go_on.set()
    for thread in threads:
        thread.join(PATIENCE / 6)
    assert not any(thread.is_alive() for thread in threads)
    assert [line.value for line in recorded(log)] == [1, 1]


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_child_takes_over_from_a_killed_parent(protocol: str) -> None:
    """Totals go on under the same identity and start time, over connections of the child's own."""
    with Receiver(grpc=True) as receiver:
        with family(receiver, protocol, OTEL_METRIC_EXPORT_INTERVAL="50") as app:
            assert app.stdout is not None
            assert app.stdin is not None
            parent, _child = map(int, app.stdout.readline().split())
            assert receiver.wait_for(lambda: receiver.total("hits") == 6, PATIENCE)
            assert receiver.total("flying") == 101
            os.kill(parent, signal.SIGKILL)
            app.stdin.write("10\n")
            assert receiver.wait_for(lambda: receiver.total("hits") == 16, PATIENCE)
            assert receiver.total("flying") == 1  # what the dead one had in flight is gone
            app.stdin.write("20\n")
            app.stdin.close()  # the child ends: the last update is exported at its exit
            assert receiver.wait_for(lambda: receiver.total("hits") == 36, PATIENCE)
        hits = [point.value for point in receiver.points("hits")]
        assert hits == sorted(hits)
        assert len(identities(receiver, "hits")) == 1


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_exit_of_a_child_leaves_its_parents_exporter_alone(protocol: str) -> None:
    """A child that leaves by sys.exit() runs exit handlers; the parent exports on, to the end."""
    with Receiver(grpc=True) as receiver:
        with family(receiver, protocol) as app:
            app.communicate("10\n20\n", timeout=PATIENCE)
            assert app.returncode == 0
        assert receiver.total("hits") == 5 + 1 + 10 + 20 + 1000
        assert receiver.total("flying") == 100
        assert len(identities(receiver, "hits")) == 1


def test_children_that_just_stop_lose_nothing(
    provider: otel_shm.MeterProvider, reader: InMemoryMetricReader, processes: Processes
) -> None:
    """Ended by os._exit or SIGKILL, what they added is in the total, what they had in flight is not."""
    counter = provider.get_meter("m").create_counter("c")
    flying = provider.get_meter("m").create_up_down_counter("u")
    flying.add(1000)
    values(reader)  # from now on this process is the one that collects

    def work() -> None:
        for _ in range(100):
            counter.add(1, {"pid": "same"})
        flying.add(1)

    def killed() -> None:
        work()
        os.kill(os.getpid(), signal.SIGKILL)

    children = [processes.fork(each) for each in (work, killed) for _ in range(5)]
    for child in children:
        child.wait()
    assert values(reader, "c") == {"{'pid': 'same'}": 1000}
    assert values(reader, "u") == {"{}": 1000}


def test_forks_amid_measuring_and_collecting(
    make_provider: Make, log: Path, processes: Processes
) -> None:
    """Threads measure, create and export while processes are forked: exact totals, nobody stuck."""
    reader = PeriodicExportingMetricReader(Recorder(log), 1)
    provider = make_provider(reader)
    meter = provider.get_meter("m")
    counter, stop, added = meter.create_counter("c"), threading.Event(), [0, 0, 0]
    counter.add(1, {"n": 0})
    provider.force_flush()  # from now on this process is the one that exports

    def measure(me: int) -> None:
        while not stop.is_set():
            counter.add(1, {"n": added[me] % 100})
            added[me] += 1
            if added[me] % 100 == 0:
                meter.create_counter(f"c{added[me] % 1000}").add(1)

    threads = [threading.Thread(target=measure, args=[n]) for n in range(3)]
    for thread in threads:
        thread.start()

    def work() -> None:
        for n in range(10):
            counter.add(1, {"n": n})
        provider.get_meter("child").create_gauge("g").set(1)
        provider.force_flush()
        provider.shutdown()

    for _ in range(15):
        for child in [processes.fork(work) for _ in range(3)]:
            child.result()
    stop.set()
    for thread in threads:
        thread.join()
    provider.shutdown()
    last = {line.attributes: line.value for line in recorded(log) if line.name == "c"}
    assert sum(last.values()) == 1 + sum(added) + 45 * 10
    assert {line.pid for line in recorded(log)} == {os.getpid()}
