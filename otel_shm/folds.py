# SPDX-License-Identifier: Apache-2.0
"""Fold rules: how the shares of many processes become one value.

sum        all processes, dead ones included
live_sum   the live ones: what a dead one left is dropped
last       the value that any process set last
one        the value of one live process
min, max   the least or greatest value of the live ones
each       a point a live process, told apart by the attribute otel_shm.worker, a small number

With one process every rule gives what the SDK gives. A rule is given where an instrument is made, or by
name to the provider, or by `OTEL_SHM_FOLDS`: `queue.*=max,jobs.active=sum`. It is kept in the buffer, so
the first process's rule stands for all.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from otel_shm import buffer as numbers

OTEL_SHM_FOLDS = "OTEL_SHM_FOLDS"
#: The attribute that tells the points of a fold "each" apart.
WORKER = "otel_shm.worker"

NUMBERS: dict[str, int] = {
    "sum": numbers.SUM,
    "live_sum": numbers.LIVE_SUM,
    "last": numbers.LAST,
    "one": numbers.ONE,
    "min": numbers.LOWEST,
    "max": numbers.HIGHEST,
    "each": numbers.EACH,
}
NAMES = {number: name for name, number in NUMBERS.items()}

# The first one is the default.
_RULES: dict[int, tuple[str, ...]] = {
    numbers.COUNTER: ("sum", "live_sum"),
    numbers.UP_DOWN_COUNTER: ("live_sum", "sum"),
    numbers.HISTOGRAM: ("sum",),
    numbers.GAUGE: ("last", "one", "min", "max", "live_sum", "each"),
    numbers.OBSERVABLE_COUNTER: ("sum", "live_sum", "one", "min", "max"),
    numbers.OBSERVABLE_UP_DOWN_COUNTER: ("live_sum", "sum", "one", "min", "max"),
    numbers.OBSERVABLE_GAUGE: ("one", "min", "max", "live_sum", "each"),
}
_OBSERVABLES = (
    numbers.OBSERVABLE_COUNTER,
    numbers.OBSERVABLE_UP_DOWN_COUNTER,
    numbers.OBSERVABLE_GAUGE,
)
# What is observed under these names is true of the machine or the buffer, not of a process.
_OF_ONE = ("system.", "otel_shm.")
# Gauges of which a service has as much as its processes together: `process.cpu.utilization`.
_OF_ALL = "process.*utilization"
_HISTOGRAMS = (numbers.AGGREGATION_EXPLICIT, numbers.AGGREGATION_EXPONENTIAL)


def rules_of(kind: int) -> tuple[str, ...]:
    """The rules that instruments of a kind may have."""
    return _RULES[kind]


def default_of(name: str, kind: int) -> str:
    """The rule of an instrument for which nobody wishes another."""
    if kind in _OBSERVABLES and name.startswith(_OF_ONE):
        return "one"
    if kind == numbers.OBSERVABLE_GAUGE and fnmatchcase(name, _OF_ALL):
        return "live_sum"
    return _RULES[kind][0]


def of_stream(fold: int, kind: int, aggregation: int) -> int:
    """How the lanes of a stream fold.

    Args:
        fold, kind: of its instrument.
        aggregation: of the stream; a view may have another than the instrument's own.
    """
    if aggregation in _HISTOGRAMS:
        return numbers.SUM
    is_gauge = kind in (numbers.GAUGE, numbers.OBSERVABLE_GAUGE)
    if aggregation == numbers.AGGREGATION_LAST and not is_gauge:
        return numbers.ONE if kind in _OBSERVABLES else numbers.LAST
    if aggregation == numbers.AGGREGATION_SUM and kind == numbers.GAUGE:
        return numbers.SUM  # of all that was ever set
    if aggregation == numbers.AGGREGATION_SUM and fold == numbers.EACH:
        return numbers.ONE
    return fold


class FoldRules:
    """What a user wishes by name.

    Args:
        folds: rules by name of the instrument, with the wildcards `*` and `?`; the first that matches
            holds. Those of `OTEL_SHM_FOLDS` come after them.

    Raises:
        ValueError: a rule is none of the above; the text names it.
    """

    def __init__(self, folds: Mapping[str, str] | None = None) -> None:
        self._wishes = [*_checked((folds or {}).items(), "folds"), *_from_environment()]

    def wish(self, name: str) -> str | None:
        """The rule that is wished for an instrument; None: the default."""
        for pattern, rule in self._wishes:
            if fnmatchcase(name, pattern):
                return rule
        return None


def check(rule: str, name: str, kind: int, kind_name: str) -> None:
    """Says what is wrong with a rule that was given where an instrument was made.

    Raises:
        ValueError: there is no such rule, or not for this kind of instrument.
    """
    if rule not in _RULES[kind]:
        raise ValueError(
            f"{kind_name} {name!r}: the fold must be one of {', '.join(_RULES[kind])}, not {rule!r}"
        )


def _checked(wishes: Iterable[tuple[str, str]], where: str) -> list[tuple[str, str]]:
    checked = []
    for pattern, rule in wishes:
        if rule not in NUMBERS:
            raise ValueError(
                f"{where}: {pattern}={rule}: the rule must be one of {', '.join(NUMBERS)}"
            )
        checked.append((str(pattern).lower(), rule))
    return checked


def _from_environment() -> list[tuple[str, str]]:
    wishes = []
    for part in os.environ.get(OTEL_SHM_FOLDS, "").split(","):
        if not part.strip():
            continue
        pattern, equals, rule = part.partition("=")
        if not equals or not pattern.strip():
            raise ValueError(f"{OTEL_SHM_FOLDS}: {part.strip()!r} must be like queue.*=max")
        wishes.append((pattern.strip(), rule.strip()))
    return _checked(wishes, OTEL_SHM_FOLDS)
