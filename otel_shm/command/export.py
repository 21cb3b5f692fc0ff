# SPDX-License-Identifier: Apache-2.0
"""`otel-shm export`: exports a buffer beside the processes that measure in it.

For services whose processes export nothing themselves (OTEL_METRICS_EXPORTER=none), and as a stand-in
for those that do: when the one that collects dies, the first that notices takes over.
"""

from __future__ import annotations

import argparse
import errno
import os

from opentelemetry.sdk.environment_variables import OTEL_METRIC_EXPORT_INTERVAL

from otel_shm.buffer import COLLECTS, Buffer
from otel_shm.command.arguments import seconds
from otel_shm.command.child import block_signals, is_told_to_end
from otel_shm.command.closing import export_a_last_time
from otel_shm.command.readers import readers_from_environment
from otel_shm.command.texts import process_text, say
from otel_shm.errors import BufferPathError, OtelShmError
from otel_shm.inspection import collector_pid, is_at_its_path, is_measured_in
from otel_shm.outside import OutsideExporter

NAME = "export"
SUMMARY = "export a buffer that exists"
DESCRIPTION = (
    "Exports a buffer by the standard OTEL_ variables whenever no other process collects it, and a last "
    "time when it is told to end, or when the buffer was removed and its processes are gone."
)
_POLL_SECONDS = 0.2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What it takes."""
    parser.add_argument("path", metavar="PATH", help="of a buffer")
    parser.add_argument(
        "--interval",
        type=seconds(0.001, 86_400),
        metavar="SECONDS",
        help="between exports (default: OTEL_METRIC_EXPORT_INTERVAL, else 60)",
    )
    parser.add_argument(
        "--wait", action="store_true", help="for a buffer that is not there yet, or again"
    )


def work(options: argparse.Namespace) -> int:
    """Exports until it is told to end."""
    if options.interval is not None:
        os.environ[OTEL_METRIC_EXPORT_INTERVAL] = str(options.interval * 1e3)
    block_signals()
    path = os.path.abspath(options.path)
    while True:
        buffer = _attach(path, waits=options.wait)
        if buffer is None or _export(buffer) or not options.wait:
            return 0


def _attach(path: str, *, waits: bool) -> Buffer | None:
    """The buffer; None if it is told to end before that is there."""
    said = False
    while True:
        try:
            return Buffer.outside(path, COLLECTS)
        except BufferPathError as error:
            if error.errno != errno.ENOENT or not waits:
                raise
            if not said:
                say(NAME, f"buffer {path!r} is waited for")
            said = True
        if is_told_to_end(_POLL_SECONDS):
            return None


def _export(buffer: Buffer) -> bool:
    """Exports. Returns: False if the buffer is gone, True if it was told to end."""
    readers = readers_from_environment()
    if not readers:
        raise OtelShmError("the environment asks for no exporter")
    exporter = OutsideExporter(buffer, readers)
    told, collects = False, None
    while not told and (is_at_its_path(buffer) or is_measured_in(buffer)):
        before, collects = collects, exporter.acquire()
        if collects != before:
            who = "this process" if collects else process_text(collector_pid(buffer))
            say(NAME, f"buffer {buffer.path!r} is collected by {who}")
        told = is_told_to_end(_POLL_SECONDS)
    export_a_last_time(exporter, NAME)
    return told
