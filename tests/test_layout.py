# SPDX-License-Identifier: Apache-2.0
"""The bytes of version 1 of the buffer: sizes, offsets and numbers, and a real file of that version.

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
from buffers import claim, claim_instrument
from points import exact
from processes import Gate, Processes, until

from otel_shm import buffer as rules
from otel_shm._core import ffi, lib
from otel_shm.attributes import decode_attributes, encode_attributes
from otel_shm.buffer import Buffer, Scanner
from otel_shm.metadata import instrument_from_key, scope_from_key

GOLDEN = Path(__file__).parent / "golden_v1.bin.gz"
EXPECTED = Path(__file__).parent / "golden_v1.json"

SLOT = {"word": 0}
LANE = {"generation": 0, "pid": 8, "reserved": 16}
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
    "pad_rare": 360,
    "overflowed": 384,
    "dropped": 392,
    "attached": 400,
    "collector_changes": 408,
    "pad_counters": 416,
}
RECORD = {
    "bytes": 0,
    "key_bytes": 4,
    "type": 8,
    "kind": 9,
    "fold": 10,
    "slots": 11,
    "generation": 12,
    "hash": 16,
    "parent": 24,
    "first_slot": 32,
    "start_time_unix_nano": 40,
}

NUMBERS = {
    "OSHM_MAGIC": int.from_bytes(b"OTEL_SHM", "little"),
    "OSHM_VERSION": 1,
    "OSHM_SLOTS_PER_SERIES": 8,
    "OSHM_LOCK_COLLECTOR": 0,
    "OSHM_LOCK_LANES": 1,
    "OSHM_LOCK_LIVE": 8192,
    "OSHM_RESOURCE": 1,
    "OSHM_SCOPE": 2,
    "OSHM_INSTRUMENT": 3,
    "OSHM_SERIES": 4,
    "OSHM_COUNTER": 1,
    "OSHM_UP_DOWN_COUNTER": 2,
    "OSHM_GAUGE": 3,
    "OSHM_OBSERVABLE_GAUGE": 4,
    "OSHM_SUM": 1,
    "OSHM_LIVE_SUM": 2,
    "OSHM_LAST": 3,
    "OSHM_ONE": 4,
    "OSHM_INT": 0,
    "OSHM_FLOAT": 1,
    "OSHM_OBSERVED": 2,
    "OSHM_COLLECTOR_NONE": 0,
    "OSHM_COLLECTOR_ACTIVE": 1,
    "OSHM_COLLECTOR_LEAVING": 2,
}


@pytest.mark.parametrize(
    ("struct", "size", "offsets"),
    [
        ("oshm_slot", 8, SLOT),
        ("oshm_lane", 64, LANE),
        ("oshm_header", 448, HEADER),
        ("oshm_record", 48, RECORD),
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
    stored = {n for n in dir(lib) if n.startswith("OSHM_") and not n.startswith(statuses)}
    assert stored == set(NUMBERS)


def describe(buffer: Buffer) -> dict[str, Any]:
    """Everything that can be read from a buffer, in types JSON has."""
    header = lib.oshm_buffer_header(buffer._handle)
    rows = Scanner(buffer).scan(header.collection)
    return {
        "resource": buffer.record_key(header.resource).hex(),
        "created_unix_nano": header.created_unix_nano,
        "boot_id": ffi.string(ffi.cast("char *", header.boot_id)).decode(),
        "statistics": dataclasses.asdict(buffer.statistics),
        "series": [
            {
                **row._asdict(),
                "value": None if row.value is None else repr(row.value),
                "scope": repr(
                    scope_from_key(buffer.record_key(buffer.record_parent(row.instrument)))
                ),
                "name": instrument_from_key(buffer.record_key(row.instrument)).name,
                "attributes": exact(decode_attributes(buffer.record_key(row.series))),
            }
            for row in rows
        ],
    }


@pytest.mark.skipif(os.sysconf("SC_PAGESIZE") != 4096, reason="the stored file has 4096-byte pages")
def test_stored_file_reads_as_ever(tmp_path: Path) -> None:
    """A file of version 1, written long ago on another machine, gives exactly what it held."""
    path = tmp_path / "golden"
    path.touch(mode=0o600)
    path.write_bytes(gzip.decompress(GOLDEN.read_bytes()))
    expected = json.loads(EXPECTED.read_text())
    buffer = Buffer(path)
    assert describe(buffer) == expected

    for series in expected["series"]:
        key = buffer.record_key(series["series"])
        again, status = buffer.claim_series(series["instrument"], key, measured=True)
        assert (again.record, status) == (series["series"], 0)
    assert buffer.statistics.series == expected["statistics"]["series"]


def write_golden() -> None:
    """Writes both files: a buffer with every type of record, value and lane, and what is read."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory, Processes() as processes:
        path = Path(directory) / "buffer"
        buffer = Buffer(path, series=12, lanes=3, record_bytes=8192)
        buffer.claim_resource(encode_attributes({"service.name": "golden"}))
        counter = claim_instrument(buffer)
        updown = claim_instrument(buffer, rules.UP_DOWN_COUNTER, rules.LIVE_SUM, "in_flight")
        gauge = claim_instrument(buffer, rules.GAUGE, rules.LAST, "level")
        observable = claim_instrument(buffer, rules.OBSERVABLE_GAUGE, rules.ONE, "observed")

        typed: list[Any] = [
            "größe ☃",
            True,
            7,
            -1.5,
            b"\x00\xff",
            None,
            (1, "a"),
            {"b": {"c": 2.0}},
        ]
        for n, value in enumerate(typed):
            claim(buffer, counter, {"value": value, "a": n}).add([n, n + 0.5, 2**62][n % 3])
        claim(buffer, gauge, {"of": "int"}).set(-(2**40))
        claim(buffer, gauge, {"of": "float"}).set(21.5)
        in_flight = claim(buffer, updown)
        in_flight.add(1)
        observed = claim(buffer, observable, {"sensor": 1})
        observed.observe(4.5, buffer.begin_collection())
        for n in range(3):  # past the capacity of 12: these are in the overflow series
            key = encode_attributes({"more": n})
            assert buffer.claim_series(counter, key, measured=True)[1] == lib.OSHM_FULL_SERIES
            buffer.claim_series(counter, key, measured=True)[0].add(100)

        gate = Gate()

        def second() -> None:
            assert buffer.lane == 2
            in_flight.add(20)
            claim(buffer, counter, {"value": True, "a": 1}).add(0.25)
            gate.wait()

        def third() -> None:
            assert buffer.lane == 0
            in_flight.add(300)
            claim(buffer, observable, {"sensor": 1}).observe(5, 1)

        alive = processes.fork(second)
        until(lambda: lib.oshm_buffer_header(buffer._handle).lanes_used == 3)
        processes.fork(third).result()
        gate.open()
        alive.result()
        data = bytearray(path.read_bytes())
        boot_id = HEADER["boot_id"]
        data[boot_id : boot_id + 40] = b"12345678-1234-1234-1234-123456789abc".ljust(40, b"\0")
        GOLDEN.write_bytes(gzip.compress(data, mtime=0))

        copy = Path(directory) / "copy"
        copy.touch(mode=0o600)
        copy.write_bytes(gzip.decompress(GOLDEN.read_bytes()))
        EXPECTED.write_text(json.dumps(describe(Buffer(copy)), indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    write_golden()
