# SPDX-License-Identifier: Apache-2.0
"""`otel-shm rm`: removes buffers, but not from under a service."""

from __future__ import annotations

import argparse
from contextlib import suppress
from pathlib import Path

from otel_shm.buffer import COLLECTS, Buffer
from otel_shm.command.places import buffers, remove_if_private
from otel_shm.command.texts import error_text, printable, say
from otel_shm.errors import BufferFormatError, BufferPathError, OtelShmError
from otel_shm.inspection import is_buffer, is_in_use

NAME = "rm"
SUMMARY = "remove buffers that no process has in use"
DESCRIPTION = (
    "Removes buffers. One that a process has in use is left, with exit status 1, unless it is forced: "
    "then its processes go on with what is theirs, and those that are started later begin a new one."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What it takes."""
    parser.add_argument("path", nargs="*", metavar="PATH", help="of a buffer")
    parser.add_argument("--force", action="store_true", help="also one that is in use")
    parser.add_argument("--stale", action="store_true", help="all that `ls` finds stale")
    parser.add_argument(
        "--dir",
        action="append",
        metavar="DIRECTORY",
        help="with --stale: where to look, as for `ls`",
    )


def work(options: argparse.Namespace) -> int:
    """Removes them. Returns 1 if one is in use, 2 if one is no buffer or cannot be removed."""
    if not options.path and not options.stale:
        raise OtelShmError("give the PATH of a buffer, or --stale")
    status = 0
    for path in map(Path, options.path):
        try:
            if not is_buffer(path):
                raise BufferFormatError(f"{str(path)!r} is not an otel_shm buffer")
            if options.force:
                _unlink(path)
            elif not _remove(path):
                say(NAME, f"buffer {str(path)!r} is in use")
                status = max(status, 1)
        except OtelShmError as error:
            say(NAME, error_text(error))
            status = 2
    for path in buffers(options.dir) if options.stale else ():
        with suppress(OtelShmError):  # it went, or is another user's
            if _remove(path):
                print(printable(str(path)))
    return status


def _remove(path: Path) -> bool:
    """Removes a buffer. Returns: False if it is in use."""
    if is_in_use(path):
        return False
    try:
        buffer = Buffer.outside(path, COLLECTS)
    except OtelShmError:  # of another version, truncated: nobody can attach to it
        _unlink(path)
        return True
    is_gone = buffer.remove()
    remove_if_private(path.parent)
    return is_gone


def _unlink(path: Path) -> None:
    try:
        path.unlink()
    except OSError as error:
        raise BufferPathError(f"buffer {str(path)!r}: {error.strerror}") from None
    remove_if_private(path.parent)
