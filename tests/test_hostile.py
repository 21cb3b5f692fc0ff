# SPDX-License-Identifier: Apache-2.0
"""A damaged file, and one that a hostile process goes on damaging, costs series and never a crash."""

from __future__ import annotations

import contextlib
import gc
import mmap
import os
import random
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from buffers import AGGREGATED, claim_stream, shm
from google.protobuf.message import DecodeError
from opentelemetry.sdk.metrics import Counter, Histogram
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource
from points import points_of
from processes import Gate, Processes, processes

import otel_shm
from otel_shm import buffer as rules
from otel_shm._core import ffi, lib
from otel_shm.attributes import decode_attributes, encode_attributes
from otel_shm.buffer import Buffer
from otel_shm.errors import BufferFormatError, BufferFullError
from otel_shm.scanner import Scanner
from otel_shm.series import Share, Stream
from otel_shm.streams import Aggregated, stream_from_key

__all__ = ["processes", "shm"]

SIZES = {"series": 128, "lanes": 4, "record_bytes": 32768}
EXPONENTIAL = Aggregated(rules.AGGREGATION_EXPONENTIAL, max_size=4, max_scale=20)
STREAMS = [
    *AGGREGATED.items(),
    (rules.HISTOGRAM, EXPONENTIAL),
    (rules.HISTOGRAM, Aggregated(rules.AGGREGATION_SUM)),
]
SERIES = 4  # of each stream
MUTATIONS = 1200
KINDS = range(1, 8)
NOW = 10**18
READER = b"reader"

# Where things are in a file of these sizes (page size 4096), as buffer.c works it out. What comes
# before the cursors is checked when a process attaches, and never read again.
PAGE = 4096
HEADER, READERS = 0, ffi.sizeof("oshm_header")
LANES = READERS + lib.OSHM_READERS * ffi.sizeof("oshm_reader")
PAGE_MAP, INDEX = PAGE, 2 * PAGE
RECORDS = INDEX + 1024 * 8
MAILBOXES = RECORDS + SIZES["record_bytes"]
SLOTS = MAILBOXES + SIZES["lanes"] * lib.OSHM_MAILBOX_BYTES
LANE_BYTES = SIZES["series"] * lib.OSHM_SLOTS_PER_SERIES * 8
BASELINES = SLOTS + SIZES["lanes"] * LANE_BYTES
END = BASELINES + 2 * lib.OSHM_READERS * LANE_BYTES
CURSORS = (128, READERS)
REGIONS = {
    "header": CURSORS,
    "readers": (READERS, READERS + 2 * ffi.sizeof("oshm_reader")),
    "lanes": (LANES, LANES + SIZES["lanes"] * ffi.sizeof("oshm_lane")),
    "page map": (PAGE_MAP, PAGE_MAP + 32),
    "index": (INDEX, RECORDS),
    "records": (RECORDS, RECORDS + 20480),
    "slots": (SLOTS, SLOTS + 2 * LANE_BYTES),
    "baselines": (BASELINES, BASELINES + 2 * LANE_BYTES),
}
FIXED = ffi.sizeof("oshm_record")
ODD_WORDS = [
    *(0, 1, 2, 3, 7, 8, 4096, 8191, 2**31, 2**32 - 1, 2**40 - 1, 2**40),
    *(2**41, 2**62, 2**63, 2**63 + 1, 2**64 - 8, 2**64 - 1),
]

pytestmark = pytest.mark.skipif(
    os.sysconf("SC_PAGESIZE") != PAGE, reason="the regions above are those of 4096-byte pages"
)


def fill(path: Path) -> None:
    """Makes a buffer with some series of each stream, and a delta reader who has had half of them."""
    buffer = Buffer(path, **SIZES)
    assert path.stat().st_size == END
    buffer.claim_resource(b"")
    reader = buffer.claim_reader(READER)
    for part in range(2):
        for number, (kind, how) in enumerate(STREAMS):
            stream = Stream(buffer, claim_stream(buffer, kind, f"kind {kind} {number}", how))
            for n in range(part, SERIES, 2):
                key = encode_attributes({"n": n, "text": "x" * n})
                for amount in (n, 0.1, 1000):
                    stream.claim(key, measured=True)[0].measure(amount)
        scan_for(buffer, reader)


def scan_for(buffer: Buffer, reader: int) -> None:
    """A whole collection of a delta reader."""
    scanner, collection = Scanner(buffer), buffer.begin_collection()
    scanner.scan(collection, reader=reader, delta_kinds=KINDS)
    scanner.commit(reader, collection, NOW)
    for later in range(3):
        scanner.retire(collection, NOW + later * 2 * 10**9)


def use(buffer: Buffer) -> int:
    """Reads, claims and measures everything. Returns: how many series could be read."""
    readable = 0
    for row in Scanner(buffer).scan(buffer.begin_collection()):
        with contextlib.suppress(BufferFormatError, DecodeError, struct.error, ValueError):
            decode_attributes(buffer.record_key(row.series))
            stream_from_key(buffer.record_key(row.stream), buffer.record_aggregation(row.stream))
            buffer.boundaries(buffer.record_parent(row.stream))
            readable += 1
        buffer.read(row.series)
    for position in (0, 8, 12, 8184, 8192, 2**40, 2**63, 2**64 - 8):
        buffer.read(position)
        with contextlib.suppress(BufferFormatError):
            buffer.record_key(position)
        with contextlib.suppress(BufferFormatError):
            buffer.boundaries(position)
    for number, (kind, how) in enumerate(STREAMS):
        try:
            stream = Stream(buffer, claim_stream(buffer, kind, f"kind {kind} {number}", how))
        except (BufferFullError, BufferFormatError):
            continue
        for attributes in ({"n": 1, "text": "x"}, {"n": 0, "text": ""}, {"new": kind}):
            series, _ = stream.claim(encode_attributes(attributes), measured=True)
            for amount in (1, 0.5, 1e300):
                series.measure(amount)
            if kind in (rules.OBSERVABLE_GAUGE, rules.OBSERVABLE_COUNTER):
                series.observe(1, 1, Share())
    try:
        scan_for(buffer, buffer.claim_reader(READER))
    except BufferFullError:
        scan_for(buffer, 0)
    assert buffer.statistics.allocated_bytes >= 0
    return readable


Damage = Callable[[random.Random, bytearray], None]


def word_at(data: bytearray, at: int) -> int:
    """A word of the file."""
    return int.from_bytes(data[at : at + 8], "little")


def damage_region(noise: random.Random, data: bytearray) -> None:
    """Changes bits, words or a stretch of one region."""
    start, end = REGIONS[noise.choice(list(REGIONS))]
    for _ in range(noise.choice([1, 1, 1, 4, 50])):
        at = noise.randrange(start, end, 8)
        how = noise.randrange(4)
        if how == 0:
            data[at + noise.randrange(8)] ^= 1 << noise.randrange(8)
        elif how == 1:
            near = word_at(data, at) + noise.choice([-8, -1, 1, 8])
            data[at : at + 8] = (near % 2**64).to_bytes(8, "little")
        elif how == 2:
            data[at : at + 8] = noise.choice(ODD_WORDS).to_bytes(8, "little")
        else:
            data[at : min(end, at + 64)] = noise.randbytes(min(end, at + 64) - at)


def records_of(data: bytearray, kind: int) -> list[int]:
    """Where in the file the records of a type are."""
    cells = [word_at(data, at) for at in range(INDEX, RECORDS, 8)]
    found = [RECORDS + cell % 2**40 for cell in cells if cell]
    return [at for at in found if data[at + 8] == kind]


def put(data: bytearray | mmap.mmap, base: int, struct_name: str, field: str, value: int) -> None:
    """Sets a field of a struct, cut to its size."""
    of = dict(ffi.typeof(struct_name).fields)[field]
    size = ffi.sizeof(of.type)
    data[base + of.offset : base + of.offset + size] = (value % 2 ** (8 * size)).to_bytes(
        size, "little"
    )


def damage_record(noise: random.Random, data: bytearray) -> None:
    """Sets a field of some records of one type to odd values."""
    fields = [name for name, _ in ffi.typeof("oshm_record").fields]
    wanted = noise.choice([lib.OSHM_INSTRUMENT, lib.OSHM_SERIES, lib.OSHM_STREAM, lib.OSHM_READER])
    field = noise.choice(fields)
    for at in noise.choices(records_of(data, wanted), k=noise.choice([1, 1, 3])):
        put(
            data,
            at,
            "oshm_record",
            field,
            noise.choice([*ODD_WORDS, *range(8), noise.getrandbits(64)]),
        )


def damage_stream(noise: random.Random, data: bytearray) -> None:
    """Sets fields of a stream's key, or the bytes behind it, to odd values."""
    at = noise.choice(records_of(data, lib.OSHM_STREAM))
    key_bytes = int.from_bytes(data[at + 4 : at + 8], "little")
    if noise.random() < 0.5:
        fields = [name for name, _ in ffi.typeof("oshm_stream_key").fields]
        values = [*ODD_WORDS, 4, 5, 15, 16, 160, 255, 20, -11, -12, 21, noise.getrandbits(64)]
        put(data, at + FIXED, "oshm_stream_key", noise.choice(fields), noise.choice(values))
    elif noise.random() < 0.5:  # what is counted of it, and its reusable records
        state = at + FIXED + (key_bytes + 7) // 8 * 8
        field = noise.choice(["series", "limit", "reusable"])
        series = noise.choice(records_of(data, lib.OSHM_SERIES)) - RECORDS
        put(data, state, "oshm_stream_state", field, noise.choice([*ODD_WORDS, series]))
    else:
        start = at + FIXED + noise.randrange(key_bytes)
        stretch = min(noise.randrange(1, 40), at + FIXED + key_bytes - start)
        data[start : start + stretch] = noise.randbytes(stretch)


def damage_blocks(noise: random.Random, data: bytearray) -> None:
    """Sets the center or slot numbers of the blocks of exponential series to odd values."""
    exponential = [
        at
        for at in records_of(data, lib.OSHM_SERIES)
        if data[at + 11] == lib.OSHM_AGGREGATION_EXPONENTIAL
    ]
    for at in exponential:
        key_bytes = int.from_bytes(data[at + 4 : at + 8], "little")
        blocks = at + FIXED + (key_bytes + 7) // 8 * 8
        for _ in range(noise.randrange(4)):
            word = blocks + 8 * noise.randrange(1 + lib.OSHM_SCALES)
            near = noise.randrange(LANE_BYTES // 8 - 10, LANE_BYTES // 8 + 10)
            value = noise.choice([*ODD_WORDS, near, noise.getrandbits(64), noise.getrandbits(42)])
            data[word : word + 8] = value.to_bytes(8, "little")


def damage_states(noise: random.Random, data: bytearray) -> None:
    """Gives many series a state, of any generation, and chains them up in any order."""
    series = records_of(data, lib.OSHM_SERIES)
    for at in series:
        if noise.random() < 0.5:
            put(
                data,
                at,
                "oshm_record",
                "state",
                noise.choice([0, 0, 256, 2**63]) + noise.randrange(6),
            )
        if noise.random() < 0.5:
            put(data, at, "oshm_record", "next", noise.choice(series) - RECORDS)
    for at in records_of(data, lib.OSHM_STREAM):
        key_bytes = int.from_bytes(data[at + 4 : at + 8], "little")
        state = at + FIXED + (key_bytes + 7) // 8 * 8
        put(data, state, "oshm_stream_state", "reusable", noise.choice(series) - RECORDS)
        put(data, state, "oshm_stream_state", "limit", noise.choice([1, 2, 5, 2**64 - 1]))


@pytest.mark.parametrize(
    "damage",
    [damage_region, damage_record, damage_stream, damage_blocks, damage_states],
    ids=lambda damage: damage.__name__.removeprefix("damage_"),
)
def test_damaged_file_never_crashes(shm: Path, processes: Processes, damage: Damage) -> None:
    """After any damage behind the checks of attaching, every call returns; most series are read."""
    fill(shm / "whole")
    gc.collect()
    whole = (shm / "whole").read_bytes()
    mutations = MUTATIONS if damage is damage_region else MUTATIONS // 4
    done = mmap.mmap(-1, 8)

    def run() -> int:
        readable = 0
        for seed in range(mutations):
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
    assert child.result() > mutations * SERIES * len(STREAMS) // 2


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
                for start, end in REGIONS.values():
                    at = noise.randrange(start, end, 8) // 8
                    words[at] = noise.choice([noise.getrandbits(64), noise.getrandbits(16), 0])
                    # Back to what it was, so that most of the file is good most of the time.
                    words[at] = int.from_bytes(original[8 * at : 8 * at + 8], "little")

    def run() -> None:
        buffer = Buffer(path)
        gate.wait()
        for _ in range(100):
            use(buffer)

    processes.fork(scribble)
    children = [processes.fork(run), processes.fork(run)]
    gate.open()
    for child in children:
        child.result()


@pytest.mark.parametrize(
    "temporality",
    [AggregationTemporality.CUMULATIVE, AggregationTemporality.DELTA],
    ids=lambda temporality: temporality.name,
)
def test_damaged_records_are_left_out_of_a_collection(
    shm: Path, temporality: AggregationTemporality
) -> None:
    """A provider on a damaged buffer collects the series that are whole, and new ones."""
    path = shm / "buffer"
    reader = InMemoryMetricReader(dict.fromkeys((Counter, Histogram), temporality))
    provider = otel_shm.MeterProvider(
        [reader],
        Resource({}),
        shutdown_on_exit=False,
        views=[View(instrument_name="e", aggregation=ExponentialBucketHistogramAggregation())],
        buffer=Buffer(path, **SIZES),
    )
    meter = provider.get_meter("tests")
    counter = meter.create_counter("c")
    histograms = [meter.create_histogram("h"), meter.create_histogram("e")]
    for n in range(4):
        counter.add(1, {"n": n})
        for histogram in histograms:
            histogram.record(1, {"n": n})
    buffer = provider.buffer
    rows = [row for row in Scanner(buffer).scan(0) if row.value is not None]
    with path.open("r+b") as file:
        for damaged in (rows[-1], rows[-2], rows[-3]):
            file.seek(RECORDS + damaged.series)
            file.write(b"\xff" * 16)
    counter.add(1, {"new": True})
    points = points_of(reader.get_metrics_data())
    assert {p.name for p in points} == {"c", "h", "e"}
    assert [p.attributes for p in points if p.name == "c"] == [
        *({"n": n} for n in range(3)),
        {"new": True},
    ]
    for name in ("h", "e"):
        assert [p.attributes for p in points if p.name == name] == [{"n": n} for n in range(3)]
    provider.shutdown()


def test_damaged_stream_is_left_out_of_a_collection(shm: Path) -> None:
    """Where the record of a stream cannot be read, its series are left out, and only those."""
    path = shm / "buffer"
    reader = InMemoryMetricReader()
    provider = otel_shm.MeterProvider(
        [reader], Resource({}), shutdown_on_exit=False, buffer=Buffer(path, **SIZES)
    )
    meter = provider.get_meter("tests")
    for name in ("a", "b", "c"):
        meter.create_histogram(name).record(1)
    rows = [row for row in Scanner(provider.buffer).scan(0) if row.value is not None]
    with path.open("r+b") as file:
        file.seek(RECORDS + rows[1].stream + FIXED)
        file.write(b"\xff" * 16)
    assert [p.name for p in points_of(reader.get_metrics_data())] == ["a", "c"]
    provider.shutdown()


def test_reusable_records_in_a_circle(shm: Path) -> None:
    """Records that are said to be retired, are in the index all the same, and lead to each other: a
    claim comes to an end."""
    path = shm / "buffer"
    buffer = Buffer(path, **SIZES)
    record = claim_stream(buffer)
    stream, key = Stream(buffer, record), encode_attributes({"n": 1})
    series = stream.claim(key, measured=True)[0].record
    key_bytes = len(buffer.record_key(record))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        put(memory, RECORDS + series, "oshm_record", "state", lib.OSHM_RETIRED)
        put(memory, RECORDS + series, "oshm_record", "next", series)
        state = RECORDS + record + FIXED + (key_bytes + 7) // 8 * 8
        put(memory, state, "oshm_stream_state", "reusable", series)
    stream.claim(key, measured=True)[0].measure(1)
    assert len(Scanner(buffer).scan(buffer.begin_collection())) >= 1
