# SPDX-License-Identifier: Apache-2.0
"""`otel-shm ls`: the buffers on this machine."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from opentelemetry.sdk.resources import SERVICE_NAME

from otel_shm.command.places import buffers
from otel_shm.command.stopped import is_stopped
from otel_shm.command.texts import bytes_text, error_text, pid_text, printable, table, time_text
from otel_shm.errors import OtelShmError
from otel_shm.inspection import Inspection

NAME = "ls"
SUMMARY = "list the buffers on this machine"
DESCRIPTION = (
    "Lists buffers, recognised by what is in them. One that no process has in use is stale: it can be "
    "removed, or a service that names it goes on with its totals."
)

_HEADING = (
    "PATH",
    "SIZE",
    "MEMORY",
    "SERVICE",
    "SERIES",
    "PROCESSES",
    "COLLECTOR",
    "CREATED",
    "STATE",
)
_RIGHT = frozenset({1, 2, 4})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What it takes."""
    parser.add_argument(
        "--dir",
        action="append",
        metavar="DIRECTORY",
        help="look here, and in the otel_shm-* directories in it; may be given several times "
        "(default: /dev/shm, $XDG_RUNTIME_DIR and $TMPDIR)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def work(options: argparse.Namespace) -> int:
    """Prints the list."""
    found = [_facts(path) for path in buffers(options.dir)]
    if options.json:
        print(json.dumps(found, indent=2))
    elif found:
        print(table([_HEADING, *map(_row, found)], _RIGHT))
    return 0


def _facts(path: Path) -> dict[str, Any]:
    """What there is to say of a buffer."""
    facts: dict[str, Any] = {"path": str(path)}
    try:
        inspection = Inspection(path)
    except OtelShmError as error:
        return {**facts, "state": "unreadable", "why": error_text(error)}
    header = inspection.header
    processes = [lane.pid for lane in inspection.lanes if lane.is_live]
    facts |= {
        "size": header.file_bytes,
        "memory": header.memory_bytes,
        "service": _service(inspection),
        "series": header.statistics.series,
        "processes": processes,
        "collector": inspection.collector_pid,
        "stopped": sorted(filter(is_stopped, {*processes, inspection.collector_pid} - {0, -1})),
        "created_unix_nano": header.created_unix_nano,
    }
    if inspection.is_live:
        return {**facts, "state": "live"}
    why = "no process has it in use" if header.is_of_this_boot else "it is of an earlier boot"
    return {**facts, "state": "stale", "why": why}


def _service(inspection: Inspection) -> str | None:
    try:
        resource = inspection.resource
    except OtelShmError:
        return None
    name = resource.attributes.get(SERVICE_NAME) if resource else None
    return None if name is None else str(name)


def _row(facts: dict[str, Any]) -> list[str]:
    path = printable(facts["path"])
    if facts["state"] == "unreadable":
        return [path, *["-"] * 7, f"unreadable: {facts['why']}"]
    return [
        path,
        bytes_text(facts["size"]),
        bytes_text(facts["memory"]),
        printable(facts["service"] or "-"),
        str(facts["series"]),
        ",".join(map(pid_text, facts["processes"])) or "-",
        pid_text(facts["collector"]),
        time_text(facts["created_unix_nano"]),
        facts["state"],
    ]
