# SPDX-License-Identifier: Apache-2.0
"""Looking at a buffer without a part in it: nothing is written and no lock is taken.

The file is mapped for reading only. Whether a process lives is asked of the kernel (F_GETLK), which is
right in any pid namespace; only its pid may not be known there.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from google.protobuf.message import DecodeError
from opentelemetry.sdk.resources import Resource

from otel_shm._core import ffi, lib
from otel_shm.buffer import READS, Buffer
from otel_shm.catalog import Catalog
from otel_shm.errors import BufferFormatError, setup_error
from otel_shm.mapping import Mapping, identity_at
from otel_shm.metadata import resource_from_key
from otel_shm.readings import BufferStatistics, Row
from otel_shm.scanner import Scanner

SCOPE: int = lib.OSHM_SCOPE
INSTRUMENT: int = lib.OSHM_INSTRUMENT
STREAM: int = lib.OSHM_STREAM
_STATES = {
    lib.OSHM_COLLECTOR_NONE: "none",
    lib.OSHM_COLLECTOR_ACTIVE: "active",
    lib.OSHM_COLLECTOR_LEAVING: "leaving",
}


class Header(NamedTuple):
    """What a buffer says of itself."""

    version: int
    file_bytes: int  # its length
    memory_bytes: int  # what of it is allocated
    page_bytes: int
    series_capacity: int
    lanes: int
    record_bytes: int
    created_unix_nano: int
    boot_id: str
    is_of_this_boot: bool
    collection: int  # number of the last one begun
    collector_state: str
    statistics: BufferStatistics


class Lane(NamedTuple):
    """A lane that was ever owned."""

    number: int
    pid: int  # of its last owner; -1 if it lives, and its pid is not known in this pid namespace
    is_live: bool
    generation: int  # how many processes have owned it
    answers: bool  # it has callbacks or exemplars


class DeltaReader(NamedTuple):
    """A reader that has its baselines in the buffer."""

    number: int
    name: str
    collections: int
    last_unix_nano: int


class Record(NamedTuple):
    """A record of a scope, an instrument or a stream."""

    position: int
    type: int
    kind: int
    fold: int
    aggregation: int
    parent: int
    key: bytes


class Inspection:
    """A buffer, looked at.

    Args:
        path: of its file.

    Raises:
        BufferPathError: there is none, or it may not be read.
        BufferFormatError: it is not a complete buffer of this version.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.buffer = Buffer.outside(path, READS)
        self.path = os.fspath(path)
        self.catalog = Catalog(self.buffer)
        self._handle = self.buffer._handle
        self._scanner: Scanner | None = None

    @property
    def header(self) -> Header:
        """The header, now."""
        there = lib.oshm_buffer_header(self._handle)
        boot_id = bytes(ffi.buffer(there.boot_id)).rstrip(b"\0").decode("ascii", "replace")
        return Header(
            version=there.version,
            file_bytes=there.file_bytes,
            memory_bytes=self._memory_bytes(),
            page_bytes=there.page_bytes,
            series_capacity=there.series,
            lanes=there.lanes,
            record_bytes=there.record_bytes,
            created_unix_nano=there.created_unix_nano,
            boot_id=boot_id,
            is_of_this_boot=boot_id == _boot_id(),
            collection=there.collection,
            collector_state=_STATES.get(there.collector_state, str(there.collector_state)),
            statistics=self.buffer.statistics,
        )

    def _memory_bytes(self) -> int:
        if self.is_at_its_path:
            return os.lstat(self.path).st_blocks * 512
        return self.buffer.statistics.allocated_bytes

    @property
    def is_at_its_path(self) -> bool:
        """False if the file was removed, or another one took its place."""
        return is_at_its_path(self.buffer)

    @property
    def is_live(self) -> bool:
        """True if any process has it in use."""
        return _owner(self.buffer, 0, 0) != 0

    @property
    def collector_pid(self) -> int:
        """Pid of the process that collects; 0 if there is none, -1 if it cannot be told."""
        return collector_pid(self.buffer)

    @property
    def resource(self) -> Resource | None:
        """The service's; None if no process has offered one yet.

        Raises:
            BufferFormatError: it cannot be read.
        """
        key = self.buffer.resource
        try:
            return resource_from_key(key) if key is not None else None
        except DecodeError as error:
            raise BufferFormatError(f"the resource cannot be read: {error}") from None

    @property
    def lanes(self) -> list[Lane]:
        """All lanes that were ever owned."""
        there = lib.oshm_buffer_header(self._handle)
        entry = ffi.new("oshm_lane *")
        found = []
        number = 1
        while (
            number < there.lanes_used
            and lib.oshm_lane_entry(self._handle, number, entry) == lib.OSHM_OK
        ):
            pid = _owner(self.buffer, lib.OSHM_LOCK_LANES + number, 1)
            # What the living see themselves as may be somebody else here.
            found.append(
                Lane(number, pid or entry.pid, pid != 0, entry.generation, entry.publishes != 0)
            )
            number += 1
        return found

    @property
    def delta_readers(self) -> list[DeltaReader]:
        """All readers that ever wanted deltas."""
        entry = ffi.new("oshm_reader *")
        found = []
        for number in range(lib.OSHM_READERS):
            lib.oshm_reader_entry(self._handle, number, entry)
            if entry.record == 0:
                break
            name = self.buffer.record_key(entry.record).decode("utf-8", "replace")
            half = entry.epoch & 1
            found.append(DeltaReader(number, name, entry.epoch, entry.time_unix_nano[half]))
        return found

    def records(self) -> list[Record]:
        """All scopes, instruments and streams, in the order in which they were made."""
        return sorted(self._records())

    def _records(self) -> Iterator[Record]:
        cell, fixed, key = ffi.new("uint64_t *"), ffi.new("oshm_record *"), ffi.new("uint8_t **")
        while position := lib.oshm_index_next(self._handle, cell):
            if lib.oshm_record_get(self._handle, position, fixed, key) != lib.OSHM_OK:
                continue  # damaged: what it described cannot be told
            if fixed.type in (SCOPE, INSTRUMENT, STREAM):
                yield Record(
                    position,
                    fixed.type,
                    fixed.kind,
                    fixed.fold,
                    fixed.aggregation,
                    fixed.parent,
                    bytes(ffi.buffer(key[0], fixed.key_bytes)),
                )

    def series_of(self, stream: int) -> tuple[int, int]:
        """How many series a stream has, without its overflow series, and the most it may have."""
        state = ffi.new("oshm_stream_state *")
        lib.oshm_stream_entry(self._handle, stream, state)
        return state.series, state.limit

    def scan(self) -> list[Row]:
        """The rows of all series, of all lanes together."""
        if self._scanner is None:
            self._scanner = Scanner(self.buffer)
        return list(self._scanner.scan(self.buffer.last_collection))

    def each(self) -> list[Row]:
        """Of the last scan: the rows of single lanes, of series that have a value for each process."""
        return self._scanner.each() if self._scanner else []

    def scan_lane(self, lane: int) -> list[Row]:
        """The rows of the last `scan` once more, with what one lane has of each series."""
        assert self._scanner is not None
        rows = list(self._scanner.scan_lane(lane, self.buffer.last_collection))
        of_lane = {row.series: row for row in self._scanner.each()}
        return [of_lane.get(row.series, row) for row in rows]


def _owner(buffer: Buffer, first: int, count: int) -> int:
    """Pid of another process that holds a lock of these bytes of the buffer's file.

    Returns: 0 if there is none, -1 if its pid is not known in this pid namespace.
    """
    return int(lib.oshm_lock_owner(buffer._handle, first, count))


def collector_pid(buffer: Buffer) -> int:
    """Pid of the other process that collects; 0 if there is none, -1 if it cannot be told."""
    return _owner(buffer, lib.OSHM_LOCK_COLLECTOR, 1)


def is_measured_in(buffer: Buffer) -> bool:
    """True while any other process measures, be there a lane for it or not."""
    lanes = lib.oshm_buffer_header(buffer._handle).lanes
    return _owner(buffer, lib.OSHM_LOCK_LANES, lanes) != 0


def is_at_its_path(buffer: Buffer) -> bool:
    """False if the file was removed, or another one took its place."""
    return buffer.path is not None and identity_at(buffer.path) == buffer._mapping.identity


def is_buffer(path: str | os.PathLike[str]) -> bool:
    """True if a file begins as a buffer does, of any version.

    Raises:
        BufferPathError: it cannot be read.
    """
    if identity_at(os.fspath(path)) in Mapping.of_file:
        return True
    with _opened(os.fspath(path)) as file:
        return bool(int.from_bytes(os.pread(file, 8, 0), "little") == lib.OSHM_MAGIC)


def is_in_use(path: str | os.PathLike[str]) -> bool:
    """True if any process has a lock on a buffer, of any version.

    Raises:
        BufferPathError: it cannot be read.
    """
    if identity_at(os.fspath(path)) in Mapping.of_file:
        return True
    with _opened(os.fspath(path)) as file:
        return bool(lib.oshm_file_owner(file) != 0)


@contextmanager
def _opened(path: str) -> Iterator[int]:
    """A descriptor of a file that is not mapped here: closing it would drop this process's locks."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        status = "OSHM_ERROR_SYMLINK" if error.errno == errno.ELOOP else "OSHM_ERROR_SYSTEM"
        raise setup_error(status, path, error.errno or 0, lib.OSHM_VERSION) from None
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise setup_error("OSHM_ERROR_NOT_REGULAR", path, 0, lib.OSHM_VERSION)
        yield file
    finally:
        os.close(file)


def _boot_id() -> str:
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""
