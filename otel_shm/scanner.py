# SPDX-License-Identifier: Apache-2.0
"""Reading a buffer through cffi: the rows of all its series."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Any

from otel_shm._core import ffi, lib
from otel_shm.buffer import AGGREGATION_EXPLICIT, Buffer
from otel_shm.held import hold, hold_for_ever
from otel_shm.readings import Found, Row

_CODES = {
    "uint64_t": "Q",
    "int64_t": "q",
    "double": "d",
    "uint32_t": "I",
    "int32_t": "i",
    "int8_t": "b",
    "uint8_t": "B",
    "uint16_t": "H",
}
_FIELDS = [(name, field.type) for name, field in ffi.typeof("oshm_row").fields]
# A row of the core, which has no hidden padding: all of a row at once is read much quicker than one
# field after the other.
_ROW = struct.Struct("<" + "".join(_CODES[of.cname] for _, of in _FIELDS))
# What there is to know of a sum or a last value.
_OF_NUMBER = {
    "series", "stream", "generation", "start_time_unix_nano", "int_value", "float_value",
    "aggregation", "is_float",
}  # fmt: skip
_NUMBER = struct.Struct(
    "<"
    + "".join(
        _CODES[of.cname] if name in _OF_NUMBER else f"{ffi.sizeof(of)}x" for name, of in _FIELDS
    )
)


def _row(
    buckets: Any,
    # The fields in the order of csrc/layout.h.
    series: int,
    stream: int,
    generation: int,
    start: int,
    whole: int,
    real: float,
    low: float,
    high: float,
    measurements: int,
    zeros: int,
    first: int,
    first_negative: int,
    filled: int,
    negatives: int,
    offset: int,
    negative_offset: int,
    scale: int,
    kind: int,
    aggregation: int,
    has_value: int,
    is_float: int,
    has_min_max: int,
    lane: int,
) -> Row:
    return Row._make(
        (
            series,
            stream,
            generation,
            kind,
            aggregation,
            start,
            (real if is_float else whole) if has_value else None,
            low if has_min_max else None,
            high if has_min_max else None,
            measurements,
            zeros,
            scale,
            offset,
            ffi.unpack(buckets + first, filled) if filled and has_value else [],
            negative_offset,
            ffi.unpack(buckets + first_negative, negatives) if negatives and has_value else [],
            lane,
        )
    )


class Scanner:
    """Finds new series and folds all of them."""

    def __init__(self, buffer: Buffer) -> None:
        handle = lib.oshm_scanner_new(buffer._handle)
        if handle == ffi.NULL:
            raise MemoryError("no memory to scan the buffer")
        self._buffer = buffer
        self._handle = handle
        self._held = hold(lib.oshm_scanner_free, handle)
        self._count = 0

    def abandon(self) -> None:
        """In a forked child: a thread of the parent may be in the middle of a scan, so its memory
        is never touched again, not even to free it."""
        hold_for_ever(self._held)

    def scan(self, collection: int, reader: int = -1, delta_kinds: Iterable[int] = ()) -> list[Row]:
        """The rows of all series, in the order they were first claimed. One thread at a time.

        Args:
            collection: its number.
            reader: number of a delta reader, who gets what it has not had since its last `commit`;
                -1: the totals.
            delta_kinds: of which kinds of instruments it wants that; of the others, the totals.
        """
        self._count = self._scan(collection, reader, delta_kinds, idle_too=True)
        return self._rows(lib.oshm_scanner_rows(self._handle), self._count)

    def collect(self, collection: int, reader: int, delta_kinds: Iterable[int]) -> Iterator[Found]:
        """The same of those series only that have something to report; to be used up at once."""
        return self._found(self._scan(collection, reader, delta_kinds, idle_too=False))

    def _scan(
        self, collection: int, reader: int, delta_kinds: Iterable[int], *, idle_too: bool
    ) -> int:
        count = lib.oshm_scanner_scan(
            self._handle, collection, reader, sum(1 << kind for kind in delta_kinds), idle_too
        )
        if count < 0:
            raise MemoryError("no memory to scan the buffer")
        return int(count)

    def _found(self, count: int) -> Iterator[Found]:
        memory = self._memory(lib.oshm_scanner_rows(self._handle), count)
        buckets = lib.oshm_scanner_buckets(self._handle)
        for place, (
            series, stream, generation, start, whole, real, aggregation, is_float,
        ) in enumerate(_NUMBER.iter_unpack(memory)):  # fmt: skip
            row = None
            if aggregation >= AGGREGATION_EXPLICIT:
                row = _row(buckets, *_ROW.unpack_from(memory, place * _ROW.size))
            yield series, stream, generation, start, real if is_float else whole, row

    def each(self) -> list[Row]:
        """The rows of single lanes of the last scan, for series whose fold rule is "each"."""
        out = ffi.new("oshm_row **")
        count = lib.oshm_scanner_each(self._handle, out)
        return self._rows(out[0], count)

    def _rows(self, rows: Any, count: int) -> list[Row]:
        buckets = lib.oshm_scanner_buckets(self._handle)
        return [_row(buckets, *fields) for fields in _ROW.iter_unpack(self._memory(rows, count))]

    def _memory(self, rows: Any, count: int) -> Any:
        return ffi.buffer(rows, count * _ROW.size) if count else b""

    def scan_lane(self, lane: int, collection: int) -> list[Row]:
        """The rows of the last scan once more, with what one lane has, its process dead or alive."""
        if lib.oshm_scanner_scan_lane(self._handle, lane, collection) != lib.OSHM_OK:
            raise MemoryError("no memory to scan the buffer")
        return self._rows(lib.oshm_scanner_rows(self._handle), self._count)

    @property
    def left_out(self) -> int:
        """Series of the last scan that had no memory for what a delta reader has had of them."""
        return int(lib.oshm_scanner_left_out(self._handle))

    def commit(self, reader: int, collection: int, now: int) -> None:
        """What the last scan for a delta reader gave counts as sent."""
        lib.oshm_reader_commit(self._buffer._handle, reader, collection, now)

    def retire(self, collection: int, now: int) -> int:
        """Retires series that no reader needs any more, in streams that get full.

        For the collector process, after `commit`. Returns how many slots can be used again.
        """
        return int(lib.oshm_scanner_retire(self._handle, collection, now))

    def interval_start(self, reader: int) -> int:
        """The end of a delta reader's last interval; 0 if it has had none."""
        return int(lib.oshm_reader_time(self._buffer._handle, reader))
