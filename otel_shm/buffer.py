# SPDX-License-Identifier: Apache-2.0
"""The slot buffer, from Python: the only module that touches the cffi binding.

The functions of the core let the GIL go during each call. What they return as status codes becomes
exceptions here.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import weakref
from collections.abc import Sequence
from typing import Any, ClassVar

from otel_shm._core import ffi, lib
from otel_shm.errors import (
    BufferFormatError,
    BufferFullError,
    BufferPathError,
    BufferSizeError,
    setup_error,
    why_full,
)
from otel_shm.readings import BufferStatistics, Row

# Instrument kinds and fold rules, as csrc/layout.h numbers them.
COUNTER: int = lib.OSHM_COUNTER
UP_DOWN_COUNTER: int = lib.OSHM_UP_DOWN_COUNTER
GAUGE: int = lib.OSHM_GAUGE
OBSERVABLE_GAUGE: int = lib.OSHM_OBSERVABLE_GAUGE
SUM: int = lib.OSHM_SUM
LIVE_SUM: int = lib.OSHM_LIVE_SUM
LAST: int = lib.OSHM_LAST
ONE: int = lib.OSHM_ONE

DEFAULT_SERIES = 32_768
DEFAULT_LANES = 128
DEFAULT_RECORD_BYTES = 16 * 1024 * 1024

_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1

_STATUS = ffi.typeof("enum oshm_status").elements  # number -> name, as layout.h has them


def reason(status: int) -> str:
    """Why a claim found no place, in words."""
    return why_full(_STATUS.get(status, str(status)))


_Identity = tuple[int, int]  # device and inode


def _identity(path: str) -> _Identity | None:
    """Which file a path names; None if there is none."""
    with contextlib.suppress(OSError):
        info = os.lstat(path)
        return (info.st_dev, info.st_ino)
    return None


def _identity_of(handle: Any) -> _Identity:
    """Which file a handle maps."""
    out = ffi.new("uint64_t[2]")
    lib.oshm_buffer_identity(handle, out)
    return (out[0], out[1])


class _Mapping:
    """The one mapping of a file in this process, closed when the last of its handles goes.

    The handles are counted, and not left to weak references: those die before the descriptor is
    closed, and who opens the file in between (another thread, or a finalizer that the same garbage
    collection runs) would lose its locks to that close.
    """

    lock = threading.RLock()
    of_file: ClassVar[dict[_Identity, _Mapping]] = {}

    def __init__(self, pointer: Any) -> None:
        self._pointer = pointer
        self.identity = _identity_of(pointer)
        self._holders: set[object] = set()
        self.of_file[self.identity] = self

    def handle(self) -> Any:
        """One more handle, or None if it was closed meanwhile. Called with the lock held."""
        holder = object()
        # A garbage collection may let the last other handle go anywhere in here.
        self._holders.add(holder)
        if self.of_file.get(self.identity) is not self:
            return None
        pointer = ffi.cast("struct oshm_buffer *", self._pointer)
        return ffi.gc(pointer, lambda _: self._let_go(holder))

    def _let_go(self, holder: object) -> None:
        """May run in the middle of anything, in any thread."""
        with self.lock:
            self._holders.discard(holder)
            if not self._holders and self.of_file.get(self.identity) is self:
                del self.of_file[self.identity]
                lib.oshm_buffer_close(self._pointer)

    def after_fork(self) -> None:
        """In a forked child."""
        lib.oshm_buffer_after_fork(self._pointer)


def _value(row: Any) -> int | float | None:
    if not row.has_value:
        return None
    value: int | float = row.float_value if row.is_float else row.int_value
    return value


class Series:
    """Where one series adds: its run of slots. For callers that are not the C types."""

    __slots__ = ("_mapping", "_refused", "_run", "_target", "record")

    def __init__(self, buffer: Buffer, target: Any) -> None:
        self._mapping = buffer._handle  # unmapped when nobody has it any more
        self._target = target
        self._run = target.run
        self._refused = target.refused or None
        #: Position of the series' record; 0 if the buffer had no room for anything.
        self.record: int = target.series

    def start(self) -> None:
        """Notes the first measurement; further calls change nothing."""
        lib.oshm_series_start(self._mapping, self._target)

    def add(self, amount: int | float) -> None:
        """Adds to a sum."""
        if isinstance(amount, int) and _INT64_MIN <= amount <= _INT64_MAX:
            lib.oshm_add_int(self._run, amount)
        else:
            lib.oshm_add_float(self._run, amount)
        if self._refused is not None:
            lib.oshm_count(self._refused)

    def set(self, amount: int | float) -> None:
        """Sets a gauge."""
        if isinstance(amount, int) and _INT64_MIN <= amount <= _INT64_MAX:
            lib.oshm_set_int(self._run, amount)
        else:
            lib.oshm_set_float(self._run, amount)
        if self._refused is not None:
            lib.oshm_count(self._refused)

    def observe(self, amount: int | float, collection: int) -> None:
        """Sets an observable's value as seen in one collection."""
        self.set(amount)
        lib.oshm_observed(self._run, collection)


class Scanner:
    """Finds new series and folds all of them; a series keeps its place in the list of rows."""

    def __init__(self, buffer: Buffer) -> None:
        handle = lib.oshm_scanner_new(buffer._handle)
        if handle == ffi.NULL:
            raise MemoryError("no memory to scan the buffer")
        self._mapping = buffer._handle  # which the scanner reads
        self._handle = ffi.gc(handle, lib.oshm_scanner_free)

    def abandon(self) -> None:
        """In a forked child: a thread of the parent may be in the middle of a scan, so its memory
        is never touched again, not even to free it."""
        ffi.gc(self._handle, None)

    def scan(self, collection: int) -> Sequence[Row]:
        """The rows of all series, in the order they were first claimed. One thread at a time."""
        count = lib.oshm_scanner_scan(self._handle, collection)
        if count < 0:
            raise MemoryError("no memory to scan the buffer")
        rows = ffi.unpack(lib.oshm_scanner_rows(self._handle), count) if count else []
        return [
            Row(row.series, row.instrument, row.kind, row.start_time_unix_nano, _value(row))
            for row in rows
        ]


class Buffer:
    """The slot buffer of one service, mapped into this process.

    Args:
        path: a file that all processes of the service name; made if it is not there (mode 0600).
            None: an anonymous buffer that only forked children share.
        series: how many series it can hold, 1 to 16,777,216. Default 32,768.
        lanes: how many processes add without sharing a cache line, plus one, 2 to 4,096. More
            processes than that are correct, only slower. Default 128.
        record_bytes: room for names and attributes in bytes, 4 KiB to 64 GiB. Default 16 MiB.

    An existing file keeps the sizes it was made with. The sizes are limits: memory is used for
    touched pages only.

    Raises:
        BufferPathError: the path cannot be used.
        BufferFormatError: what is there is not a complete buffer of this version.
        BufferSizeError: a size is out of range.
    """

    _open: ClassVar[weakref.WeakValueDictionary[_Identity, Buffer]] = weakref.WeakValueDictionary()

    def __new__(
        cls,
        path: str | os.PathLike[str] | None = None,
        *,
        series: int = DEFAULT_SERIES,
        lanes: int = DEFAULT_LANES,
        record_bytes: int = DEFAULT_RECORD_BYTES,
    ) -> Buffer:
        sizes = {"series": series, "lanes": lanes, "record_bytes": record_bytes}
        for option, size in sizes.items():
            if isinstance(size, bool) or not isinstance(size, int) or not 0 < size < 2**63:
                raise BufferSizeError(f"{option} must be a positive whole number, not {size!r}")
        if path is None:
            with _Mapping.lock:
                made = cls._map(lib.oshm_buffer_create, None, *sizes.values())
                return cls._wrap(made.handle(), None)
        name = os.fspath(path)
        if not isinstance(name, str) or not name or "\0" in name:
            raise BufferPathError(f"buffer path must be a non-empty str, not {name!r}")
        with _Mapping.lock:
            # One descriptor a process and file: closing a second one would drop the first's locks.
            identity = _identity(name)
            known = cls._open.get(identity) if identity else None
            if known is not None:
                return known
            mapping = _Mapping.of_file.get(identity) if identity else None
            handle = mapping.handle() if mapping else None
            while mapping is None or handle is None:
                try:
                    mapping = cls._map(lib.oshm_buffer_attach, name)
                except FileNotFoundError:
                    try:
                        mapping = cls._map(lib.oshm_buffer_create, name, *sizes.values())
                    except FileExistsError:
                        continue  # another process was first: attach
                handle = mapping.handle()
            buffer = cls._wrap(handle, name)
            cls._open[mapping.identity] = buffer
            return buffer

    @classmethod
    def _wrap(cls, handle: Any, path: str | None) -> Buffer:
        buffer = super().__new__(cls)
        buffer._handle = handle
        buffer.path = path
        return buffer

    @classmethod
    def _map(cls, function: Any, path: str | None, *sizes: int) -> _Mapping:
        """What a function of the core maps. Called with the lock held."""
        out = ffi.new("struct oshm_buffer **")
        status = function(ffi.NULL if path is None else os.fsencode(path), *sizes, out)
        if status == lib.OSHM_ERROR_EXISTS:
            raise FileExistsError(path)
        missing = status == lib.OSHM_ERROR_SYSTEM and ffi.errno == errno.ENOENT
        if missing and function is lib.oshm_buffer_attach:
            raise FileNotFoundError(path)
        if status != lib.OSHM_OK:
            raise setup_error(_STATUS[status], path, ffi.errno, lib.OSHM_VERSION)
        return _Mapping(out[0])

    _handle: Any
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
    def is_lost(self) -> bool:
        """True if the program closed the descriptor and it cannot be opened again."""
        return bool(lib.oshm_buffer_lost(self._handle))

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

    def claim_resource(self, key: bytes) -> bytes:
        """Offers the service's resource. Returns the key bytes of the one that stands."""
        position = self._claim(lib.oshm_resource_claim, key, len(key))
        return self.record_key(position)

    def claim_scope(self, key: bytes) -> int:
        """The position of the scope's record."""
        return self._claim(lib.oshm_scope_claim, key, len(key))

    def claim_instrument(self, scope: int, kind: int, fold: int, key: bytes) -> int:
        """The position of the instrument's record."""
        return self._claim(lib.oshm_instrument_claim, scope, kind, fold, key, len(key))

    def _claim(self, function: Any, *arguments: Any) -> int:
        out = ffi.new("uint64_t *")
        status = function(self._handle, *arguments, out)
        if status != lib.OSHM_OK:
            raise BufferFullError(reason(status))
        return int(out[0])

    def claim_series(self, instrument: int, key: bytes, *, measured: bool) -> tuple[Series, int]:
        """Where the series of encoded attributes adds, and 0 or why it has no slots of its own."""
        target = ffi.new("oshm_target *")
        status = lib.oshm_series_claim(self._handle, instrument, key, len(key), measured, target)
        return Series(self, target), int(status)

    def record_key(self, position: int) -> bytes:
        """The key bytes of a record.

        Raises:
            BufferFormatError: the file is damaged there.
        """
        return self._record(position)[1]

    def record_parent(self, position: int) -> int:
        """The position of a record's parent: the scope of an instrument."""
        return int(self._record(position)[0].parent)

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
        return _value(row)

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

    def collector_release(self) -> None:
        """Lets another process collect."""
        lib.oshm_collector_release(self._handle)

    @property
    def last_collection(self) -> int:
        """The number of the last collection begun; later ones have what was added before."""
        return int(lib.oshm_collection_last(self._handle))

    def begin_collection(self) -> int:
        """Begins a collection and returns its number."""
        return int(lib.oshm_collection_begin(self._handle))


def _after_fork_in_child() -> None:
    _Mapping.lock = threading.RLock()
    for mapping in list(_Mapping.of_file.values()):
        mapping.after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)
