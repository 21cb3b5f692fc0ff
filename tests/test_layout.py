# SPDX-License-Identifier: Apache-2.0
"""The bytes of version 2 of the buffer: sizes, offsets and numbers, and a real file of that version.

Run as a program it writes that file anew, after a change of the layout that was meant.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from buffers import claim, claim_stream
from points import exact
from processes import Gate, Processes, until

from otel_shm import buffer as rules
from otel_shm._core import ffi, lib
from otel_shm.attributes import decode_attributes, encode_attributes
from otel_shm.buffer import Buffer
from otel_shm.metadata import scope_from_key
from otel_shm.readings import Row
from otel_shm.scanner import Scanner
from otel_shm.series import Share, Stream
from otel_shm.streams import Aggregated, stream_from_key

GOLDEN = Path(__file__).parent / "golden_v2.bin.gz"
EXPECTED = Path(__file__).parent / "golden_v2.json"

SLOT = {"word": 0}
LANE = {"generation": 0, "pid": 8, "publishes": 16, "answered": 24, "reserved": 32}
READER = {"record": 0, "epoch": 8, "time_unix_nano": 16, "collection": 32, "reserved": 48}
MAILBOX = {"collection": 0, "bytes": 8}
HEADER = {
    "magic": 0,
    "version": 8,
    "page_bytes": 16,
    "file_bytes": 24,
    "series": 32,
    "lanes": 40,
    "record_bytes": 48,
    "created_unix_nano": 56,
    "boot_id": 64,
    "reserved_constant": 104,
    "record_cursor": 128,
    "pad_record": 136,
    "slot_cursor": 192,
    "pad_slot": 200,
    "series_count": 256,
    "pad_series": 264,
    "resource": 320,
    "lanes_used": 328,
    "collector_state": 336,
    "collection": 344,
    "last_export": 352,
    "kept_kinds": 360,
    "sweep": 368,
    "answers": 376,
    "overflowed": 384,
    "dropped": 392,
    "attached": 400,
    "collector_changes": 408,
    "reach": 416,
    "pad_counters": 424,
}
RECORD = {
    "bytes": 0,
    "key_bytes": 4,
    "type": 8,
    "kind": 9,
    "fold": 10,
    "aggregation": 11,
    "slots": 12,
    "hash": 16,
    "parent": 24,
    "first_slot": 32,
    "start_time_unix_nano": 40,
    "state": 48,
    "next": 56,
}
STREAM_KEY = {
    "boundaries": 0,
    "metric_bytes": 4,
    "max_size": 8,
    "max_scale": 10,
    "flags": 11,
    "limit": 12,
}
STREAM_STATE = {"series": 0, "limit": 8, "reusable": 16}
BLOCKS = {"center": 0, "first_slot": 8}

NUMBERS = {
    "OSHM_MAGIC": int.from_bytes(b"OTEL_SHM", "little"),
    "OSHM_VERSION": 2,
    "OSHM_SLOTS_PER_SERIES": 16,
    "OSHM_READERS": 8,
    "OSHM_MAILBOX_BYTES": 65536,
    "OSHM_SERIES_MIN": 1,
    "OSHM_SERIES_MAX": 2**24,
    "OSHM_LANES_MIN": 2,
    "OSHM_LANES_MAX": 4096,
    "OSHM_RECORD_BYTES_MIN": 4096,
    "OSHM_RECORD_BYTES_MAX": 2**36,
    "OSHM_LOCK_COLLECTOR": 0,
    "OSHM_LOCK_LANES": 1,
    "OSHM_LOCK_LIVE": 8192,
    "OSHM_LOCK_ATTACH": 16384,
    "OSHM_RESOURCE": 1,
    "OSHM_SCOPE": 2,
    "OSHM_INSTRUMENT": 3,
    "OSHM_SERIES": 4,
    "OSHM_STREAM": 5,
    "OSHM_READER": 6,
    "OSHM_COUNTER": 1,
    "OSHM_UP_DOWN_COUNTER": 2,
    "OSHM_GAUGE": 3,
    "OSHM_OBSERVABLE_GAUGE": 4,
    "OSHM_HISTOGRAM": 5,
    "OSHM_OBSERVABLE_COUNTER": 6,
    "OSHM_OBSERVABLE_UP_DOWN_COUNTER": 7,
    "OSHM_AGGREGATION_SUM": 1,
    "OSHM_AGGREGATION_LAST": 2,
    "OSHM_AGGREGATION_EXPLICIT": 3,
    "OSHM_AGGREGATION_EXPONENTIAL": 4,
    "OSHM_SUM": 1,
    "OSHM_LIVE_SUM": 2,
    "OSHM_LAST": 3,
    "OSHM_ONE": 4,
    "OSHM_LOWEST": 5,
    "OSHM_HIGHEST": 6,
    "OSHM_EACH": 7,
    "OSHM_INT": 0,
    "OSHM_FLOAT": 1,
    "OSHM_STAMP": 2,
    "OSHM_HELD": 3,
    "OSHM_MIN": 4,
    "OSHM_MAX": 5,
    "OSHM_INTERVAL_MIN": 6,
    "OSHM_INTERVAL_MAX": 7,
    "OSHM_ZERO": 8,
    "OSHM_BUCKETS": 8,
    "OSHM_SCALES": 32,
    "OSHM_MIN_SCALE": -11,
    "OSHM_MAX_SCALE": 20,
    "OSHM_DEFAULTED": 1,
    "OSHM_NO_MIN_MAX": 2,
    "OSHM_FILTERED": 4,
    "OSHM_LIVE": 0,
    "OSHM_CLAIMED": 1,
    "OSHM_RETIRING": 2,
    "OSHM_RETIRED": 3,
    "OSHM_COLLECTOR_NONE": 0,
    "OSHM_COLLECTOR_ACTIVE": 1,
    "OSHM_COLLECTOR_LEAVING": 2,
}


@pytest.mark.parametrize(
    ("struct", "size", "offsets"),
    [
        ("oshm_slot", 8, SLOT),
        ("oshm_lane", 64, LANE),
        ("oshm_reader", 64, READER),
        ("oshm_mailbox", 16, MAILBOX),
        ("oshm_header", 448, HEADER),
        ("oshm_record", 64, RECORD),
        ("oshm_stream_key", 16, STREAM_KEY),
        ("oshm_stream_state", 24, STREAM_STATE),
        ("oshm_blocks", 264, BLOCKS),
    ],
)
def test_every_field_has_its_place(struct: str, size: int, offsets: dict[str, int]) -> None:
    """No field of what lies in the file moves, appears or goes without this table saying so."""
    fields = ffi.typeof(struct).fields
    assert {name: field.offset for name, field in fields} == offsets
    assert ffi.sizeof(struct) == size
    ends = {name: field.offset + ffi.sizeof(field.type) for name, field in fields}
    assert list(ends.values()) == [*offsets.values(), size][1:], "hidden padding"


@pytest.mark.parametrize(("name", "number"), NUMBERS.items())
def test_every_number_has_its_meaning(name: str, number: int) -> None:
    """What is stored as a number keeps that number."""
    assert getattr(lib, name) == number


def test_every_number_of_the_file_is_in_the_table() -> None:
    """A constant that is new in layout.h is new in the table above; statuses never lie in a file."""
    statuses = ("OSHM_OK", "OSHM_ERROR_", "OSHM_FULL_", "OSHM_DAMAGED")
    parts = set(ffi.typeof("enum oshm_part").relements)  # of a process in a buffer
    stored = {n for n in dir(lib) if n.startswith("OSHM_") and not n.startswith(statuses)} - parts
    assert stored == set(NUMBERS)


KINDS = range(1, 8)
VALUES = (
    *("series", "stream", "generation", "kind", "aggregation", "start_time_unix_nano", "value"),
    *("minimum", "maximum", "measurements", "zero_count", "scale", "offset", "buckets"),
)
FIRST, SECOND = b"the first reader", b"the second reader"


def describe_row(buffer: Buffer, row: Row) -> dict[str, Any]:
    """A row and what its records say, in types JSON has."""
    instrument = buffer.record_parent(row.stream)
    return {
        "series": row.series,
        "row": describe_values(row),
        "attributes": exact(decode_attributes(buffer.record_key(row.series))),
        "stream": row.stream,
        "identity": repr(stream_from_key(buffer.record_key(row.stream), row.aggregation)),
        "advised": buffer.boundaries(instrument),
        "scope": repr(scope_from_key(buffer.record_key(buffer.record_parent(instrument)))),
    }


def describe_values(row: Row) -> str:
    """What a scan says of a series, in one line that tells 1 and 1.0 apart."""
    values = row._asdict()
    return ", ".join(f"{name}={values[name]!r}" for name in VALUES)


def describe(buffer: Buffer) -> dict[str, Any]:
    """Everything that can be read from a buffer, in types JSON has."""
    header = lib.oshm_buffer_header(buffer._handle)
    before = buffer.statistics
    totals = Scanner(buffer).scan(header.collection)
    readers = {}
    for key in (FIRST, SECOND):
        scanner, number = Scanner(buffer), buffer.claim_reader(key)
        rows = scanner.scan(header.collection, reader=number, delta_kinds=KINDS)
        readers[key.decode()] = {
            "number": number,
            "interval_start": scanner.interval_start(number),
            "rows": [describe_values(row) for row in rows],
        }
    return {
        "resource": buffer.record_key(header.resource).hex(),
        "created_unix_nano": header.created_unix_nano,
        "boot_id": ffi.string(ffi.cast("char *", header.boot_id)).decode(),
        "kept_kinds": header.kept_kinds,
        "statistics": dataclasses.asdict(before),
        "series": [describe_row(buffer, row) for row in totals],
        "readers": readers,
    }


@pytest.mark.skipif(os.sysconf("SC_PAGESIZE") != 4096, reason="the stored file has 4096-byte pages")
def test_stored_file_reads_as_ever(tmp_path: Path) -> None:
    """A file of version 2, written long ago on another machine, gives exactly what it held."""
    path = tmp_path / "golden"
    path.touch(mode=0o600)
    path.write_bytes(gzip.decompress(GOLDEN.read_bytes()))
    expected = json.loads(EXPECTED.read_text())
    buffer = Buffer(path)
    assert describe(buffer) == expected

    for series in expected["series"]:
        key = buffer.record_key(series["series"])
        again, status = Stream(buffer, series["stream"]).claim(key, measured=True)
        assert (again.record, status) == (series["series"], 0)
    assert buffer.statistics.series == expected["statistics"]["series"]


def test_stored_file_has_everything() -> None:
    """The file holds every kind, aggregation, and sort of value that there is."""
    expected = json.loads(EXPECTED.read_text())
    rows = [series["row"] for series in expected["series"]]
    for field, values in (("kind", KINDS), ("aggregation", range(1, 5))):
        assert all(any(f" {field}={value}," in row for row in rows) for value in values)
    (many,) = (row for row in rows if "aggregation=4" in row and "measurements=20" in row)
    assert "zero_count=3, scale=-" in many
    assert any("value=None" in row for row in rows)
    for reader in expected["readers"].values():
        assert reader["interval_start"] > 0
        assert 0 < len([row for row in reader["rows"] if "value=None" in row]) < len(rows)


TYPED: list[Any] = ["größe ☃", True, 7, -1.5, b"\x00\xff", None, (1, "a"), {"b": {"c": 2.0}}]
EXPONENTIAL = Aggregated(rules.AGGREGATION_EXPONENTIAL, max_size=8, max_scale=20)
EXPLICIT = Aggregated(rules.AGGREGATION_EXPLICIT, (0.0, 1.5, 100.0), min_max=False)


class Golden:
    """Writes the stored file: a buffer with every type of record, value and lane."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.buffer = Buffer(path, series=24, lanes=3, record_bytes=32768)
        self.buffer.claim_resource(encode_attributes({"service.name": "golden"}))
        self.buffer.keep_kinds([rules.GAUGE, rules.HISTOGRAM])
        kinds = {
            "requests": rules.COUNTER,
            "in_flight": rules.UP_DOWN_COUNTER,
            "level": rules.GAUGE,
            "observed": rules.OBSERVABLE_GAUGE,
            "observed sum": rules.OBSERVABLE_COUNTER,
            "observed share": rules.OBSERVABLE_UP_DOWN_COUNTER,
        }
        self.streams = {name: self._stream(kind, name) for name, kind in kinds.items()}
        for name, how in (("default", None), ("explicit", EXPLICIT), ("exponential", EXPONENTIAL)):
            self.streams[name] = self._stream(rules.HISTOGRAM, "duration", how)
        self.in_flight = claim(self.buffer, self.streams["in_flight"].record)
        self.shares = {name: Share() for name in ("observed sum", "observed share")}

    def _stream(self, kind: int, name: str, how: Aggregated | None = None) -> Stream:
        return Stream(self.buffer, claim_stream(self.buffer, kind, name, how))

    def measure(self, name: str, amount: float, **attributes: Any) -> None:
        """Measures in one stream."""
        series, _ = self.streams[name].claim(encode_attributes(attributes), measured=True)
        series.measure(amount)

    def observe(self, collection: int) -> None:
        """Publishes what this process observes."""
        claim(self.buffer, self.streams["observed"].record, {"sensor": 1}).observe(
            4.5, collection, Share()
        )
        for name, share in self.shares.items():
            claim(self.buffer, self.streams[name].record).observe(10, collection, share)

    def record(self, times: int) -> None:
        """Measures in every series of this process."""
        for n, value in enumerate(TYPED):
            self.measure("requests", [n, n + 0.5, 2**62][n % 3], value=value, a=n)
        self.measure("level", -(2**40), of="int")
        self.measure("level", 21.5, of="float")
        for name in ("default", "explicit", "exponential"):
            for amount in [0, 1, 1.5, 2, 77.25, 10**5] * times:
                self.measure(name, amount, of="many")
            self.measure(name, 3, of="one")

    def collect(self, key: bytes) -> None:
        """A whole collection of one delta reader."""
        scanner, number = Scanner(self.buffer), self.buffer.claim_reader(key)
        collection = self.buffer.begin_collection()
        self.observe(collection)
        scanner.scan(collection, reader=number, delta_kinds=KINDS)
        scanner.commit(number, collection, 10**9 + collection)

    def write(self, processes: Processes) -> bytes:
        """The bytes of the file, with measurements before, between and after collections."""
        self.in_flight.measure(1)
        self.record(1)
        self.collect(FIRST)
        self.measure("requests", 1, value=True, a=1)
        self.record(2)
        self.collect(SECOND)
        for n in range(10):  # past the capacity: these are in the overflow series
            self.measure("requests", 100, more=n)
        self.measure("exponential", 5e-324, of="many")
        gate = Gate()

        def second() -> None:
            assert self.buffer.lane == 2
            self.in_flight.measure(20)
            self.measure("requests", 0.25, value=True, a=1)
            self.measure("exponential", 1e9, of="many")
            gate.wait()

        def third() -> None:
            assert self.buffer.lane == 0
            self.in_flight.measure(300)
            self.measure("default", 1, of="many")

        alive = processes.fork(second)
        until(lambda: lib.oshm_buffer_header(self.buffer._handle).lanes_used == 3)
        processes.fork(third).result()
        self.observe(self.buffer.begin_collection())
        gate.open()
        alive.result()
        data = bytearray(self.path.read_bytes())
        boot_id = HEADER["boot_id"]
        data[boot_id : boot_id + 40] = b"12345678-1234-1234-1234-123456789abc".ljust(40, b"\0")
        return bytes(data)


def write_golden() -> None:
    """Writes both files: a buffer with all there is in it, and what is read from it."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory, Processes() as processes:
        data = Golden(Path(directory) / "buffer").write(processes)
        GOLDEN.write_bytes(gzip.compress(data, mtime=0))
        copy = Path(directory) / "copy"
        copy.touch(mode=0o600)
        copy.write_bytes(data)
        EXPECTED.write_text(json.dumps(describe(Buffer(copy)), indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    write_golden()
