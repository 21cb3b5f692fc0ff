# SPDX-License-Identifier: Apache-2.0
"""Where buffers lie: a private directory for those that have no path, and where to look for any."""

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
    """A directory that is this user's alone, on tmpfs if there is one; made if it is not there.

    Raises:
        BufferPathError: there is no place for it.
    """
    refused = []
    for place in _memory():
        directory = place / f"{_PREFIX}{os.geteuid()}"
        try:
            with suppress(FileExistsError):
                directory.mkdir(mode=0o700)
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
            return directory
        refused.append(f"{directory}: not a directory of this user's alone")
    raise BufferPathError(
        f"no place for a buffer ({'; '.join(refused) or 'no /dev/shm'}): give one with --path"
    )


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


def buffers(directories: list[str] | None) -> list[Path]:
    """The buffers in directories and in their private ones, by path.

    Args:
        directories: where to look; None: /dev/shm and $XDG_RUNTIME_DIR.

    Raises:
        BufferPathError: a directory that was given cannot be read.
    """
    found: set[Path] = set()
    for place in _memory() if directories is None else map(Path, directories):
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
        found.update(_buffers_among(entries))
    return sorted(found)


def _buffers_among(entries: Iterator[Path] | list[Path]) -> Iterator[Path]:
    for entry in entries:
        # What may not be read or went meanwhile is nobody's to list.
        with suppress(OSError, OtelShmError):
            if stat.S_ISREG(entry.lstat().st_mode) and is_buffer(entry):
                yield entry
