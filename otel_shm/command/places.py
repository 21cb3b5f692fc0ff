# SPDX-License-Identifier: Apache-2.0
"""Where buffers lie: a private directory for those that have no path, and where to look for any.

Containers may have no /dev/shm, or none that they may write. An ordinary directory does too, where the
kernel now and then writes what has changed to a disk.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from otel_shm.errors import BufferPathError, OtelShmError
from otel_shm.inspection import is_buffer

SHARED_MEMORY = Path("/dev/shm")
_PREFIX = "otel_shm-"


def private_directory() -> Path:
    """A directory that is this user's alone, in memory if there may be one; made if it is not there.

    Raises:
        BufferPathError: there is no place for it.
    """
    refused = []
    for place in [*_memory(), _temporary()]:
        directory = place / f"{_PREFIX}{os.geteuid()}"
        try:
            with suppress(FileExistsError):
                directory.mkdir(mode=0o700)
                directory.chmod(0o700)  # whatever the umask is
            info = directory.lstat()
        except OSError as error:
            refused.append(f"{directory}: {error.strerror}")
            continue
        # Another user may have been there first: /dev/shm is everybody's.
        if (
            stat.S_ISDIR(info.st_mode)
            and info.st_uid == os.geteuid()
            and not stat.S_IMODE(info.st_mode) & 0o077
        ):
            if os.access(directory, os.W_OK | os.X_OK):
                return directory
            refused.append(f"{directory}: may not be written")
        else:
            refused.append(f"{directory}: not a directory of this user's alone")
    raise BufferPathError(
        f"no place for a buffer ({'; '.join(refused)}): have a tmpfs mounted at {SHARED_MEMORY}, or "
        "give a path that may be written with --path or OTEL_SHM_PATH"
    )


def is_in_memory(directory: Path) -> bool:
    """False for a private directory that may be on a disk."""
    return directory.parent in _memory()


def remove_if_private(directory: Path) -> None:
    """Removes a directory that `private_directory` has made, once it is empty."""
    if _is_private(directory):
        with suppress(OSError):  # others are in it
            directory.rmdir()


def _is_private(directory: Path) -> bool:
    return directory.name.startswith(_PREFIX)


def _memory() -> list[Path]:
    """Directories in memory that there are."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    places = [SHARED_MEMORY, *([Path(runtime)] if runtime else [])]
    return [place for place in places if place.is_dir()]


def _temporary() -> Path:
    return Path(os.environ.get("TMPDIR") or "/tmp")


def buffers(directories: list[str] | None) -> list[Path]:
    """The buffers in directories and in their private ones, by path.

    Args:
        directories: where to look; None: /dev/shm, $XDG_RUNTIME_DIR, and the private ones in $TMPDIR.

    Raises:
        BufferPathError: a directory that was given cannot be read.
    """
    found: set[Path] = set()
    places = [*_memory(), _temporary()] if directories is None else map(Path, directories)
    for place in places:
        try:
            entries = sorted(place.iterdir())
        except OSError as error:
            if directories is None:
                continue
            raise BufferPathError(f"directory {str(place)!r}: {error.strerror}") from None
        for entry in entries:
            if _is_private(entry) and entry.is_dir() and not entry.is_symlink():
                with suppress(OSError):  # another user's
                    found.update(_buffers_among(entry.iterdir()))
        if directories is not None or place != _temporary():
            found.update(_buffers_among(entries))
    return sorted(found)


def _buffers_among(entries: Iterator[Path] | list[Path]) -> Iterator[Path]:
    for entry in entries:
        # What may not be read or went meanwhile is nobody's to list.
        with suppress(OSError, OtelShmError):
            if stat.S_ISREG(entry.lstat().st_mode) and is_buffer(entry):
                yield entry
