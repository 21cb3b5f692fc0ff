# SPDX-License-Identifier: Apache-2.0
"""The slot buffer, from Python: making or attaching it, and its records.

The functions of the core (csrc/binding.h) let the GIL go during each call. They are called here and in
mapping.py, series.py, scanner.py, answers.py and inspection.py, and nowhere else; what they return as
status codes becomes exceptions.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from otel_shm._core import ffi, lib
from otel_shm.errors import (
    BufferFormatError,
    BufferFullError,
    BufferPathError,
    BufferRestartError,
    setup_error,
    why_full,
)
from otel_shm.held import Held
from otel_shm.mapping import STATUS, Identity, Mapping, identity_at, map_anonymous, map_path
from otel_shm.readings import BufferStatistics
from otel_shm.sizes import (
    DEFAULT_LANES,
    DEFAULT_RECORD_BYTES,
    DEFAULT_SERIES,
    DEFAULT_SIZES,
    checked_sizes,
)

# Instrument kinds, fold rules and aggregations, as csrc/layout.h numbers them.
COUNTER: int = lib.OSHM_COUNTER
UP_DOWN_COUNTER: int = lib.OSHM_UP_DOWN_COUNTER
GAUGE: int = lib.OSHM_GAUGE
OBSERVABLE_GAUGE: int = lib.OSHM_OBSERVABLE_GAUGE
HISTOGRAM: int = lib.OSHM_HISTOGRAM
OBSERVABLE_COUNTER: int = lib.OSHM_OBSERVABLE_COUNTER
OBSERVABLE_UP_DOWN_COUNTER: int = lib.OSHM_OBSERVABLE_UP_DOWN_COUNTER
SUM: int = lib.OSHM_SUM
LIVE_SUM: int = lib.OSHM_LIVE_SUM
LAST: int = lib.OSHM_LAST
ONE: int = lib.OSHM_ONE
LOWEST: int = lib.OSHM_LOWEST
HIGHEST: int = lib.OSHM_HIGHEST
EACH: int = lib.OSHM_EACH
AGGREGATION_SUM: int = lib.OSHM_AGGREGATION_SUM
AGGREGATION_LAST: int = lib.OSHM_AGGREGATION_LAST
AGGREGATION_EXPLICIT: int = lib.OSHM_AGGREGATION_EXPLICIT
AGGREGATION_EXPONENTIAL: int = lib.OSHM_AGGREGATION_EXPONENTIAL
DEFAULTED: int = lib.OSHM_DEFAULTED
NO_MIN_MAX: int = lib.OSHM_NO_MIN_MAX
FILTERED: int = lib.OSHM_FILTERED
MAX_SCALE: int = lib.OSHM_MAX_SCALE
MIN_SCALE: int = lib.OSHM_MIN_SCALE
READERS: int = lib.OSHM_READERS
# What part a process has in a buffer, as csrc/binding.h numbers them.
MEASURES: int = lib.OSHM_MEASURES
COLLECTS: int = lib.OSHM_COLLECTS
READS: int = lib.OSHM_READS

RESUME, RESET = "resume", "reset"

# A series' identity is its record's position, and above that the generation: OSHM_CELL_TAG_SHIFT.
_POSITION_BITS = 40


def reason(status: int) -> str:
    """Why a claim found no place, in words."""
    return why_full(STATUS.get(status, str(status)))


def identity_of(position: int, generation: int) -> int:
    """What tells a series from others that have or had its record: as oshm_series_identity."""
    return generation << _POSITION_BITS | position


def position_of(identity: int) -> int:
    """Where the record of a series is or was."""
    return identity & (1 << _POSITION_BITS) - 1


def _check_restart(restart: str) -> None:
    if restart not in (RESUME, RESET):
        raise BufferRestartError(f"restart must be {RESUME!r} or {RESET!r}, not {restart!r}")


class Buffer:
    """The slot buffer of one service, mapped into this process.

    Args:
        path: a file that all processes of the service name; made if it is not there (mode 0600).
            None: an anonymous buffer that only forked children share.
        series: how many series it can hold, 1 to 16,777,216. Default 32,768.
        lanes: how many processes add without sharing a cache line, plus one, 2 to 4,096. More
            processes than that are correct, only slower. Default 128.
        record_bytes: room for names and attributes in bytes, 4 KiB to 64 GiB. Default 16 MiB.
        restart: what happens with a file that no process uses any more, when the service starts again:
            "resume" (the default) goes on with its totals, "reset" makes a new file, with new start
            times.

    An existing file keeps the sizes it was made with. The sizes are limits: memory is used for
    touched pages only.

    Raises:
        BufferPathError: the path cannot be used.
        BufferFormatError: what is there is not a complete buffer of this version.
        BufferSizeError: a size is out of range.
        BufferRestartError: there is no such restart policy.
    """

    _open: ClassVar[weakref.WeakValueDictionary[Identity, Buffer]] = weakref.WeakValueDictionary()

    def __new__(
        cls,
        path: str | os.PathLike[str] | None = None,
        *,
        series: int = DEFAULT_SERIES,
        lanes: int = DEFAULT_LANES,
        record_bytes: int = DEFAULT_RECORD_BYTES,
        restart: str = RESUME,
    ) -> Buffer:
        _check_restart(restart)
        sizes = {"series": series, "lanes": lanes, "record_bytes": record_bytes}
        if path is None:
            with Mapping.lock:
                made = map_anonymous(checked_sizes(sizes))
                return cls._wrap(made, made.hold(), None)
        return cls._at(path, MEASURES, sizes, restart)

    @classmethod
    def outside(
        cls, path: str | os.PathLike[str], part: int, options: dict[str, Any] | None = None
    ) -> Buffer:
        """The buffer of a service that this process is none of: it takes no lane.

        Args:
            path: of its file.
            part: COLLECTS, or READS for one that writes nothing.
            options: sizes of a new one and restart policy, as for `Buffer`; None: it must be there.
        """
        if options is None:
            return cls._at(path, part, None)
        sizes = {**DEFAULT_SIZES, **options}
        return cls._at(path, part, sizes, sizes.pop("restart", RESUME))

    @classmethod
    def _at(
        cls,
        path: str | os.PathLike[str],
        part: int,
        sizes: dict[str, int] | None,
        restart: str = RESUME,
    ) -> Buffer:
        _check_restart(restart)
        name = os.fspath(path)
        if not isinstance(name, str) or not name or "\0" in name:
            raise BufferPathError(f"buffer path must be a non-empty str, not {name!r}")
        made_with = None if sizes is None else checked_sizes(sizes)
        with Mapping.lock:
            # One descriptor a process and file: closing a second one would drop the first's locks.
            identity = identity_at(name)
            mapping = Mapping.of_file.get(identity) if identity else None
            if mapping is not None and mapping.part > part:
                raise BufferPathError(f"buffer {name!r} is only looked at in this process")
            known = cls._open.get(identity) if identity else None
            if known is not None:
                return known
            held = mapping.hold() if mapping else None
            while mapping is None or held is None:
                mapping = map_path(name, part, made_with, is_reset=restart == RESET)
                held = mapping.hold()
            buffer = cls._wrap(mapping, held, name)
            cls._open[mapping.identity] = buffer
            return buffer

    @classmethod
    def _wrap(cls, mapping: Mapping, held: Held, path: str | None) -> Buffer:
        buffer = super().__new__(cls)
        buffer._mapping = mapping
        buffer._handle = mapping.pointer
        buffer._held = held
        buffer.path = path
        return buffer

    _mapping: Mapping
    _handle: Any
    _held: Held  # keeps the handle usable; the C types have it too
    path: str | None

    @property
    def address(self) -> int:
        """Address of the C handle, for the C types."""
        return int(ffi.cast("uintptr_t", self._handle))

    @property
    def lane(self) -> int:
        """The lane this process adds to. 0: the one shared by all."""
        return int(lib.oshm_buffer_lane(self._handle))

    @property
    def file_identity(self) -> tuple[int, int, int]:
        """Tells the file from others: device, inode, and nanoseconds since the epoch when made."""
        header = lib.oshm_buffer_header(self._handle)
        return (*self._mapping.identity, int(header.created_unix_nano))

    @property
    def is_lost(self) -> bool:
        """True if the program closed the descriptor and it cannot be opened again."""
        return bool(lib.oshm_buffer_lost(self._handle))

    def remove(self) -> bool:
        """Removes the file, unless another process uses it. Returns: whether the path is free of it.

        Raises:
            BufferPathError: it may not be removed.
        """
        assert self.path is not None
        status = lib.oshm_buffer_remove(self._handle, os.fsencode(self.path))
        if status == lib.OSHM_ERROR_SYSTEM:
            raise setup_error(STATUS[status], self.path, ffi.errno, lib.OSHM_VERSION)
        return bool(status != 0)

    @property
    def statistics(self) -> BufferStatistics:
        """The buffer's counters about itself, now."""
        header = lib.oshm_buffer_header(self._handle)
        return BufferStatistics(
            series=header.series_count,
            series_capacity=header.series,
            overflowed=header.overflowed,
            dropped=header.dropped,
            attached=header.attached,
            collector_changes=header.collector_changes,
            allocated_bytes=lib.oshm_buffer_allocated(self._handle),
        )

    @property
    def resource(self) -> bytes | None:
        """The key bytes of the service's resource; None: no process has offered one yet."""
        position = lib.oshm_buffer_header(self._handle).resource
        return self.record_key(position) if position else None

    def claim_resource(self, key: bytes) -> bytes:
        """Offers the service's resource. Returns the key bytes of the one that stands."""
        position = self._claim(lib.oshm_resource_claim, key, len(key))
        return self.record_key(position)

    def claim_scope(self, key: bytes) -> int:
        """The position of the scope's record."""
        return self._claim(lib.oshm_scope_claim, key, len(key))

    def claim_instrument(
        self, scope: int, kind: int, fold: int, key: bytes, boundaries: Sequence[float] = ()
    ) -> int:
        """The position of the instrument's record.

        Args:
            scope: the position of its scope's record.
            kind, fold: how it measures; the first process's fold stands.
            key: see `metadata.instrument_key`.
            boundaries: that it advises; the first process's stand.
        """
        advised = ffi.new("double[]", list(boundaries))
        return self._claim(
            lib.oshm_instrument_claim, scope, kind, fold, key, len(key), advised, len(boundaries)
        )

    def boundaries(self, instrument: int) -> list[float]:
        """The boundaries that an instrument advises, whichever process made it."""
        count = lib.oshm_instrument_boundaries(self._handle, instrument, ffi.NULL, 0)
        if count < 0:
            raise BufferFormatError(f"the buffer is damaged: no instrument at {instrument}")
        out = ffi.new("double[]", count)
        lib.oshm_instrument_boundaries(self._handle, instrument, out, count)
        return list(out)

    def claim_stream(
        self, instrument: int, aggregation: int, fold: int, key: bytes, limit: int
    ) -> int:
        """The position of the stream's record.

        Args:
            instrument: the position of its instrument's record.
            aggregation, fold: how it is aggregated and its lanes fold.
            key: see `streams.stream_key`.
            limit: most series; the largest that any process asks for stands.
        """
        return self._claim(
            lib.oshm_stream_claim, instrument, aggregation, fold, key, len(key), limit
        )

    def claim_reader(self, key: bytes) -> int:
        """The number of a delta reader.

        Raises:
            BufferFullError: there are as many as there may be.
        """
        number = int(lib.oshm_reader_claim(self._handle, key, len(key)))
        if number < 0:
            raise BufferFullError(reason(number))
        return number

    @property
    def sweep_number(self) -> int:
        """Changes when processes should let go of series that retire."""
        return int(lib.oshm_sweep_number(self._handle))

    def keep_kinds(self, kinds: Iterable[int]) -> None:
        """Says that a reader needs every series of instruments of these kinds for ever."""
        lib.oshm_kinds_keep(self._handle, sum(1 << kind for kind in set(kinds)))

    def _claim(self, function: Any, *arguments: Any) -> int:
        out = ffi.new("uint64_t *")
        status = function(self._handle, *arguments, out)
        if status != lib.OSHM_OK:
            raise BufferFullError(reason(status))
        return int(out[0])

    def record_key(self, position: int) -> bytes:
        """The key bytes of a record.

        Raises:
            BufferFormatError: the file is damaged there.
        """
        return self._record(position)[1]

    def record_parent(self, position: int) -> int:
        """The position of a record's parent: a series' stream, its instrument, its scope."""
        return int(self._record(position)[0].parent)

    def record_kind(self, position: int) -> int:
        """The kind of an instrument, a stream or a series."""
        return int(self._record(position)[0].kind)

    def record_fold(self, position: int) -> int:
        """How the lanes of an instrument, a stream or a series fold."""
        return int(self._record(position)[0].fold)

    def record_aggregation(self, position: int) -> int:
        """The aggregation of a stream or a series."""
        return int(self._record(position)[0].aggregation)

    def series_identity(self, position: int) -> int:
        """What tells the series that has a record now from others that had it; see `identity_of`."""
        return int(lib.oshm_series_identity(self._handle, position))

    def _record(self, position: int) -> tuple[Any, bytes]:
        fixed, key = ffi.new("oshm_record *"), ffi.new("uint8_t **")
        if lib.oshm_record_get(self._handle, position, fixed, key) != lib.OSHM_OK:
            raise BufferFormatError(f"the buffer is damaged: no record at {position}")
        return fixed, bytes(ffi.buffer(key[0], fixed.key_bytes))

    def read(self, series: int) -> int | float | None:
        """The value of one series now, over all processes; None if it has none."""
        row = ffi.new("oshm_row *")
        header = lib.oshm_buffer_header(self._handle)
        if lib.oshm_series_read(self._handle, series, header.collection, row) != lib.OSHM_OK:
            return None
        if not row.has_value:
            return None
        return float(row.float_value) if row.is_float else int(row.int_value)

    def collector_acquire(self, *, leaving: bool = False) -> bool:
        """Becomes, or makes sure to be, the process that collects. Never blocks.

        Args:
            leaving: what it collects from now on is its last export.
        """
        return bool(lib.oshm_collector_acquire(self._handle, leaving))

    def collector_stays(self) -> bool:
        """True if the collector process will still export what was added up to now."""
        return bool(lib.oshm_collector_stays(self._handle))

    def collector_exported_since(self, collection: int) -> bool:
        """True if all that a process exported while it left was collected after this one."""
        return bool(lib.oshm_collector_exported_since(self._handle, collection))

    def collector_release(self, *, exported: bool = False) -> None:
        """Lets another process collect.

        Args:
            exported: all readers of this process collected, to the end, since it began to leave.
        """
        lib.oshm_collector_release(self._handle, exported)

    @property
    def last_collection(self) -> int:
        """The number of the last collection begun; later ones have what was added before."""
        return int(lib.oshm_collection_last(self._handle))

    def begin_collection(self) -> int:
        """Begins a collection and returns its number."""
        return int(lib.oshm_collection_begin(self._handle))
