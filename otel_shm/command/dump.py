# SPDX-License-Identifier: Apache-2.0
"""`otel-shm dump`: everything that is in a buffer, as text or JSON."""

from __future__ import annotations

import argparse
import base64
import json
import math
from collections.abc import Iterator
from typing import Any

from otel_shm.command.contents import contents
from otel_shm.command.texts import (
    attributes_text,
    bytes_text,
    number_text,
    pid_text,
    printable,
    table,
    time_text,
)
from otel_shm.inspection import Inspection

NAME = "dump"
SUMMARY = "print everything that is in a buffer"
DESCRIPTION = (
    "Prints a buffer: header, resource, lanes, and by scope and instrument every series with its value "
    "and the shares of the lanes in it. Takes no part in the buffer and writes nothing to it."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What it takes."""
    parser.add_argument("path", metavar="PATH", help="of a buffer")
    parser.add_argument("--json", action="store_true", help="print JSON")


def work(options: argparse.Namespace) -> int:
    """Prints it."""
    found = contents(Inspection(options.path))
    if options.json:
        print(json.dumps(_as_json(found), indent=2, allow_nan=False))
    else:
        print("\n".join(_lines(found)))
    return 0


def _as_json(value: Any) -> Any:
    """What JSON cannot say is said as OTLP/JSON says it."""
    if isinstance(value, dict):
        return {key: _as_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_json(item) for item in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _lines(found: dict[str, Any]) -> Iterator[str]:
    header, statistics = found["header"], found["statistics"]
    yield f"buffer      {printable(found['path'])}"
    yield f"created     {time_text(header['created_unix_nano'])}" + (
        "" if header["is_of_this_boot"] else ", in an earlier boot"
    )
    yield (
        f"size        {bytes_text(header['file_bytes'])}, {bytes_text(header['memory_bytes'])} of it in "
        f"memory; version {header['version']}"
    )
    yield f"series      {statistics['series']:,} of {statistics['series_capacity']:,}"
    yield (
        f"overflowed  {statistics['overflowed']:,} measurements; dropped {statistics['dropped']:,}"
    )
    yield (
        f"collector   pid {pid_text(found['collector']['pid'])}, {found['collector']['state']}; changed "
        f"{statistics['collector_changes']:,} times, {header['collection']:,} collections"
    )
    live = sum(lane["is_live"] for lane in found["lanes"])
    yield f"processes   {live} live, {statistics['attached']:,} ever"
    yield ""
    yield "resource"
    for key, value in (found["resource"] or {"attributes": {}})["attributes"].items():
        yield f"  {attributes_text({key: value})[1:-1]}"
    yield ""
    yield from _lane_lines(found["lanes"])
    for reader in found["delta_readers"]:
        yield (
            f"delta reader {reader['number']}: {printable(reader['name'])}, {reader['collections']:,} "
            f"collections, the last {time_text(reader['last_unix_nano'])}"
        )
    for scope in found["scopes"]:
        yield ""
        version = f" {printable(scope['version'])}" if scope["version"] else ""
        yield f"scope {printable(scope['name'])}{version} {attributes_text(scope['attributes'])}"
        for instrument in scope["instruments"]:
            yield from _instrument_lines(instrument)


def _lane_lines(lanes: list[dict[str, Any]]) -> Iterator[str]:
    if not lanes:
        return
    rows = [["LANE", "PID", "STATE", "OWNERS", "ANSWERS"]]
    rows += [
        [
            str(lane["number"]),
            pid_text(lane["pid"]),
            "live" if lane["is_live"] else "dead",
            str(lane["generation"]),
            "yes" if lane["answers"] else "no",
        ]
        for lane in lanes
    ]
    yield from table(rows, frozenset({0, 1, 3})).splitlines()


def _instrument_lines(instrument: dict[str, Any]) -> Iterator[str]:
    unit = f" [{printable(instrument['unit'])}]" if instrument["unit"] else ""
    description = printable(instrument["description"])
    name = printable(instrument["name"]) or "(unreadable)"
    yield (
        f"  {instrument['kind']} {name}{unit}, fold {instrument['fold']}"
        + (f": {description}" if description else "")
    )
    for stream in instrument["streams"]:
        other = "" if stream["name"] == instrument["name"] else f" {printable(stream['name'])}"
        yield (
            f"    stream{other}: {stream['aggregation']}, {stream['series_count']:,} of "
            f"{stream['series_limit']:,} series"
        )
        for series in stream["series"]:
            yield f"      {attributes_text(series['attributes'])}  {_value(series)}"
            if series["lanes"]:
                shares = (
                    f"lane {lane}: {_value(share)}" for lane, share in series["lanes"].items()
                )
                yield f"        {'; '.join(shares)}"


def _value(of: dict[str, Any]) -> str:
    """A value, or what a histogram comes to."""
    if "count" not in of:
        return number_text(of["value"])
    text = f"count {of['count']:,}, sum {number_text(of['sum'])}"
    if of["min"] is not None:
        text += f", min {number_text(of['min'])}, max {number_text(of['max'])}"
    return text
