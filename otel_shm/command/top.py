# SPDX-License-Identifier: Apache-2.0
"""`otel-shm top`: what happens in a buffer, live in the terminal."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, NamedTuple

from otel_shm import buffer as numbers
from otel_shm.command.arguments import seconds
from otel_shm.command.texts import (
    KINDS,
    attributes_text,
    bytes_text,
    number_text,
    pid_text,
    printable,
    time_text,
)
from otel_shm.errors import OtelShmError
from otel_shm.inspection import Inspection
from otel_shm.readings import Row

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

NAME = "top"
SUMMARY = "show what happens in a buffer, live"
DESCRIPTION = (
    "Shows metrics with their totals and rates, busiest first, the processes, and what overflowed, until "
    "it is interrupted. Takes no part in the buffer and writes nothing to it."
)
_WIDTH = 160
_HEAD_LINES = 9  # of a frame, besides the lines of metrics


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What it takes."""
    parser.add_argument("path", metavar="PATH", help="of a buffer")
    parser.add_argument("--once", action="store_true", help="print one frame")
    parser.add_argument("--series", action="store_true", help="a line a series, not a metric")
    parser.add_argument(
        "--interval",
        type=seconds(0.05, 3600),
        default=1.0,
        metavar="SECONDS",
        help="of a frame (default: 1)",
    )


def work(options: argparse.Namespace) -> int:
    """Shows it until it is interrupted or the buffer is removed."""
    try:
        from rich.console import Console
        from rich.live import Live
    except ImportError:
        raise OtelShmError("it needs rich, which comes with: pip install 'otel_shm[cli]'") from None
    # In a file or a pipe nothing is cut off at the width of a terminal.
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else _WIDTH
    console = Console(highlight=False, width=width)
    view = View(Inspection(options.path), by_series=options.series)
    if options.once:
        console.print(view.frame(None))
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the terminal becomes what it was
    try:
        with Live(console=console, screen=console.is_terminal, auto_refresh=False) as live:
            while view.is_there:
                live.update(view.frame(_room(console)), refresh=True)
                sleep(options.interval)
    except KeyboardInterrupt:
        return 0
    raise OtelShmError(f"buffer {options.path!r} was removed")


def _room(console: Console) -> int | None:
    """Lines for metrics; None: as many as there are."""
    return max(1, console.height - _HEAD_LINES) if console.is_terminal else None


class Line(NamedTuple):
    """A metric or a series in a frame."""

    name: str
    kind: str
    series: int
    total: float | None  # of what was added, or a last value if there is only one
    measurements: int  # of a histogram
    rate: float | None  # a second; None where it is not known yet, or has no meaning


class View:
    """Frames of a buffer; rates are of the time since the frame before.

    Args:
        inspection: of the buffer.
        by_series: a line for each series.
    """

    def __init__(self, inspection: Inspection, *, by_series: bool = False) -> None:
        self._inspection = inspection
        self._by_series = by_series
        self._before: dict[Any, float] = {}
        self._at = 0.0

    @property
    def is_there(self) -> bool:
        """False when the file has been removed."""
        return self._inspection.is_at_its_path

    def lines(self) -> list[Line]:
        """What there is now, busiest first."""
        now = monotonic()
        elapsed, self._at = now - self._at, now
        grouped: dict[Any, list[tuple[Row, str]]] = {}
        for row in (*self._inspection.scan(), *self._inspection.each()):
            if row.value is None:
                continue
            key = (row.stream, row.series, row.generation) if self._by_series else row.stream
            attributes = ""
            if self._by_series:
                attributes = attributes_text(
                    self._inspection.catalog.attributes(row.series, row.generation)
                )
            grouped.setdefault(key, []).append((row, attributes))
        before, self._before = self._before, {}
        made = [self._line(key, group, before, elapsed) for key, group in grouped.items()]
        return sorted(made, key=lambda line: (-abs(line.rate or 0), line.name))

    def _line(
        self,
        key: Any,
        group: list[tuple[Row, str]],
        before: dict[Any, float],
        elapsed: float,
    ) -> Line:
        first, attributes = group[0]
        stream = self._inspection.catalog.stream(first.stream)
        name = printable(stream.identity.metric.name) if stream else "unreadable"
        values = [row.value for row, _ in group if row.value is not None]
        measurements = sum(row.measurements for row, _ in group)
        is_last = first.aggregation == numbers.AGGREGATION_LAST
        total = sum(values) if not is_last else values[0] if len(values) == 1 else None
        rate = None
        if not is_last:
            growing = first.aggregation != numbers.AGGREGATION_SUM
            self._before[key] = measurements if growing else sum(values)
            if key in before and elapsed > 0:
                rate = (self._before[key] - before[key]) / elapsed
        series = len({row.series for row, _ in group})
        return Line(name + attributes, KINDS[first.kind], series, total, measurements, rate)

    def frame(self, room: int | None) -> RenderableType:
        """What is to be shown.

        Args:
            room: lines for metrics; None: all.
        """
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        lines = self.lines()
        metrics = Table(expand=True, box=None, pad_edge=False, header_style="bold reverse")
        metrics.add_column(
            "SERIES OF METRIC" if self._by_series else "METRIC", ratio=1, no_wrap=True
        )
        metrics.add_column("KIND", no_wrap=True)
        for heading in ("SERIES", "COUNT", "TOTAL", "RATE/S"):
            metrics.add_column(heading, justify="right", no_wrap=True)
        for line in lines[:room]:
            metrics.add_row(
                Text(line.name),
                line.kind,
                str(line.series),
                number_text(line.measurements) if line.measurements else "",
                number_text(line.total),
                number_text(None if line.rate is None else round(line.rate, 1)),
            )
        head = [Text(line, no_wrap=True, overflow="ellipsis") for line in self._head()]
        hidden = len(lines) - len(lines[:room])
        parts: list[RenderableType] = [*head, Text(""), metrics]
        if hidden:
            parts.append(Text(f"... and {hidden} more"))
        return Group(*parts)

    def _head(self) -> list[str]:
        inspection = self._inspection
        header, lanes = inspection.header, inspection.lanes
        statistics = header.statistics
        live = [pid_text(lane.pid) for lane in lanes if lane.is_live]
        collections = f"{header.collection:,} collections, {statistics.collector_changes:,} changes"
        series = f"{statistics.series:,} of {statistics.series_capacity:,}"
        return [
            f"buffer      {printable(inspection.path)}  created {time_text(header.created_unix_nano)}",
            f"processes   {len(live)} live: {' '.join(live) or '-'}  ({statistics.attached:,} ever)",
            f"collector   {pid_text(inspection.collector_pid)}  {collections}",
            f"series      {series}, {bytes_text(header.memory_bytes)} in memory",
            f"overflowed  {statistics.overflowed:,} measurements, {statistics.dropped:,} dropped",
        ]
