# SPDX-License-Identifier: Apache-2.0
"""What each worker of a storm did, known exactly although it may be killed at any instruction.

A worker has a row of words in a file that all map. Around each update it writes how many it has begun
and how many it has done; so whenever it ends, at most one update is in doubt. The n-th update of an
instrument is always by the same amount, so these two numbers say what the worker's share is.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import NamedTuple

# Words at the beginning of a row.
READY = 0  # 1: the worker may do updates, and its lane is known
LANE = 1
ORDER = 2  # by the test: RUN, LEAVE, or the number of a pause
PAUSED = 3  # the last pause that the worker came to
STEPS = 4  # grows: what the worker's observables are made of
_HEAD = 8

RUN, LEAVE = 0, -1

# Words of an instrument that is measured: numbers of updates, and when the last ones were.
BEGUN, DONE, BEGUN_EVEN, BEGUN_ODD, DONE_AT = range(5)
_PER_MEASURED = 5
# Words of an observable: steps + 1 that the callback told last, and those that are in the buffer.
TOLD, PUBLISHED = range(2)
_PER_OBSERVED = 2

WORKERS = 512
_ROW = 256


class Spec(NamedTuple):
    """An instrument of the storm."""

    kind: str
    rule: str
    number: str  # "int" or "float"

    @property
    def name(self) -> str:
        """Its name."""
        return f"{self.kind}.{self.rule}.{self.number}"

    @property
    def is_gauge(self) -> bool:
        """True if each value stands for itself and says whose it is."""
        return "gauge" in self.kind


_GAUGE_RULES = ("last", "one", "min", "max", "live_sum", "each")
_OBSERVED_SUM_RULES = ("sum", "live_sum", "one", "min", "max")
_KINDS = {
    "counter": ("sum", "live_sum"),
    "updown": ("live_sum", "sum"),
    "gauge": _GAUGE_RULES,
    "explicit": ("sum",),
    "exponential": ("sum",),
}
_OBSERVED_KINDS = {
    "observable_counter": _OBSERVED_SUM_RULES,
    "observable_updown": _OBSERVED_SUM_RULES,
    "observable_gauge": _GAUGE_RULES[1:],
}


def _specs(kinds: dict[str, tuple[str, ...]]) -> list[Spec]:
    return [
        Spec(kind, rule, number)
        for kind, rules in kinds.items()
        for rule in rules
        for number in ("int", "float")
    ]


MEASURED = _specs(_KINDS)
OBSERVED = _specs(_OBSERVED_KINDS)
SPECS = {spec.name: spec for spec in (*MEASURED, *OBSERVED)}
assert _HEAD + _PER_MEASURED * len(MEASURED) + _PER_OBSERVED * len(OBSERVED) <= _ROW

BOUNDARIES = (1.0, 5.0, 50.0)
# All are multiples of 0.5, so that no sum of floats is rounded; no cycle adds up to nothing.
_CYCLES: dict[str, tuple[float, ...]] = {
    "counter": (1, 2, 0, 5, 3),
    "updown": (5, -3, 1, -2, 4, -4),
    "explicit": (1, 3, 0, 40, 1000, 7),
    "exponential": (1, 3, 0, 40, 1000, 7),
}
_PREFIXES = {
    kind: [sum(cycle[:n]) for n in range(len(cycle) + 1)] for kind, cycle in _CYCLES.items()
}
_OWNER_BITS = 20  # more updates or steps no worker does
OWN_VALUES = 1 << _OWNER_BITS


def cycle_of(spec: Spec) -> tuple[float, ...]:
    """What is measured again and again; not of gauges."""
    scale = 1 if spec.number == "int" else 0.5
    return tuple(amount * scale for amount in _CYCLES[spec.kind])


def own_value(spec: Spec, worker: int, number: int) -> int | float:
    """A value that says which worker's it is, and the how manieth; they grow."""
    value = worker << _OWNER_BITS | number
    if spec.kind == "observable_updown":
        value = -value
    return value if spec.number == "int" else value + 0.5


def owner_of(spec: Spec, value: float) -> tuple[int, int]:
    """The worker and the number that `own_value` made a value of."""
    whole = int(value if spec.number == "int" else value - 0.5)
    return divmod(-whole if spec.kind == "observable_updown" else whole, OWN_VALUES)


def amount_of(spec: Spec, worker: int, number: int) -> int | float:
    """What a worker's n-th update measures, from 1 on."""
    if spec.is_gauge:
        return own_value(spec, worker, number)
    cycle = _CYCLES[spec.kind]
    amount = cycle[(number - 1) % len(cycle)]
    return amount if spec.number == "int" else amount * 0.5


def summed(spec: Spec, updates: int) -> int | float:
    """The sum of the first updates; not of gauges."""
    prefixes = _PREFIXES[spec.kind]
    cycles, rest = divmod(updates, len(prefixes) - 1)
    whole = cycles * prefixes[-1] + prefixes[rest]
    return whole if spec.number == "int" else whole * 0.5


class Row:
    """The words of one worker, for itself to write."""

    def __init__(self, words: memoryview) -> None:
        self.words = words

    @staticmethod
    def of_measured(place: int) -> int:
        """The first word of `MEASURED[place]`."""
        return _HEAD + _PER_MEASURED * place

    @staticmethod
    def of_observed(place: int) -> int:
        """The first word of `OBSERVED[place]`."""
        return _HEAD + _PER_MEASURED * len(MEASURED) + _PER_OBSERVED * place


class Entry:
    """What was in a worker's row at one moment."""

    def __init__(self, number: int, words: list[int]) -> None:
        self.number = number
        self._words = words

    @property
    def is_ready(self) -> bool:
        """True if it may do updates."""
        return self._words[READY] == 1

    @property
    def lane(self) -> int:
        """That of its slots; 0 is shared by those for whom there was none left."""
        return self._words[LANE]

    @property
    def steps(self) -> int:
        """What its observables are made of."""
        return self._words[STEPS]

    def updates(self, place: int) -> tuple[int, int]:
        """How many of `MEASURED[place]` it has done and begun."""
        first = Row.of_measured(place)
        return self._words[first + DONE], self._words[first + BEGUN]

    def times(self, place: int, update: int) -> tuple[int, int]:
        """When the update began, which is one of the last two, and when the last known one was over."""
        first = Row.of_measured(place)
        return self._words[first + BEGUN_EVEN + update % 2], self._words[first + DONE_AT]

    def told(self, place: int) -> tuple[int, int]:
        """Steps + 1 of `OBSERVED[place]` that are surely in the buffer, and that may be; 0: none."""
        first = Row.of_observed(place)
        return self._words[first + PUBLISHED], self._words[first + TOLD]


class Ledger:
    """The rows of all workers.

    Args:
        file: that all map; made if there is none.
    """

    def __init__(self, file: Path) -> None:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
        os.ftruncate(descriptor, WORKERS * _ROW * 8)
        self._words = memoryview(mmap.mmap(descriptor, 0)).cast("q")
        os.close(descriptor)

    def row(self, worker: int) -> Row:
        """The row of a worker; they are numbered from 1."""
        return Row(self._words[worker * _ROW : (worker + 1) * _ROW])

    def entry(self, worker: int) -> Entry:
        """What is in it now.

        Each update's words are read in the opposite order to that in which they are written, so it is
        never seen done before it is seen begun.
        """
        words = self.row(worker).words
        done = [words[Row.of_measured(place) + DONE] for place in range(len(MEASURED))]
        published = [words[Row.of_observed(place) + PUBLISHED] for place in range(len(OBSERVED))]
        copy = words.tolist()
        for place, number in enumerate(done):
            copy[Row.of_measured(place) + DONE] = number
        for place, number in enumerate(published):
            copy[Row.of_observed(place) + PUBLISHED] = number
        return Entry(worker, copy)
