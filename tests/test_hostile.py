# SPDX-License-Identifier: Apache-2.0
"""A damaged file, and one that a hostile process goes on damaging, costs series and never a crash."""

from __future__ import annotations

import contextlib
import gc
import mmap
import os
import random
from pathlib import Path

import pytest
from buffers import claim, claim_instrument, shm
from google.protobuf.message import DecodeError
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from processes import Gate, Processes, processes

import otel_shm
from otel_shm import buffer as rules
from otel_shm.attributes import decode_attributes, encode_attributes
from otel_shm.buffer import Buffer, Scanner
from otel_shm.errors import BufferFormatError, BufferFullError

__all__ = ["processes", "shm"]

SIZES = {"series": 32, "lanes": 4, "record_bytes": 8192}
KINDS = {
    rules.COUNTER: rules.SUM,
    rules.UP_DOWN_COUNTER: rules.LIVE_SUM,
    rules.GAUGE: rules.LAST,
    rules.OBSERVABLE_GAUGE: rules.ONE,
}
SERIES = 6  # of each kind
MUTATIONS = 1000

# Where things are in a file of these sizes (page size 4096), as layout.h says. What comes before
# the cursors is checked when a process attaches, and never read again.
HEADER, LANES, PAGE_MAP, INDEX, RECORDS = 0, 448, 4096, 8192, 16384
CURSORS = (128, 448)
REGIONS = {
    "header": (HEADER, 448),
    "lanes": (LANES, LANES + 4 * 64),
    "page map": (PAGE_MAP, PAGE_MAP + 16),
    "index": (INDEX, RECORDS),
    "records": (RECORDS, RECORDS + 4096),
}

pytestmark = pytest.mark.skipif(
    os.sysconf("SC_PAGESIZE") != 4096, reason="the regions above are those of 4096-byte pages"
)


def fill(path: Path) -> None:
    """Makes a buffer with some series of each kind."""
    buffer = Buffer(path, **SIZES)
    buffer.claim_resource(b"")
    for kind, fold in KINDS.items():
        instrument = claim_instrument(buffer, kind, fold, f"kind {kind}")
        for n in range(SERIES):
            claim(buffer, instrument, {"n": n, "text": "x" * n}).add(n)


def use(buffer: Buffer) -> int:
    """Reads, claims and measures everything. Returns: how many series could be read."""
    readable = 0
    for row in Scanner(buffer).scan(buffer.begin_collection()):
        for position in (row.series, row.instrument):
            try:
                decode_attributes(buffer.record_key(position))
                buffer.record_parent(position)
                readable += 1
            except (BufferFormatError, DecodeError):
                pass
        buffer.read(row.series)
    for position in (0, 8, 12, 8184, 8192, 2**40, 2**63, 2**64 - 8):
        buffer.read(position)
        with contextlib.suppress(BufferFormatError):
            buffer.record_key(position)
    for kind, fold in KINDS.items():
        try:
            instrument = claim_instrument(buffer, kind, fold, f"kind {kind}")
        except BufferFullError:
            continue
        for attributes in ({"n": 1, "text": "x"}, {"new": kind}):
            series, _ = buffer.claim_series(
                instrument, encode_attributes(attributes), measured=True
            )
            (series.add if fold in (rules.SUM, rules.LIVE_SUM) else series.set)(1)
            if fold == rules.ONE:
                series.observe(1, 1)
    assert buffer.statistics.allocated_bytes >= 0
    return readable


def damage(random: random.Random, data: bytearray) -> None:
    """Changes bits, words or a stretch of one region."""
    start, end = REGIONS[random.choice(list(REGIONS))]
    for _ in range(random.choice([1, 1, 1, 4, 50])):
        at = random.randrange(start, end, 8)
        how = random.randrange(4)
        if how == 0:
            data[at + random.randrange(8)] ^= 1 << random.randrange(8)
        elif how == 1:
            near = int.from_bytes(data[at : at + 8], "little") + random.choice([-8, -1, 1, 8])
            data[at : at + 8] = (near % 2**64).to_bytes(8, "little")
        elif how == 2:
            word = random.choice(
                [0, 1, 7, 8, 4096, 8191, 2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1]
            )
            data[at : at + 8] = word.to_bytes(8, "little")
        else:
            data[at : min(end, at + 64)] = random.randbytes(min(end, at + 64) - at)


def test_damaged_file_never_crashes(shm: Path, processes: Processes) -> None:
    """After any damage behind the checks of attaching, every call returns; most series are read."""
    fill(shm / "whole")
    gc.collect()
    whole = (shm / "whole").read_bytes()
    done = mmap.mmap(-1, 8)

    def run() -> int:
        readable = 0
        for seed in range(MUTATIONS):
            done[:8] = seed.to_bytes(8, "little")
            path = shm / str(seed)
            path.touch(mode=0o600)
            path.write_bytes(whole)
            buffer = Buffer(path)
            damaged = bytearray(whole)
            damage(random.Random(seed), damaged)
            with path.open("r+b") as file:  # our own process: after this the lane's lock is gone
                file.write(damaged)
            readable += use(buffer)
            path.unlink()
        return readable

    child = processes.fork(run)
    assert child.wait() == 0, f"crashed with seed {int.from_bytes(done[:8], 'little')}"
    assert child.result() > MUTATIONS * SERIES * len(KINDS)


def test_file_that_is_damaged_all_the_time_never_crashes(shm: Path, processes: Processes) -> None:
    """What was checked is used as it was checked, though another process writes there meanwhile."""
    path = shm / "buffer"
    fill(path)
    gate = Gate()

    def scribble() -> None:
        noise = random.Random(1)
        with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
            original = memory[:]
            words = memoryview(memory).cast("Q")
            gate.wait()
            while True:
                for start, end in (CURSORS, *list(REGIONS.values())[1:]):
                    at = noise.randrange(start, end, 8) // 8
                    words[at] = noise.choice([noise.getrandbits(64), noise.getrandbits(16), 0])
                    # Back to what it was, so that most of the file is good most of the time.
                    words[at] = int.from_bytes(original[8 * at : 8 * at + 8], "little")

    def run() -> None:
        buffer = Buffer(path)
        gate.wait()
        for _ in range(700):
            use(buffer)

    processes.fork(scribble)
    children = [processes.fork(run), processes.fork(run)]
    gate.open()
    for child in children:
        child.result()


def test_damaged_records_are_left_out_of_a_collection(shm: Path) -> None:
    """A provider on a damaged buffer collects the series that are whole, and new ones."""
    path = shm / "buffer"
    reader = InMemoryMetricReader()
    provider = otel_shm.MeterProvider(
        [reader], Resource({}), shutdown_on_exit=False, buffer=Buffer(path, **SIZES)
    )
    counter = provider.get_meter("tests").create_counter("requests")
    for n in range(4):
        counter.add(1, {"n": n})
    buffer = provider.buffer
    rows = Scanner(buffer).scan(buffer.begin_collection())
    damaged = rows[-1].series
    with path.open("r+b") as file:
        file.seek(RECORDS + damaged)
        file.write(b"\xff" * 16)
    counter.add(1, {"new": True})
    data = reader.get_metrics_data()
    assert data is not None
    points = data.resource_metrics[0].scope_metrics[0].metrics[0].data.data_points
    assert [dict(point.attributes or {}) for point in points] == [
        {"n": 0},
        {"n": 1},
        {"n": 2},
        {"new": True},
    ]
    provider.shutdown()
