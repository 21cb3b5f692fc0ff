# SPDX-License-Identifier: Apache-2.0
"""The figures of a run: nanoseconds by row and contestant, and the ratios between them."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any

import cases
import rows
from contestant import Allocation


@dataclass
class Figures:
    """Every round's nanoseconds a call; what is compared is the least, which noise cannot lower."""

    rounds: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    statements: dict[tuple[str, str], str] = field(default_factory=dict)
    allocations: dict[str, Allocation] = field(default_factory=dict)

    def add(self, row: str, contestant: str, nanoseconds: float) -> None:
        """Note one round."""
        self.rounds.setdefault((row, contestant), []).append(nanoseconds)

    def least(self, row: str, contestant: str) -> float | None:
        """The quickest round, or None if the contestant has no such call."""
        return min(self.rounds.get((row, contestant), ()), default=None)

    def ratio(self, row: str, contestant: str, other: str) -> float | None:
        """How many times the other's time the contestant takes, loop and look-up included."""
        mine, others = self.least(row, contestant), self.least(row, other)
        return mine / others if mine and others else None

    def net_ratio(self, row: str, contestant: str, other: str) -> float | None:
        """The same with each one's empty loop subtracted: the harder measure."""
        mine, others = self._net(row, contestant), self._net(row, other)
        return mine / others if mine and others else None

    def as_json(self) -> dict[str, Any]:
        """By row and contestant: the statement, and the least and median nanoseconds a call."""
        table: dict[str, dict[str, Any]] = {}
        for (row, contestant), values in self.rounds.items():
            table.setdefault(row, {})[contestant] = {
                "statement": self.statements[row, contestant],
                "least_ns": round(min(values), 3),
                "median_ns": round(statistics.median(values), 3),
                "rounds": len(values),
            }
        return table

    def _net(self, row: str, contestant: str) -> float | None:
        total, loop = self.least(row, contestant), self.least(rows.loop_of(row), contestant)
        return total - loop if total and loop else None


@dataclass(frozen=True)
class Target:
    """A promise about speed; `measured` is None where the run could not tell."""

    promise: str
    limit: float
    unit: str
    measured: float | None
    note: str = ""
    at_least: bool = False

    @property
    def held(self) -> bool | None:
        """Whether the promise is kept."""
        if self.measured is None:
            return None
        return self.measured >= self.limit if self.at_least else self.measured <= self.limit


def targets(figures: Figures) -> list[Target]:
    """The promises of the fast backend."""
    found = [
        _bound_add(figures),
        _against_empty_c(figures, rows.ADD, 1.5),
        _against_empty_c(figures, rows.PREBUILT[3], 4),
        _against_stock(figures, rows.PREBUILT[3], 100),
        _against_empty_c(figures, rows.BOUND_RECORD, 1.6, rows.BOUND_RECORD_VARIED),
        _against_empty_c(figures, rows.BOUND_EXPONENTIAL, 2, rows.BOUND_EXPONENTIAL_VARIED),
        _against_stock(figures, rows.RECORD_PREBUILT, 80),
    ]
    for row, limit, unit, scale in (
        (rows.FIRST_USE, 5, " µs", 1e3),
        (rows.CREATION, 5, " ms", 1e6),
    ):
        least = figures.least(row, cases.FAST)
        found.append(Target(row, limit, unit, least and least / scale))
    # As cheap as the others, but for what one run can tell.
    for row in (rows.DROPPED, rows.FILTERED):
        found.append(Target(f"{row}: times the plain call", 1.05, "x", _of_plain(figures, row)))
    for contestant, where in (
        (cases.FAST, "no span"),
        (cases.FAST_CONTEXT, "no span in a context"),
        (cases.FAST_UNSAMPLED, "a span that is not sampled"),
    ):
        for row in rows.OF_EXEMPLARS:
            if row != rows.LOOP:
                ratio = figures.ratio(row, contestant, cases.FAST_OFF)
                found.append(Target(f"{row}, {where}: times filter off", 1.3, "x", ratio))
    for row, allocation in figures.allocations.items():
        found.append(
            Target(f"{row}: memory blocks kept by 100,000 calls", 0, "", allocation.blocks)
        )
        found.append(
            Target(f"{row}: bytes held at once in 100,000 calls", 0, "", allocation.peak_bytes)
        )
    return found


def _bound_add(figures: Figures) -> Target:
    """What an add itself costs: without looking whether a span is current, which the default does."""
    off = figures.ratio(rows.BOUND_ADD, cases.FAST_OFF, cases.EMPTY_C)
    default = figures.ratio(rows.BOUND_ADD, cases.FAST, cases.EMPTY_C)
    return Target(
        f"{rows.BOUND_ADD}, exemplar filter off: times the {cases.EMPTY_C} call",
        1.3,
        "x",
        off,
        note=f"{default:.2f}x with the default filter" if default else "",
    )


def _against_empty_c(figures: Figures, row: str, limit: float, varied: str | None = None) -> Target:
    """Held against the empty C method of the same signature, called with the same arguments.

    The notes are the harder measures: without the loop, against the shorter signature of a method
    that could take one argument only, and with amounts that vary.
    """
    net = figures.net_ratio(row, cases.FAST, cases.EMPTY_C)
    one = figures.ratio(row, cases.FAST, cases.EMPTY_C_ONE)
    with_varied = figures.ratio(varied, cases.FAST, cases.EMPTY_C) if varied else None
    notes = [f"{net:.2f}x without the loop"] if net else []
    notes += [f"{one:.2f}x of {cases.EMPTY_C_ONE}"] if one else []
    notes += [f"{with_varied:.2f}x with varied amounts"] if with_varied else []
    return Target(
        f"{row}: times the {cases.EMPTY_C} call",
        limit,
        "x",
        figures.ratio(row, cases.FAST, cases.EMPTY_C),
        note=", ".join(notes),
    )


def _against_stock(figures: Figures, row: str, limit: float) -> Target:
    return Target(
        f"{row}: times as fast as the {cases.STOCK}",
        limit,
        "x",
        figures.ratio(row, cases.STOCK, cases.FAST),
        at_least=True,
    )


def _of_plain(figures: Figures, row: str) -> float | None:
    """A row of a view against the same call of an instrument without one."""
    mine = figures.least(row, cases.FAST)
    plain = figures.least(rows.PREBUILT[3], cases.FAST)
    return mine / plain if mine and plain else None
