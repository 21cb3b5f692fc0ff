# SPDX-License-Identifier: Apache-2.0
"""The one descriptor of a process and file, which holds its locks: opened again, closed, or lost."""

from __future__ import annotations

import contextlib
import fcntl
import gc
import itertools
import os
import subprocess
import threading
import time
import weakref
from pathlib import Path

import pytest
from buffers import claim_stream, counter_of, lane_by_path, meter_of, shm, totals, updown_of
from processes import Processes, processes

from otel_shm._core import lib
from otel_shm.buffer import Buffer
from otel_shm.scanner import Scanner
from otel_shm.series import Stream

__all__ = ["processes", "shm"]

SIZES = {"series": 64, "lanes": 8, "record_bytes": 16384}


@pytest.fixture
def buffer(shm: Path) -> Buffer:
    """A buffer with a path; this process has lane 1 of it."""
    made = Buffer(shm / "buffer", **SIZES)
    assert made.lane == 1
    return made


def descriptors_of(path: Path) -> list[int]:
    """This process's descriptors of a file."""
    info, found = os.stat(path), []
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.path.samestat(os.fstat(int(name)), info):
                found.append(int(name))
        except OSError:
            continue  # the one of the listing itself
    return found


def mappings_of(path: Path) -> list[str]:
    """This process's mappings of a file: the whole, and its lane once more."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    return [line for line in maps if line.split()[4] == str(path.stat().st_ino)]


def test_closing_gives_the_lane_up(shm: Path, processes: Processes) -> None:
    """When the last reference to a buffer goes, so do its lane, its descriptor and its mapping."""
    path = shm / "buffer"
    buffer = Buffer(path, **SIZES)
    series = counter_of(buffer)
    series.measure(1)
    assert len(mappings_of(path)) == 2
    assert processes.spawn(lane_by_path, path).result() == 2
    del buffer
    gc.collect()
    series.measure(1)  # what can still measure keeps the mapping
    del series
    gc.collect()
    assert not mappings_of(path)
    assert not descriptors_of(path)
    assert processes.spawn(lane_by_path, path).result() == 1
    assert list(totals(Buffer(path)).values()) == [2]


def test_descriptor_is_not_inherited(buffer: Buffer) -> None:
    """A program that is executed gets neither the named file nor an anonymous one."""
    anonymous = Buffer(**SIZES)
    assert len(descriptors_of(Path(str(buffer.path)))) == 1
    listing = subprocess.run(
        ["ls", "-l", "/proc/self/fd/"], close_fds=False, capture_output=True, text=True, check=True
    )
    assert "pipe:" in listing.stdout
    assert "otel_shm" not in listing.stdout
    assert anonymous.lane == 1


def test_opening_again_keeps_the_lane(shm: Path, processes: Processes) -> None:
    """A buffer that is opened again while a series of the first opening lives keeps its lane."""
    path = shm / "buffer"
    buffer = Buffer(path, **SIZES)
    series = updown_of(buffer)
    series.measure(1)
    del buffer
    again = Buffer(path)
    updown_of(again).measure(10)
    assert again.read(series.record) == 11
    del series
    gc.collect()
    assert len(descriptors_of(path)) == 1
    assert processes.spawn(lane_by_path, path).result() not in (0, again.lane)
    assert again.read(updown_of(again).record) == 11


def test_opening_while_it_is_closed_keeps_the_lane(shm: Path, processes: Processes) -> None:
    """A buffer that is opened again at the moment the last reference to it goes has its lane."""
    path, opened = shm / "buffer", []
    buffer = Buffer(path, **SIZES)
    weakref.finalize(buffer, lambda: opened.append(Buffer(path)))
    del buffer
    gc.collect()
    (again,) = opened
    assert again.lane == 1
    assert processes.spawn(lane_by_path, path).result() == 2


def test_opening_in_a_finalizer(shm: Path, processes: Processes) -> None:
    """Garbage that holds the only reference to a buffer may open its path once more as it goes."""
    path = shm / "buffer"

    class Cyclic:
        def __init__(self) -> None:
            self.myself = self
            self.series = counter_of(Buffer(path, **SIZES))

        def __del__(self) -> None:
            counter_of(Buffer(path)).measure(1)

    def run() -> None:
        for _ in range(3):
            Cyclic()
            gc.collect()

    processes.fork(run).result()
    assert list(totals(Buffer(path)).values()) == [3]


def test_closing_in_one_thread_keeps_the_lane_of_another(shm: Path, processes: Processes) -> None:
    """Threads that open and let go of the same path all the time: who has it has its lane's lock."""
    path = shm / "buffer"
    Buffer(path, **SIZES)
    ask, answer, stop = os.pipe(), os.pipe(), threading.Event()

    def look() -> None:
        with path.open("r+b") as file:
            while os.read(ask[0], 1):
                try:
                    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, lib.OSHM_LOCK_LANES + 1)
                    fcntl.lockf(file, fcntl.LOCK_UN, 1, lib.OSHM_LOCK_LANES + 1)
                    os.write(answer[1], b"free")
                except OSError:
                    os.write(answer[1], b"held")

    def open_and_close() -> None:
        while not stop.is_set():
            Buffer(path)

    processes.fork(look)
    thread = threading.Thread(target=open_and_close)
    thread.start()
    try:
        for _ in range(1_000):
            buffer = Buffer(path)
            os.write(ask[1], b"?")
            assert os.read(answer[0], 4) == b"held"
            assert buffer.lane == 1
            del buffer
    finally:
        stop.set()
        thread.join()
        for descriptor in (*ask, *answer):
            os.close(descriptor)


def test_lane_is_kept_though_the_program_reads_the_file(
    buffer: Buffer, processes: Processes
) -> None:
    """A program that opens and closes the file itself, which drops the locks, gets them back."""
    updown = updown_of(buffer)
    updown.measure(1)
    Path(str(buffer.path)).read_bytes()
    assert buffer.collector_acquire()
    assert processes.spawn(lane_by_path, buffer.path).result() == 2
    assert buffer.read(updown.record) == 1


def add_by_path(path: Path, amount: int) -> int:
    """In a process started on its own: adds to the up-down counter. Returns: its lane."""
    buffer = Buffer(path)
    updown_of(buffer).measure(amount)
    return buffer.lane


def test_share_of_who_had_the_lane_meanwhile_is_dropped(
    buffer: Buffer, processes: Processes
) -> None:
    """A process that gets its lane back does not count what another one left in it."""
    updown = updown_of(buffer)
    Path(str(buffer.path)).read_bytes()
    assert processes.spawn(add_by_path, buffer.path, 100).result() == 1
    assert buffer.collector_acquire()
    updown.measure(5)
    assert buffer.read(updown.record) == 5


def test_lane_may_move_while_threads_claim(shm: Path, processes: Processes) -> None:
    """A process that lost its lane takes another one in the middle of its threads' first adds."""
    path, count = shm / "buffer", 15_000
    buffer = Buffer(path, series=3 * count + 1, lanes=8, record_bytes=2**23)
    stream = Stream(buffer, claim_stream(buffer))

    def take_lanes_for_a_moment() -> None:
        with path.open("r+b") as file:
            for lane in itertools.cycle(range(lib.OSHM_LOCK_LANES + 1, lib.OSHM_LOCK_LANES + 5)):
                with contextlib.suppress(OSError):
                    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, lane)
                    time.sleep(0.0001)
                    fcntl.lockf(file, fcntl.LOCK_UN, 1, lane)

    def measure(thread: int) -> None:
        for n in range(count):
            stream.claim(b"%d %d" % (thread, n), measured=True)[0].measure(1)

    for _ in range(2):
        processes.fork(take_lanes_for_a_moment)
    threads = [threading.Thread(target=measure, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        path.open("rb").close()  # drops the locks
        time.sleep(0.0001)
        buffer.collector_acquire()  # finds out
    rows = Scanner(buffer).scan(buffer.begin_collection())
    assert sum(row.value or 0 for row in rows) == 3 * count


def test_files_that_others_close_are_left_alone(shm: Path) -> None:
    """When a program closes descriptors that are not its own, as daemons do, and opens a file that
    gets our number, that file stays as it is, and measurements are still all in a total."""
    path = shm / "buffer"
    buffer = Buffer(path, series=4096, lanes=4, record_bytes=2**20)
    counter = meter_of(buffer).create_counter("requests")
    (ours,) = descriptors_of(path)
    os.close(ours)
    with (shm / "log").open("w") as log:
        assert log.fileno() == ours
        for n in range(3_000):
            counter.add(1, {"n": n})
        assert os.fstat(ours).st_size == 0
    assert sum(totals(buffer).values()) == 3_000
