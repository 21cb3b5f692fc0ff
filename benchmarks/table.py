# SPDX-License-Identifier: Apache-2.0
"""The figures as text for people."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import cases
from figures import Figures, Target


def render(figures: Figures, contestants: Sequence[str], targets: Sequence[Target]) -> str:
    """Time of each call, then what it is against others, then the targets."""
    return "\n\n".join(
        [
            _times(figures, contestants),
            *(_ratios(figures, each) for each in contestants if each.startswith("otel_shm")),
            _targets(targets),
        ]
    )


def _times(figures: Figures, contestants: Sequence[str]) -> str:
    lines = [
        [row, *(_time(figures.least(row, contestant)) for contestant in contestants)]
        for row in cases.ROWS
    ]
    note = f"(the {cases.STOCK} cannot bind: its bound rows are its plain calls)"
    return _grid("time a call, least of all rounds", contestants, lines) + f"\n{note}"


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
    rows = [row for row in cases.ROWS if row != cases.LOOP]
    lines = [[row, *(_times_as_much(ratio(row)) for ratio in columns.values())] for row in rows]
    return _grid(f"{contestant}, times", list(columns), lines)


def _targets(targets: Sequence[Target]) -> str:
    words = {True: "pass", False: "FAIL", None: "not measured"}
    lines = ["targets"]
    for target in targets:
        measured = "-" if target.measured is None else f"{target.measured:.4g}{target.unit}"
        bound = f"{'>=' if target.at_least else '<='} {target.limit:g}{target.unit}"
        note = f"  ({target.note})" if target.note else ""
        lines.append(
            f"  {words[target.held]:12}  {target.promise:52}  {measured:>10}  {bound}{note}"
        )
    return "\n".join(lines)


def _grid(title: str, columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    table = [[title, *columns], *lines]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]

    def aligned() -> Iterator[str]:
        for first, *others in table:
            cells = (f"{cell:>{width}}" for cell, width in zip(others, widths[1:], strict=True))
            yield "  ".join([f"{first:<{widths[0]}}", *cells])

    return "\n".join(aligned())


def _time(nanoseconds: float | None) -> str:
    if nanoseconds is None:
        return "-"
    if nanoseconds < 1e3:
        return f"{nanoseconds:.1f} ns"
    if nanoseconds < 1e6:
        return f"{nanoseconds / 1e3:.2f} µs"
    return f"{nanoseconds / 1e6:.2f} ms"


def _times_as_much(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}x" if ratio < 20 else f"{ratio:.0f}x"
