# SPDX-License-Identifier: Apache-2.0
"""Lanes: each live process has one of its own, and a dead one's is used again."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from buffers import claim_stream, counter_of, lane_by_path, meter_of, shm, totals, updown_of
from processes import Gate, Processes, processes, until

from otel_shm._core import lib
from otel_shm.attributes import encode_attributes
from otel_shm.buffer import COLLECTS, Buffer
from otel_shm.inspection import is_measured_in
from otel_shm.series import Stream

__all__ = ["processes", "shm"]

SIZES = {"series": 64, "lanes": 8, "record_bytes": 16384}


@pytest.fixture
def buffer(shm: Path) -> Buffer:
    """A buffer with a path; this process has lane 1 of it."""
    made = Buffer(shm / "buffer", **SIZES)
    assert made.lane == 1
    return made


def lanes_used(buffer: Buffer) -> int:
    """One more than the highest lane that ever was somebody's."""
    return int(lib.oshm_buffer_header(buffer._handle).lanes_used)


def test_every_process_has_a_lane_of_its_own(buffer: Buffer, processes: Processes) -> None:
    """Forked children and one that attaches: all lanes differ while all live."""
    gate, (reader, writer) = Gate(), os.pipe()

    def run(attach: bool) -> int:
        lane = (Buffer(str(buffer.path)) if attach else buffer).lane
        os.write(writer, b".")
        gate.wait()
        return lane

    children = [processes.fork(run, attach) for attach in (True, False, True, False)]
    for _ in children:
        os.read(reader, 1)
    assert processes.spawn(lane_by_path, buffer.path).result() == 6
    gate.open()
    assert sorted(child.result() for child in children) == [2, 3, 4, 5]
    assert buffer.lane == 1
    os.close(reader)
    os.close(writer)


def test_child_leaves_the_lane_of_its_parent_at_once(buffer: Buffer, processes: Processes) -> None:
    """Addresses that were given out before the fork lead to the child's own lane after it."""
    counter, updown = counter_of(buffer), updown_of(buffer)
    counter.measure(10)
    updown.measure(10)

    def run() -> tuple[Any, Any]:
        counter.measure(5)
        updown.measure(5)
        return buffer.read(counter.record), buffer.read(updown.record)

    assert processes.fork(run).result() == (15, 15)
    assert buffer.read(counter.record) == 15
    assert buffer.read(updown.record) == 10, "the child's share went with it"
    assert buffer.statistics.attached == 2


@pytest.mark.usefixtures("backend")
def test_bound_instruments_move_with_the_fork(buffer: Buffer, processes: Processes) -> None:
    """So do those that instruments keep, bound or in their tables."""
    meter = meter_of(buffer)
    counter, updown = meter.create_counter("requests"), meter.create_up_down_counter("in_flight")
    bound = updown.bind({"n": 1})
    counter.add(1, {"n": 1})
    bound.add(1)

    def run() -> dict[tuple[str, str], Any]:
        counter.add(1, {"n": 1})
        bound.add(1)
        return totals(buffer)

    both = {("requests", "{'n': 1}"): 2, ("in_flight", "{'n': 1}"): 2}
    assert processes.fork(run).result() == both
    assert totals(buffer) == both | {("in_flight", "{'n': 1}"): 1}


def test_share_of_the_dead(buffer: Buffer, processes: Processes) -> None:
    """Of a killed process the counters stay, its part of an up-down counter is dropped."""
    counter, updown = counter_of(buffer), updown_of(buffer)
    updown.measure(1)

    def run() -> None:
        counter.measure(7)
        updown.measure(100)
        updown.measure(0.5)
        signal.pause()

    child = processes.fork(run)
    until(lambda: buffer.read(updown.record) == 101.5)
    child.kill()
    assert buffer.read(counter.record) == 7
    assert repr(buffer.read(updown.record)) == "1"


def test_lane_is_taken_over_clean(buffer: Buffer, processes: Processes) -> None:
    """Who gets a dead process's lane starts with zeros where shares are dropped, and goes on
    adding where they stay; also for series that were claimed after that process died."""
    counter, updown = counter_of(buffer), updown_of(buffer)

    def run() -> tuple[int, Any, Any]:
        before = buffer.read(updown.record)
        counter.measure(1)
        updown.measure(100)
        updown_of(buffer, {"of": "the child"}).measure(5)
        return buffer.lane, before, buffer.read(updown.record)

    assert [processes.fork(run).result() for _ in range(3)] == [
        (2, 0, 100),
        (2, 0, 100),
        (2, 0, 100),
    ]
    assert buffer.read(counter.record) == 3
    assert buffer.read(updown.record) == 0
    of_the_child = updown_of(buffer, {"of": "the child"})
    assert buffer.read(of_the_child.record) == 0
    assert lib.oshm_buffer_header(buffer._handle).lanes_used == 3


def test_short_lived_processes_cost_nothing(buffer: Buffer, processes: Processes) -> None:
    """Sixty workers, one after another, leave one exact total and as much memory as one did."""
    counter, updown = counter_of(buffer), updown_of(buffer)

    def run(n: int) -> None:
        counter.measure(1)
        updown.measure(n)

    processes.fork(run, 0).result()
    allocated, lanes = buffer.statistics.allocated_bytes, lanes_used(buffer)
    for n in range(1, 60):
        processes.fork(run, n).result()
    assert buffer.read(counter.record) == 60
    assert buffer.read(updown.record) == 0
    assert lanes_used(buffer) == lanes == 3
    assert buffer.statistics.allocated_bytes == allocated
    assert buffer.statistics.attached == 61


def test_fork_in_a_fork(buffer: Buffer, processes: Processes) -> None:
    """A child of a child of a child has a lane of its own too; each share counts while it lives."""
    counter, updown = counter_of(buffer), updown_of(buffer)

    def run(depth: int) -> list[tuple[int, Any]]:
        counter.measure(1)
        updown.measure(10**depth)
        deeper = []
        if depth < 3:
            with Processes() as inner:
                deeper = inner.fork(run, depth + 1).result()
        return [(buffer.lane, buffer.read(updown.record)), *deeper]

    assert run(0) == [(1, 1), (2, 11), (3, 111), (4, 1111)]
    assert buffer.read(counter.record) == 4


def enter_pid_namespace() -> str | None:
    """The next child of this process is number 1 in a namespace. Returns: None, or why not."""
    new_pids, new_users = 0x20000000, 0x10000000
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(new_pids if os.geteuid() == 0 else new_pids | new_users):
        return os.strerror(ctypes.get_errno())
    return None


def test_pid_namespaces_have_lanes(buffer: Buffer, processes: Processes) -> None:
    """Two processes that are both number 1, each in a pid namespace of its own, have two lanes; the
    share of each counts while it lives."""
    refused = processes.fork(enter_pid_namespace).result()
    if refused:
        pytest.skip(f"no pid namespace can be made here: {refused}")
    updown = updown_of(buffer)
    updown.measure(1)
    gate = Gate()

    def first_of_its_kind() -> int:
        assert os.getpid() == 1
        updown.measure(10)
        gate.wait()
        return buffer.lane

    def namespace() -> int:
        enter_pid_namespace()
        with Processes() as inner:
            child = inner.fork(first_of_its_kind)
            gate.wait()
            return int(child.result())

    outer = [processes.fork(namespace) for _ in range(2)]
    until(lambda: buffer.read(updown.record) == 21)
    gate.open()
    assert len({child.result() for child in outer}) == 2
    assert buffer.read(updown.record) == 1


def test_fork_without_hooks_is_noticed(buffer: Buffer) -> None:
    """A fork the interpreter knows nothing of: the next claim takes a lane, and nothing is lost."""
    counter, updown = counter_of(buffer), updown_of(buffer)
    stream, key = Stream(buffer, claim_stream(buffer)), encode_attributes({"new": True})
    updown.measure(1)
    reader, writer = os.pipe()
    fork = ctypes.PyDLL(None).fork
    pid = fork()
    if pid == 0:
        try:
            counter.measure(1)  # in the parent's lane
            updown.measure(1)
            inherited = buffer.lane
            stream.claim(key, measured=True)[0].measure(1)
            counter.measure(1)  # in its own
            os.write(writer, bytes([inherited, buffer.lane]))
        finally:
            os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert os.read(reader, 2) == bytes([1, 2])
    os.close(reader)
    os.close(writer)
    assert buffer.read(counter.record) == 2
    assert buffer.read(updown.record) == 2
    assert totals(buffer)["requests", "{'new': True}"] == 1


LOCK = """
import fcntl, sys
with open(sys.argv[1], "r+b") as file:
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, int(sys.argv[2]))
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_lane_that_changes_hands_is_not_counted(buffer: Buffer, processes: Processes) -> None:
    """What a dead process left does not come back while its lane's next owner is about to clean it.

    The next owner is stopped between the lock and the cleaning: here it does no more than lock.
    """
    updown = updown_of(buffer)
    updown.measure(1)
    processes.fork(updown.measure, 100).result()
    assert buffer.read(updown.record) == 1
    with subprocess.Popen(
        [sys.executable, "-c", LOCK, str(buffer.path), str(lib.OSHM_LOCK_LANES + 2)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"locked\n"
        assert buffer.read(updown.record) == 1


def test_process_without_a_lane_is_seen(shm: Path, processes: Processes) -> None:
    """A file that a process uses for which there was no lane is in use, and is not removed."""
    path, (reader, writer) = shm / "buffer", os.pipe()

    def run() -> None:
        buffer = Buffer(path, **{**SIZES, "lanes": 2})
        os.write(writer, bytes([buffer.lane]))
        signal.pause()

    children = []
    for lane in (1, 0, 0):
        children.append(processes.fork(run))
        assert os.read(reader, 1) == bytes([lane])
    looking = Buffer.outside(path, COLLECTS)
    for child in children:
        assert is_measured_in(looking)
        assert not looking.remove()
        child.kill()
    assert not is_measured_in(looking)
    assert looking.remove()
    os.close(reader)
    os.close(writer)
