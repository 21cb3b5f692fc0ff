# SPDX-License-Identifier: Apache-2.0
"""Mapping a buffer's file once in a process, however many hold it."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from time import monotonic, sleep
from typing import Any, ClassVar

from otel_shm import forks
from otel_shm._core import ffi, lib
from otel_shm.errors import BufferPathError, setup_error
from otel_shm.held import Held, hold

# cffi makes the type of a structure when it is first used, and ends the process if a finalizer that is
# called meanwhile uses the same one. So all are made before there is anything to finalize.
for _name in ffi.list_types()[0]:
    if ffi.typeof(_name).kind == "struct":
        _ = ffi.typeof(_name).fields

#: Device and inode.
Identity = tuple[int, int]
#: What the functions of the core return, by number.
STATUS = ffi.typeof("enum oshm_status").elements

_PATIENCE_SECONDS = 10.0
_POLL_SECONDS = 0.002


def identity_at(path: str) -> Identity | None:
    """Which file a path names; None if there is none."""
    with contextlib.suppress(OSError):
        info = os.lstat(path)
        return (info.st_dev, info.st_ino)
    return None


def _identity_of(handle: Any) -> Identity:
    """Which file a handle maps."""
    out = ffi.new("uint64_t[2]")
    lib.oshm_buffer_identity(handle, out)
    return (out[0], out[1])


class Mapping:
    """The one mapping of a file in this process, closed when the last that holds it lets go.

    Who holds it is counted, and not left to weak references: those die before the descriptor is
    closed, and who opens the file in between (another thread, or a finalizer that the same garbage
    collection runs) would lose its locks to that close.
    """

    lock = threading.RLock()
    of_file: ClassVar[dict[Identity, Mapping]] = {}

    def __init__(self, pointer: Any, part: int) -> None:
        #: Its `struct oshm_buffer *`, for who holds it.
        self.pointer = pointer
        #: What this process does with it: an `enum oshm_part`. The greater may do less.
        self.part = part
        self.identity = _identity_of(pointer)
        self._holders: set[object] = set()
        self.of_file[self.identity] = self

    def hold(self) -> Held:
        """Keeps it mapped until what is returned goes; None if it was closed meanwhile. Called with the
        lock held."""
        holder = object()
        # A garbage collection may let the last other holder go anywhere in here.
        self._holders.add(holder)
        if self.of_file.get(self.identity) is not self:
            return None
        return hold(self._let_go, holder)

    def _let_go(self, holder: object) -> None:
        """May run in the middle of anything, in any thread."""
        with self.lock:
            self._holders.discard(holder)
            if not self._holders and self.of_file.get(self.identity) is self:
                del self.of_file[self.identity]
                lib.oshm_buffer_close(self.pointer)

    def after_fork(self) -> None:
        """In a forked child."""
        lib.oshm_buffer_after_fork(self.pointer)


class _ReplacedError(Exception):
    """The file at the path was removed, or is another one by now."""


def map_anonymous(sizes: list[int]) -> Mapping:
    """A new file without a name, to measure in. Called with the lock held."""
    return _map(lib.oshm_buffer_create, None, *sizes, lib.OSHM_MEASURES)


def map_path(path: str, part: int, sizes: list[int] | None, *, is_reset: bool = False) -> Mapping:
    """The file at a path. Called with the lock held.

    Args:
        path: where it is.
        part: that this process has in it.
        sizes: of a new one; None: it must be there.
        is_reset: one that no process uses is made anew.
    """
    deadline = monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            return _map(lib.oshm_buffer_attach, path, is_reset, part)
        except FileNotFoundError:
            if sizes is None:
                missing = setup_error("OSHM_ERROR_SYSTEM", path, errno.ENOENT, lib.OSHM_VERSION)
                raise missing from None
            with contextlib.suppress(FileExistsError):  # another process was first: attach
                return _map(lib.oshm_buffer_create, path, *sizes, part)
        except _ReplacedError as error:
            if monotonic() > deadline:
                raise BufferPathError(
                    f"buffer {path!r} is replaced again and again by other processes"
                ) from error
            sleep(_POLL_SECONDS)


def _map(function: Any, path: str | None, *options_and_part: int) -> Mapping:
    """What a function of the core maps."""
    out = ffi.new("struct oshm_buffer **")
    status = function(ffi.NULL if path is None else os.fsencode(path), *options_and_part, out)
    part = options_and_part[-1]
    if status == lib.OSHM_ERROR_EXISTS:
        raise FileExistsError(path)
    if status == lib.OSHM_ERROR_REPLACED:
        raise _ReplacedError
    is_missing = status == lib.OSHM_ERROR_SYSTEM and ffi.errno == errno.ENOENT
    if is_missing and function is lib.oshm_buffer_attach:
        raise FileNotFoundError(path)
    if status != lib.OSHM_OK:
        raise setup_error(
            STATUS[status],
            path,
            ffi.errno,
            lib.OSHM_VERSION,
            is_looked_at=part == lib.OSHM_READS,
            **_extent(options_and_part[:-1]),
        )
    return Mapping(out[0], part)


def _extent(sizes: tuple[int, ...]) -> dict[str, int]:
    """How large a buffer is that could not be made; {} if it was to be attached."""
    length, at_first = ffi.new("uint64_t *"), ffi.new("uint64_t *")
    if len(sizes) != 3 or lib.oshm_buffer_extent(*sizes, length, at_first) != lib.OSHM_OK:
        return {}
    return {"length": length[0], "at_first": at_first[0]}


def _after_fork_in_child() -> None:
    Mapping.lock = threading.RLock()
    for mapping in list(Mapping.of_file.values()):
        mapping.after_fork()


forks.call_in_child(_after_fork_in_child)
