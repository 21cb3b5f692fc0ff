# SPDX-License-Identifier: Apache-2.0
"""`otel-shm run`: starts a service and exports for it, from outside of its processes.

The buffer is made and the collector lock taken before the command starts, so no process of the service
ever collects while the supervisor lives; if it is killed one of them takes over. When the command and all
processes of the service are gone, however they ended, what they counted is exported a last time and the
buffer's file is removed.
"""

from __future__ import annotations

import argparse
import errno
import os
import secrets
from pathlib import Path
from time import monotonic
from typing import Any

from opentelemetry.environment_variables import OTEL_METRICS_EXPORTER, OTEL_PYTHON_METER_PROVIDER

from otel_shm.buffer import COLLECTS, RESUME, Buffer
from otel_shm.command.arguments import seconds
from otel_shm.command.child import Child, block_signals, is_told_to_end, start_status
from otel_shm.command.closing import export_a_last_time
from otel_shm.command.instrumented import instrument
from otel_shm.command.places import is_in_memory, private_directory, remove_if_private
from otel_shm.command.readers import readers_from_environment
from otel_shm.command.texts import process_text, say
from otel_shm.environment import OTEL_SHM_PATH, OTEL_SHM_RESTART, buffer_options
from otel_shm.errors import BufferPathError, OtelShmError
from otel_shm.inspection import collector_pid, is_measured_in
from otel_shm.outside import OutsideExporter

NAME = "run"
SUMMARY = "start a service and export for it"
DESCRIPTION = (
    "Starts COMMAND with a buffer for all its processes, exports by the standard OTEL_ variables while "
    "it runs and a last time when its processes are gone, and removes the buffer. Signals are passed on; "
    "the exit status is COMMAND's, or 128 + the signal that killed it."
)
_POLL_SECONDS = 0.02
_ATTEMPTS = 100
# One port for all: the supervisor's.
_PULLED = "prometheus"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What it takes."""
    parser.add_argument(
        "--path",
        help="of the buffer (default: OTEL_SHM_PATH, else a new one in a private directory, in memory if "
        "there may be one)",
    )
    parser.add_argument(
        "--grace",
        type=seconds(0, 86_400),
        default=10.0,
        metavar="SECONDS",
        help="to wait for processes that outlive COMMAND (default: 10)",
    )
    parser.add_argument("--keep", action="store_true", help="do not remove the buffer")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="and its arguments")
    parser.usage = (
        "otel-shm run [-h] [--path PATH] [--grace SECONDS] [--keep] [--] COMMAND [ARGUMENT ...]"
    )


def work(options: argparse.Namespace) -> int:
    """Runs the command. Returns: its status; 126 or 127 if it cannot be started, as with shells."""
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        raise OtelShmError("give the COMMAND to run")
    blocked = block_signals()
    path, settings = buffer_options(options.path)
    is_new = path is None or not os.path.lexists(path)
    buffer = _private_buffer(command, settings) if path is None else _buffer(path, settings)
    try:
        exporter = _exporter(buffer)
        environment = _environment(buffer, options.instrumented_by)
        child = Child(command, environment, blocked)
    except BaseException as error:
        if is_new:
            _remove(buffer)
        if isinstance(error, OSError) and not isinstance(error, OtelShmError):
            say(NAME, f"{command[0]}: {error.strerror}")
            return start_status(error)
        raise
    status = child.wait()
    _wait_for_others(buffer, options.grace)
    if exporter is not None:
        export_a_last_time(exporter, NAME)
    if not options.keep and not _remove(buffer):
        say(NAME, f"processes of the service live on with buffer {buffer.path!r}, which stays")
    return status


def _private_buffer(command: list[str], settings: dict[str, Any]) -> Buffer:
    name = f"{Path(command[0]).name}-{secrets.token_hex(4)}"
    for attempt in range(_ATTEMPTS):
        try:
            directory = private_directory()
            buffer = Buffer.outside(directory / name, COLLECTS, settings)
            break
        except BufferPathError as error:
            # Another supervisor's end took the directory away.
            if error.errno != errno.ENOENT or attempt == _ATTEMPTS - 1:
                raise
    if not is_in_memory(directory):
        say(NAME, f"no directory in memory may be written, so the buffer is in {str(directory)!r}")
    return buffer


def _buffer(path: str | os.PathLike[str], settings: dict[str, Any]) -> Buffer:
    return Buffer.outside(os.path.abspath(path), COLLECTS, settings)


def _exporter(buffer: Buffer) -> OutsideExporter | None:
    """What collects from now on; None if nothing is to be exported."""
    readers = readers_from_environment()
    if not readers:
        return None
    exporter = OutsideExporter(buffer, readers)
    if not exporter.acquire():
        who = process_text(collector_pid(buffer))
        raise OtelShmError(f"buffer {buffer.path!r} is collected by {who} already")
    return exporter


def _environment(buffer: Buffer, instrumented_by: str | None) -> dict[str, str]:
    """The command's: it finds the buffer, and each of its processes a provider."""
    environment = dict(os.environ)
    environment[OTEL_SHM_PATH] = str(buffer.path)
    environment[OTEL_SHM_RESTART] = RESUME  # it has been begun anew already, if that was to be
    environment[OTEL_PYTHON_METER_PROVIDER] = (
        environment.get(OTEL_PYTHON_METER_PROVIDER) or "otel_shm"
    )
    names = [name.strip() for name in environment.get(OTEL_METRICS_EXPORTER, "").split(",")]
    if _PULLED in names:
        others = [name for name in names if name != _PULLED]
        environment[OTEL_METRICS_EXPORTER] = ",".join(others) or "none"
    if instrumented_by is not None:
        instrument(environment, instrumented_by)
    return environment


def _wait_for_others(buffer: Buffer, grace: float) -> None:
    """Returns when no process of the service lives any more, or it is time or told to end."""
    deadline = monotonic() + grace
    while is_measured_in(buffer) and monotonic() < deadline:
        if is_told_to_end(_POLL_SECONDS):
            return


def _remove(buffer: Buffer) -> bool:
    """Removes the file. Returns: False if processes use it."""
    is_gone = buffer.remove()
    remove_if_private(Path(str(buffer.path)).parent)
    return is_gone
