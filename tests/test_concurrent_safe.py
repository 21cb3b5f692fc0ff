# SPDX-License-Identifier: Apache-2.0
"""Many processes and threads at once, killed or interrupted anywhere: totals are exact, nothing hangs."""

from __future__ import annotations

import gc
import itertools
import mmap
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from buffers import claim_stream, meter_of, shm, totals
from conftest import BACKENDS
from processes import PATIENCE, Gate, Processes, processes, until

from otel_shm.attributes import decode_attributes, encode_attributes
from otel_shm.buffer import Buffer
from otel_shm.scanner import Scanner
from otel_shm.series import Stream

__all__ = ["processes", "shm"]

PROCESSES, THREADS = 8, 4
SIZES = {"series": 512, "lanes": 12, "record_bytes": 2**18}


@pytest.fixture(autouse=True)
def quick_switches() -> Iterator[None]:
    """Threads take turns a hundred times as often as usual."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(before / 100)
    yield
    sys.setswitchinterval(before)


def in_threads(work: Callable[[int], None], count: int = THREADS) -> None:
    """Calls work(n) in threads at once; raises what one of them raised."""
    errors: list[BaseException] = []
    start = threading.Barrier(count)

    def run(n: int) -> None:
        try:
            start.wait(PATIENCE)
            work(n)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive(), "a thread is stuck"
    if errors:
        raise errors[0]


ROUNDS, ADDS = 6, 25


def add_in_rounds(buffer: Buffer, next_round: Callable[[int], None]) -> None:
    """Each round all threads of all processes measure the same new sets of attributes."""
    meter = meter_of(buffer)
    counter, updown = meter.create_counter("requests"), meter.create_up_down_counter("balance")
    gauge = meter.create_gauge("level")
    turn = threading.Barrier(THREADS)

    def work(_thread: int) -> None:
        for r in range(ROUNDS):
            if turn.wait(PATIENCE) == 0:
                next_round(r)
            turn.wait(PATIENCE)
            for n in range(ADDS):
                counter.add(1, {"round": r})
                counter.add(1, {"round": r, "n": n})
                counter.add(0.5, {"n": n, "float": True, "round": r})
                updown.add(3 if n % 2 else -3, {"round": r})
                gauge.set(r, {"round": r})
            counter.bind({"bound": r}).add(2**40)
            counter.add(1)

    in_threads(work)


def expected_totals(workers: int) -> dict[tuple[str, str], str]:
    """What `add_in_rounds` comes to when the workers, and their shares of "balance", are gone."""
    expected: dict[tuple[str, str], int | float] = {("requests", "{}"): workers * ROUNDS}
    for r in range(ROUNDS):
        expected["requests", f"{{'round': {r}}}"] = workers * ADDS
        expected["requests", f"{{'bound': {r}}}"] = workers * 2**40
        expected["level", f"{{'round': {r}}}"] = r
        expected["balance", f"{{'round': {r}}}"] = 0
        for n in range(ADDS):
            expected["requests", f"{{'n': {n}, 'round': {r}}}"] = workers
            expected["requests", f"{{'float': True, 'n': {n}, 'round': {r}}}"] = workers * 0.5
    return {key: repr(value) for key, value in expected.items()}


@pytest.mark.usefixtures("backend")
def test_concurrent_safe_claims_and_adds_of_forked_processes(processes: Processes) -> None:
    """8 forked processes of 4 threads claim and add to the same new series at once: all is there."""
    buffer = Buffer(**SIZES)
    gates = [Gate() for _ in range(ROUNDS)]
    children = [
        processes.fork(add_in_rounds, buffer, lambda r: gates[r].wait()) for _ in range(PROCESSES)
    ]
    for gate in gates:
        gate.open()
    for child in children:
        child.result()
    found = {key: repr(value) for key, value in totals(buffer).items()}
    assert found == expected_totals(PROCESSES * THREADS)
    assert buffer.statistics.overflowed == buffer.statistics.dropped == 0


def add_by_path(path: Path, rounds: Path) -> None:
    """A worker that was started on its own. It says that it is there by a file, and goes on when
    there is a file of the round's name."""

    def next_round(r: int) -> None:
        (rounds / f"{r} of {os.getpid()}").touch()
        until((rounds / str(r)).exists)

    add_in_rounds(Buffer(path, **SIZES), next_round)


@pytest.mark.parametrize("types", BACKENDS)
def test_concurrent_safe_claims_and_adds_of_spawned_processes(
    shm: Path, processes: Processes, types: str
) -> None:
    """So it is for processes that were started on their own and know but the path."""
    path = shm / "buffer"
    children = [
        processes.spawn(add_by_path, path, shm, environment={"OTEL_SHM_BACKEND": types})
        for _ in range(PROCESSES)
    ]
    for r in range(ROUNDS):
        until(lambda r=r: len(list(shm.glob(f"{r} of *"))) == PROCESSES)
        (shm / str(r)).touch()
    for child in children:
        child.result()
    found = {key: repr(value) for key, value in totals(Buffer(path)).items()}
    assert found == expected_totals(PROCESSES * THREADS)


def test_concurrent_safe_opening_in_threads(shm: Path) -> None:
    """Threads that open a path at once, while others let go of it, have one buffer and its lane."""
    lanes = set()

    def work(_thread: int) -> None:
        for _ in range(100):
            buffer = Buffer(shm / "buffer", **SIZES)
            meter_of(buffer).create_counter("requests").add(1)
            lanes.add(buffer.lane)
            del buffer

    in_threads(work)
    gc.collect()
    assert lanes == {1}
    assert list(totals(Buffer(shm / "buffer")).values()) == [100 * THREADS]


@pytest.mark.usefixtures("backend")
def test_concurrent_safe_fork_while_threads_claim(processes: Processes) -> None:
    """Children forked in the middle of their parent's claims take lanes and lose nothing."""
    buffer = Buffer(series=8192, lanes=12, record_bytes=2**20)
    counter = meter_of(buffer).create_counter("requests")
    stop = threading.Event()

    def measure(who: str) -> int:
        n = 0
        while not stop.is_set() and (who != "child" or n < 200):
            counter.add(1, {"who": who, "n": n % 500})
            counter.add(1, {"shared": n % 500})
            n += 1
        return 2 * n

    added: list[int] = []
    threads = [
        threading.Thread(target=lambda n=n: added.append(measure(f"thread {n}"))) for n in range(3)
    ]
    for thread in threads:
        thread.start()
    try:
        for _ in range(5):
            children = [processes.fork(measure, "child") for _ in range(4)]
            added += [child.result() for child in children]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert sum(totals(buffer).values()) == sum(added)
    assert buffer.statistics.overflowed == 0


class Counts:
    """Two numbers a worker in memory that outlives it: adds begun and adds done."""

    def __init__(self, workers: int) -> None:
        self._words = memoryview(mmap.mmap(-1, workers * 16)).cast("Q")

    def begun(self, worker: int) -> None:
        """Before an add."""
        self._words[2 * worker] += 1

    def done(self, worker: int) -> None:
        """After it."""
        self._words[2 * worker + 1] += 1

    def of(self, *workers: int) -> tuple[int, int]:
        """Adds that some workers have done and begun; read in that order, so the first is less."""
        return sum(self._words[2 * w + 1] for w in workers), sum(
            self._words[2 * w] for w in workers
        )


KILLS = 25


@pytest.mark.usefixtures("backend")
def test_concurrent_safe_under_kill_9(processes: Processes) -> None:
    """Workers are killed at random instructions: no confirmed add is lost, nobody is ever stuck."""
    buffer = Buffer(series=8192, lanes=8, record_bytes=2**20)
    meter = meter_of(buffer)
    counter, updown = meter.create_counter("requests"), meter.create_up_down_counter("in_flight")
    bound = counter.bind({"bound": True})
    counts = Counts(KILLS + 4)
    choose = random.Random(9)

    def work(worker: int) -> None:
        for n in itertools.count():
            counts.begun(worker)
            if n % 3 == 0:
                bound.add(1)
            elif n % 3 == 1:
                counter.add(1, {"worker": worker})
            else:
                counter.add(1, {"new": n % 300, "worker": worker % 4})
            updown.add(1)
            counts.done(worker)

    def check() -> None:
        everybody = range(KILLS + 4)
        (done, _), (live_done, _) = counts.of(*everybody), counts.of(*workers)
        found = totals(buffer)
        (_, begun), (_, live_begun) = counts.of(*everybody), counts.of(*workers)
        assert done <= sum(v for (name, _), v in found.items() if name == "requests") <= begun
        assert live_done <= found["in_flight", "{}"] <= live_begun

    workers = {n: processes.fork(work, n) for n in range(4)}
    for n in range(4, 4 + KILLS):
        victim = choose.choice(list(workers))
        until(lambda victim=victim: counts.of(victim)[0] > 100)
        time.sleep(choose.random() / 100)
        workers.pop(victim).kill()
        check()
        workers[n] = processes.fork(work, n)
    for n in list(workers):
        until(lambda n=n: counts.of(n)[0] > 100)
        workers.pop(n).kill()
        check()
    assert totals(buffer)["in_flight", "{}"] == 0
    assert buffer.statistics.overflowed == buffer.statistics.dropped == 0


def test_concurrent_safe_creation_under_kill_9(shm: Path, processes: Processes) -> None:
    """A process killed while it makes or attaches to the file leaves one that all others can use."""
    path = shm / "buffer"
    choose = random.Random(5)

    def create() -> None:
        for _ in itertools.count():
            buffer = Buffer(path, **SIZES)
            meter_of(buffer).create_counter("requests").add(1)
            del buffer
            gc.collect()

    for _ in range(20):
        children = [processes.fork(create) for _ in range(3)]
        time.sleep(choose.random() / 50)
        for child in children:
            child.kill()
        assert totals(Buffer(path, **SIZES)).keys() <= {("requests", "{}")}
        assert os.listdir(shm) == ["buffer"]
        path.unlink()


def test_concurrent_safe_scan_sees_every_series_once(processes: Processes) -> None:
    """Scans during claims: a series never comes twice, keeps its row, and never shows less."""
    buffer = Buffer(series=4096, lanes=8, record_bytes=2**20)
    stream = Stream(buffer, claim_stream(buffer))
    gate = Gate()

    def work() -> None:
        gate.wait()
        for n in range(800):
            key = encode_attributes({"n": n})
            for _ in range(5):
                series, status = stream.claim(key, measured=True)
                assert status == 0
                series.measure(1)
                series.measure(0.25)

    children = [processes.fork(work) for _ in range(3)]
    gate.open()
    scanner, rows, before = Scanner(buffer), [], []
    while len(rows) < 801 or sum(row.value or 0 for row in rows) < 3 * 800 * 5 * 1.25:
        rows = list(scanner.scan(buffer.begin_collection()))
        records = [row.series for row in rows]
        assert len(set(records)) == len(records)
        assert records[: len(before)] == [row.series for row in before]
        for row, old in zip(rows, before, strict=False):
            assert (row.value or 0) >= (old.value or 0)
        before = rows
    for child in children:
        child.result()
    keys = [decode_attributes(buffer.record_key(row.series)) for row in rows]
    assert sorted(key["n"] for key in keys if "n" in key) == list(range(800))
    assert sum(totals(buffer).values()) == 3 * 800 * 5 * 1.25
