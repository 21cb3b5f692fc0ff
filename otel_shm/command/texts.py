# SPDX-License-Identifier: Apache-2.0
"""How things are said on a terminal: names from a file that may be hostile, sizes, times, tables."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from otel_shm.buffer import (
    COUNTER,
    GAUGE,
    HISTOGRAM,
    OBSERVABLE_COUNTER,
    OBSERVABLE_GAUGE,
    OBSERVABLE_UP_DOWN_COUNTER,
    UP_DOWN_COUNTER,
)
from otel_shm.command.stopped import is_stopped
from otel_shm.errors import OtelShmError

#: Instrument kinds by number.
KINDS: dict[int, str] = {
    COUNTER: "Counter",
    UP_DOWN_COUNTER: "UpDownCounter",
    GAUGE: "Gauge",
    HISTOGRAM: "Histogram",
    OBSERVABLE_COUNTER: "ObservableCounter",
    OBSERVABLE_UP_DOWN_COUNTER: "ObservableUpDownCounter",
    OBSERVABLE_GAUGE: "ObservableGauge",
}


def say(command: str, text: str) -> None:
    """Tells whoever runs a command something, beside its output."""
    print(f"otel-shm {command}: {printable(text)}", file=sys.stderr, flush=True)


def error_text(error: OtelShmError) -> str:
    """What is said of an error: that of a system call has a number in its own text."""
    return printable(str(error.args[-1]))


def printable(text: str) -> str:
    """The text without what could change a terminal, or hide in it."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def value_text(value: Any) -> str:
    """An attribute's value."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, str):
        return printable(json.dumps(value, ensure_ascii=False))
    if isinstance(value, tuple):
        return f"[{', '.join(map(value_text, value))}]"
    if isinstance(value, dict):
        return attributes_text(value)
    return repr(value)


def attributes_text(attributes: dict[str, Any] | None) -> str:
    """Attributes, as {key="value", other=1}."""
    if attributes is None:
        return "{unreadable}"
    pairs = (f"{printable(key)}={value_text(value)}" for key, value in attributes.items())
    return "{" + ", ".join(pairs) + "}"


def number_text(number: float | None) -> str:
    """A number with separators; "-" for none."""
    if number is None:
        return "-"
    if isinstance(number, int):
        return f"{number:,}"
    if not math.isfinite(number) or abs(number) >= 1e15 or 0 < abs(number) < 1e-3:
        return f"{number:g}"
    return f"{number:,.3f}".rstrip("0").rstrip(".")


def bytes_text(count: int) -> str:
    """A size in bytes."""
    size, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"


def time_text(unix_nano: int) -> str:
    """A time in nanoseconds since 1970, in local time; "-" for none."""
    if not unix_nano:
        return "-"
    try:
        return datetime.fromtimestamp(unix_nano / 1e9).astimezone().strftime("%Y-%m-%d %H:%M:%S %z")
    except (OverflowError, OSError, ValueError):
        return str(unix_nano)


def pid_text(pid: int) -> str:
    """A process; "?" for one in a pid namespace that is not to be seen from here."""
    if pid <= 0:
        return "?" if pid else "-"
    return f"{pid} (stopped)" if is_stopped(pid) else str(pid)


def process_text(pid: int) -> str:
    """A process, in a sentence."""
    if pid < 0:
        return "a process of another container (pid namespace)"
    return f"process {pid_text(pid)}" if pid else "another process"


def table(rows: Sequence[Sequence[str]], right: frozenset[int] = frozenset()) -> str:
    """Rows in columns, the first row the heading.

    Args:
        rows: of cells.
        right: numbers of the columns that are aligned there.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
