# SPDX-License-Identifier: Apache-2.0
"""A process for each contestant: it waits, and times one loop of one case whenever it is asked."""

from __future__ import annotations

import multiprocessing
import sys
import time
import tracemalloc
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from timeit import Timer
from typing import Any, NamedTuple

from cases import Case, MakeCases

ALLOCATION_CALLS = 100_000


class Allocation(NamedTuple):
    """What 100,000 calls left allocated and the most they had at once, less what the loop has."""

    blocks: int
    peak_bytes: int


class Contestant:
    """The asking side; one process at a time runs, because only one is ever asked."""

    def __init__(
        self,
        name: str,
        make: MakeCases,
        folder: Path,
        seconds: float,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.name = name
        folder.mkdir()
        # Spawned, not forked: nothing is shared but the code, and the environment is its own.
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, folder, seconds, clock))
        self._process.start()
        theirs.close()
        # The statement of each row it takes part in, or why it does not take part at all.
        self.statements: dict[str, str] = {}
        self.absence: str | None = None
        answer = self._connection.recv()
        if isinstance(answer, str):
            self.absence = answer
        else:
            self.statements = answer

    def time(self, row: str) -> float:
        """Nanoseconds a call, over one loop."""
        return float(self._ask("time", row))

    def allocation(self, row: str) -> Allocation:
        """What the calls of a row allocate."""
        return Allocation(*self._ask("allocation", row))

    def close(self) -> None:
        """End the process."""
        if self._process.is_alive():
            self._connection.send(None)
        self._process.join()

    def _ask(self, what: str, row: str) -> Any:
        self._connection.send((what, row))
        return self._connection.recv()


def _serve(
    connection: Connection,
    make: MakeCases,
    folder: Path,
    seconds: float,
    clock: Callable[[], float],
) -> None:
    try:
        cases = make(folder)
    except ImportError as error:
        connection.send(str(error))
        return
    connection.send({row: case.statement for row, case in cases.by_row.items()})
    runs = {
        row: _Run(
            case, Timer(case.statement, case.setup, clock, globals=dict(cases.names)), seconds
        )
        for row, case in cases.by_row.items()
    }
    while (question := connection.recv()) is not None:
        what, row = question
        connection.send(getattr(runs[row], what)())


class _Run:
    """The loop of one case."""

    def __init__(self, case: Case, timer: Timer, seconds: float) -> None:
        self._case = case
        self._timer = timer
        self._seconds = seconds
        self._number = 1 if case.once else 0

    def time(self) -> float:
        if not self._number:
            self._number = self._turns()
        return self._timer.timeit(self._number) / self._number / self._case.calls * 1e9

    def allocation(self) -> Allocation:
        calls, loop = _allocation(self._timer), _allocation(Timer("pass"))
        return Allocation(calls.blocks - loop.blocks, calls.peak_bytes - loop.peak_bytes)

    def _turns(self) -> int:
        """As many turns of the loop as take about `seconds`.

        What `Timer.autorange` does for a fixed 0.2 seconds: many short loops in turn with the
        other contestants find the quiet moments of a busy machine better than a few long ones. A
        loop that was interrupted tells nothing: of three the quickest counts.
        """
        number, taken = 1, 0.0
        while taken < self._seconds / 10:
            number *= 10
            taken = min(self._timer.repeat(3, number))
        return max(1, round(number * self._seconds / taken))


def _allocation(timer: Timer) -> Allocation:
    """What a loop allocates, in Python's own allocators."""
    timer.timeit(ALLOCATION_CALLS)
    blocks = sys.getallocatedblocks()
    timer.timeit(ALLOCATION_CALLS)
    blocks = sys.getallocatedblocks() - blocks
    # Blocks that are kept show in the count; one that lives no longer than a call shows here.
    tracemalloc.start()
    timer.timeit(1)
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    timer.timeit(ALLOCATION_CALLS)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return Allocation(blocks, peak - before)
