# SPDX-License-Identifier: Apache-2.0
"""What can go wrong while a provider is set up. Measuring never raises any of these.

OtelShmError
├── BufferPathError     the path cannot be used (also an OSError): permission, owner, no space, ...
├── BufferFormatError   what lies at the path is not a complete buffer of this version
├── BufferSizeError     a size option is out of range (also a ValueError)
├── BufferRestartError  there is no such restart policy (also a ValueError)
├── BufferServiceError  the buffer belongs to another service
└── BufferFullError     no room for a scope or an instrument
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress


class OtelShmError(Exception):
    """Base of the errors of this package."""


class BufferPathError(OtelShmError, OSError):
    """The path of a buffer cannot be used. `errno` is set where a system call failed."""


class BufferFormatError(OtelShmError):
    """The file is not a complete buffer of this version, made on a machine like this one."""


class BufferSizeError(OtelShmError, ValueError):
    """`series`, `lanes` or `record_bytes` is out of range."""


class BufferRestartError(OtelShmError, ValueError):
    """`restart` is neither "resume" nor "reset"."""


class BufferServiceError(OtelShmError):
    """The buffer belongs to another service: its metrics would be taken for that one's."""


class BufferFullError(OtelShmError):
    """The buffer has no room for one more scope or instrument."""


# What the core's status codes (csrc/layout.h) mean to the one who set the buffer up.
_PATH_ERRORS = {
    "OSHM_ERROR_SYMLINK": "is a symbolic link, which is not followed: give the path of the file itself",
    "OSHM_ERROR_NOT_REGULAR": "is not a regular file",
    "OSHM_ERROR_MODE": "may be accessed by group or others: its mode must be 0600 (chmod 600)",
    "OSHM_ERROR_NO_ALLOCATE": "is on a file system without fallocate(): use tmpfs, such as /dev/shm",
    "OSHM_ERROR_NO_LOCKS": "is on a file system without locks: use tmpfs, such as /dev/shm",
}
_FORMAT_ERRORS = {
    "OSHM_ERROR_SHORT": "is shorter than a buffer's header: it is truncated, or not a buffer",
    "OSHM_ERROR_MAGIC": "is not an otel_shm buffer",
    "OSHM_ERROR_VERSION": "has another version than this package's ({version})",
    "OSHM_ERROR_PAGE": "was made on a machine with another page size",
    "OSHM_ERROR_LENGTH": "does not have the length its header says: it is truncated or damaged",
}
_FULL = {
    "OSHM_FULL_SERIES": "the buffer holds as many series as it was made for (option series)",
    "OSHM_FULL_RECORDS": "the buffer's records are full (option record_bytes)",
    "OSHM_FULL_SLOTS": "the buffer's slots are used up (option series)",
    "OSHM_FULL_MEMORY": "the file system or memory that holds the buffer is full",
    "OSHM_FULL_STREAM": "the metric has as many series as its cardinality limit (of a view or reader)",
    "OSHM_FULL_READERS": "the buffer has baselines for 8 readers with delta temporality only",
    "OSHM_DAMAGED": "the buffer is damaged",
}


def why_full(status: str) -> str:
    """Why a claim found no place, in words."""
    return _FULL.get(status, status)


def setup_error(
    status: str,
    path: str | None,
    code: int,
    version: int,
    *,
    is_looked_at: bool = False,
    length: int = 0,
    at_first: int = 0,
) -> OtelShmError:
    """The exception for a buffer that could not be made or attached.

    Args:
        status: name of an `enum oshm_status`.
        path: of the buffer; None for an anonymous one.
        code: errno.
        version: of the layout that this package reads.
        is_looked_at: whoever wants it only looks, and is not told to remove the file.
        length: of the file that was to be made, which is sparse.
        at_first: bytes of it that are allocated when it is made.
    """
    where = f"buffer {path!r}" if path else "anonymous buffer"
    if status == "OSHM_ERROR_SIZES":
        return BufferSizeError(f"{where}: a size is out of range")  # told apart in `otel_shm.sizes`
    if status in _FORMAT_ERRORS:
        what = _FORMAT_ERRORS[status].format(version=version)
        advice = "" if is_looked_at else ". Remove the file, or use another path."
        if advice and status == "OSHM_ERROR_MAGIC":
            advice = ", and is left as it is: give another path"
        return BufferFormatError(f"{where} {what}{advice}")
    if status in _PATH_ERRORS:
        return BufferPathError(f"{where} {_PATH_ERRORS[status]}")
    if status == "OSHM_ERROR_OWNER":
        return BufferPathError(f"{where} {_whose(path)}")
    advice = _advice(path, code, length, at_first)
    return BufferPathError(code, f"{where}: {os.strerror(code)}{advice and ': '}{advice}")


def _advice(path: str | None, code: int, length: int, at_first: int) -> str:
    """What can be done about the system's error; "" where that says it all."""
    smaller = "or make series, lanes and record_bytes smaller"
    if code in (errno.EFBIG, errno.ENOMEM):
        size = f"{-(-length // 2**20)} MiB long, though most of it is never in memory: "
        limit = "a file's length (ulimit -f)" if code == errno.EFBIG else "addresses (ulimit -v)"
        return f"{size if length else ''}raise the limit of {limit}, {smaller}"
    if path is None:
        is_refused = code in (errno.ENOSYS, errno.EPERM, errno.EACCES)
        named = "name a path, best on tmpfs (buffer, OTEL_SHM_PATH)"
        return f"memfd_create() is not allowed here: {named}" if is_refused else ""
    directory = os.path.dirname(path) or "."
    if code in (errno.EACCES, errno.EPERM):
        return _who_may_not(path, directory)
    if code == errno.ENOENT and not os.path.isdir(directory):
        return f"there is no directory {directory!r}: make it, best a tmpfs, or give another path"
    if code == errno.EROFS:
        return f"have {directory!r} mounted for writing, best as a tmpfs, or give another path"
    if code in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"it begins with {at_first // 1024} KiB and grows with its series: make room in "
            f"{directory!r}, make that larger (a container's /dev/shm: docker run --shm-size), give "
            f"another path, {smaller}"
        )
    return ""


def _whose(path: str | None) -> str:
    """Whose file it is."""
    owner = ""
    with suppress(OSError):  # it went, or the directory may not be entered
        owner = f" (uid {os.lstat(path or '').st_uid})"
    return (
        f"belongs to another user{owner}: all processes of a buffer run as one user, and this one is "
        f"uid {os.geteuid()}"
    )


def _who_may_not(path: str, directory: str) -> str:
    """Who was denied what."""
    uid = os.geteuid()
    try:
        there = os.lstat(path)
    except FileNotFoundError:
        return f"uid {uid} may make no file in {directory!r}: allow it to, or give another path"
    except OSError:
        return f"uid {uid} may not enter {directory!r}: allow it to, or give another path"
    if there.st_uid != uid:
        return f"it {_whose(path)}"
    return f"its mode is {stat.S_IMODE(there.st_mode):04o}, and must be 0600 (chmod 600)"
