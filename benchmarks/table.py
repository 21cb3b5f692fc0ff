# SPDX-License-Identifier: Apache-2.0
"""The figures as text for people."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import cases
import rows
from figures import Figures, Target


def render(figures: Figures, contestants: Sequence[str], targets: Sequence[Target]) -> str:
    """Time of each call, then what it is against others, then the targets."""
    main = [each for each in contestants if each not in cases.FOR_EXEMPLARS]
    return "\n\n".join(
        [
            _times(figures, main),
            *(_ratios(figures, each) for each in main if each.startswith("otel_shm")),
            _exemplars(figures),
            _targets(targets),
        ]
    )


def _times(figures: Figures, contestants: Sequence[str]) -> str:
    lines = [
        [row, *(as_time(figures.least(row, contestant)) for contestant in contestants)]
        for row in rows.ALL
    ]
    note = f"(the {cases.STOCK} cannot bind: its bound rows are its plain calls)"
    return grid("time a call, least of all rounds", contestants, lines) + f"\n{note}"


def _ratios(figures: Figures, contestant: str) -> str:
    columns: dict[str, Callable[[str], float | None]] = {
        "of empty C": lambda row: figures.ratio(row, contestant, cases.EMPTY_C),
        "without loop": lambda row: figures.net_ratio(row, contestant, cases.EMPTY_C),
        "of empty C, 1 arg": lambda row: figures.ratio(row, contestant, cases.EMPTY_C_ONE),
        "of empty Python": lambda row: figures.ratio(row, contestant, cases.EMPTY_PYTHON),
        "stock / this": lambda row: figures.ratio(row, cases.STOCK, contestant),
        "prometheus / this": lambda row: figures.ratio(row, cases.PROMETHEUS, contestant),
        "prometheus mp / this": lambda row: figures.ratio(row, cases.PROMETHEUS_FILES, contestant),
    }
    lines = [
        [row, *(as_ratio(ratio(row)) for ratio in columns.values())]
        for row in rows.ALL
        if row != rows.loop_of(row)
    ]
    return grid(f"{contestant}, times", list(columns), lines)


def _exemplars(figures: Figures) -> str:
    """What it costs that a measurement may become an exemplar: beside the first of each package."""
    columns = {
        "filter off": (cases.FAST_OFF, cases.FAST_OFF),
        "default": (cases.FAST, cases.FAST_OFF),
        "in a context": (cases.FAST_CONTEXT, cases.FAST_OFF),
        "span, not sampled": (cases.FAST_UNSAMPLED, cases.FAST_OFF),
        "span, sampled": (cases.FAST_SAMPLED, cases.FAST_OFF),
        "stock SDK: default": (cases.STOCK, cases.STOCK),
        "stock SDK: span, sampled": (cases.STOCK_SAMPLED, cases.STOCK),
    }

    def cell(row: str, contestant: str, first: str) -> str:
        ratio = as_ratio(figures.ratio(row, contestant, first))
        return f"{as_time(figures.least(row, contestant))} {ratio:>6}"

    lines = [
        [row, *(cell(row, *column) for column in columns.values())]
        for row in rows.OF_EXEMPLARS
        if row != rows.LOOP
    ]
    return grid("exemplars: time, times the first", list(columns), lines)


def _targets(targets: Sequence[Target]) -> str:
    words = {True: "pass", False: "FAIL", None: "not measured"}
    widest = max(len(target.promise) for target in targets)
    lines = ["targets"]
    for target in targets:
        measured = "-" if target.measured is None else f"{target.measured:.4g}{target.unit}"
        bound = f"{'>=' if target.at_least else '<='} {target.limit:g}{target.unit}"
        note = f"  ({target.note})" if target.note else ""
        lines.append(
            f"  {words[target.held]:12}  {target.promise:{widest}}  {measured:>10}  {bound}{note}"
        )
    return "\n".join(lines)


def grid(title: str, columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table: the first column to the left, the others to the right."""
    table = [[title, *columns], *lines]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]

    def aligned() -> Iterator[str]:
        for first, *others in table:
            cells = (f"{cell:>{width}}" for cell, width in zip(others, widths[1:], strict=True))
            yield "  ".join([f"{first:<{widths[0]}}", *cells])

    return "\n".join(aligned())


def as_time(nanoseconds: float | None) -> str:
    """A time in the unit that suits it."""
    if nanoseconds is None:
        return "-"
    if nanoseconds < 1e3:
        return f"{nanoseconds:.1f} ns"
    if nanoseconds < 1e6:
        return f"{nanoseconds / 1e3:.2f} µs"
    return f"{nanoseconds / 1e6:.2f} ms"


def as_ratio(ratio: float | None) -> str:
    """A ratio with about three digits."""
    return "-" if ratio is None else f"{ratio:.2f}x" if ratio < 20 else f"{ratio:.0f}x"
