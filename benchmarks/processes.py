# SPDX-License-Identifier: Apache-2.0
"""Times many processes: adds a second together, and collections after many restarts of workers.

    python benchmarks/processes.py [--json FOLDER] [--quick]

This package, prometheus_client's multi-process mode and the stock SDK run in turn, round by round.
Adds are timed by the clock from the word to the last worker's last add, so other programs on the
machine take their share of all; beside it stands the processor time of an add, which they do not
lengthen so much. Collections are timed in processor time. The total of all processes must be exact.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import adding
import machine
import restarts
from contestant import Contestant
from figures import Figures
from table import as_ratio, as_time, grid

MEMORY = Path("/dev/shm")


@dataclass
class Throughput:
    """Nanoseconds an add: by the clock over all processes, and of processor time."""

    clock: Figures = field(default_factory=Figures)
    processor: Figures = field(default_factory=Figures)
    totals: dict[str, Any] = field(default_factory=dict)


@dataclass
class Restarts:
    """Processor time of a collection, and files, by row and contestant."""

    collection: Figures = field(default_factory=Figures)
    files: dict[str, dict[str, restarts.Files]] = field(default_factory=dict)


def main() -> None:
    """Run, print the tables, write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, metavar="FOLDER", help="write all figures there")
    parser.add_argument("--quick", action="store_true", help="fewer processes, rounds and restarts")
    options = parser.parse_args()
    if options.quick:
        rounds, plan, counts = 2, adding.Plan((1, 2), 0.005), (0, 20, 100)
    else:
        rounds, plan, counts = 7, adding.Plan((1, 2, 4, 8), 0.05), (0, 100, 1_000, 5_000)

    started = time.monotonic()
    described = machine.describe()
    for name, fact in described.items():
        print(f"{name}: {fact}")
    throughput = add(plan, rounds)
    print(f"\n{render_throughput(throughput, plan)}", flush=True)
    collected = restart(counts, min(rounds, 5))
    load_after = f"{os.getloadavg()[0]:.2f}"
    print(f"\n{render_restarts(collected, counts)}")
    print(f"\nload after: {load_after}; {rounds} rounds in {time.monotonic() - started:.0f} s")
    if options.json:
        report = {
            "machine": {**described, "load after": load_after},
            "rounds": rounds,
            "seconds_per_loop": plan.seconds,
            "adds": throughput.clock.as_json(),
            "adds_processor_time": throughput.processor.as_json(),
            "totals": throughput.totals,
            "collections": collected.collection.as_json(),
            "files": {
                row: {name: asdict(files) for name, files in each.items()}
                for row, each in collected.files.items()
            },
        }
        options.json.mkdir(parents=True, exist_ok=True)
        text = json.dumps(report, indent=2, ensure_ascii=False)
        (options.json / "processes.json").write_text(f"{text}\n")
    if not adding.exact(list(throughput.totals.values())):
        sys.exit("a total is not what was added")


def add(plan: adding.Plan, rounds: int) -> Throughput:
    """All contestants, in turn."""
    found = Throughput()

    def measure(contestants: Mapping[str, Contestant], folder: Callable[[str], Path]) -> None:
        for _ in range(rounds):
            for row in plan.rows:
                for name, each in contestants.items():
                    found.clock.add(row, name, each.time(row))
        for name, each in contestants.items():
            each.time(adding.TOTAL)
            said = adding.totals(folder(name))
            for row, values in said.pop("processor").items():
                found.processor.statements[row, name] = each.statements[row]
                for value in values:
                    found.processor.add(row, name, value)
            found.totals[name] = said

    _with(adding.contestants(plan), found.clock, time.perf_counter, measure)
    return found


def restart(counts: tuple[int, ...], rounds: int) -> Restarts:
    """All contestants, in turn."""
    found = Restarts()

    def measure(contestants: Mapping[str, Contestant], folder: Callable[[str], Path]) -> None:
        for row in map(restarts.row_of, counts):
            for _ in range(rounds):
                for name, each in contestants.items():
                    found.collection.add(row, name, each.time(row))
            found.files[row] = {name: restarts.Files.of(folder(name)) for name in contestants}

    _with(restarts.contestants(counts), found.collection, time.process_time, measure)
    return found


def _with(
    makers: Mapping[str, Any],
    figures: Figures,
    clock: Callable[[], float],
    measure: Callable[[Mapping[str, Contestant], Callable[[str], Path]], None],
) -> None:
    """Measure those that take part, with folders in memory where there is such a place."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        folders = {name: Path(folder, str(number)) for number, name in enumerate(makers)}
        contestants = {
            name: Contestant(name, make, folders[name], 0, clock) for name, make in makers.items()
        }
        try:
            for name, each in list(contestants.items()):
                for row, statement in each.statements.items():
                    figures.statements[row, name] = statement
                if each.absence is not None:
                    print(f"{name}: does not take part: {each.absence}", file=sys.stderr)
                    contestants.pop(name).close()
            measure(contestants, folders.__getitem__)
        finally:
            for each in contestants.values():
                each.close()


def render_throughput(found: Throughput, plan: adding.Plan) -> str:
    """Adds a second, what they are against each other, and the totals."""
    names = list(adding.PACKAGES)
    rivals = names[1:]
    speeds, spent = [], []
    for row, (shape, _) in plan.rows.items():
        alone = next(each for each, which in plan.rows.items() if which == (shape, plan.counts[0]))
        ratios = [found.clock.ratio(row, rival, adding.OURS) for rival in rivals]
        grown = [_scaled(found.clock, alone, row, name) for name in names]
        cells = [_speed(found.clock.least(row, name)) for name in names]
        speeds.append([row, *cells, *map(as_ratio, [*ratios, *grown])])
        ratios = [found.processor.ratio(row, rival, adding.OURS) for rival in rivals]
        grown = [_scaled(found.processor, row, alone, name) for name in names]
        cells = [as_time(found.processor.least(row, name)) for name in names]
        spent.append([row, *cells, *map(as_ratio, [*ratios, *grown])])
    alone_columns = [f"{name}: of 1 process" for name in names]
    totals = "\n".join(
        f"  {name}: {said['added']:,} added, {adding.difference(said)}"
        for name, said in found.totals.items()
    )
    return "\n\n".join(
        [
            grid(
                "adds a second, most of all rounds",
                [*names, *(f"this / {rival}" for rival in rivals), *alone_columns],
                speeds,
            ),
            grid(
                "processor time an add, least of all rounds",
                [*names, *(f"{rival} / this" for rival in rivals), *alone_columns],
                spent,
            )
            + f"\n(the {adding.STOCK} cannot bind: its bound rows are its plain calls)",
            f"totals of all processes\n{totals}",
        ]
    )


def render_restarts(found: Restarts, counts: tuple[int, ...]) -> str:
    """Collections, and files."""
    names = list(restarts.SERVICES)
    rows = [restarts.row_of(count) for count in counts]
    lines = [
        [
            row,
            *(as_time(found.collection.least(row, name)) for name in names),
            as_ratio(found.collection.ratio(row, restarts.PROMETHEUS, restarts.OURS)),
            *(as_ratio(_scaled(found.collection, row, rows[0], name)) for name in names),
            *(_described(found.files[row].get(name)) for name in names),
        ]
        for row in rows
    ]
    columns = [
        *names,
        "prometheus mp / this",
        *(f"{name} / at {counts[0]}" for name in names),
        *(f"files of {name}" for name in names),
    ]
    series = restarts.COUNTERS * restarts.SERIES
    table = grid(f"a collection of {series} series, after", columns, lines)
    return f"{table}\n(the size is what the files take up; a buffer's length is its limit)"


def _scaled(figures: Figures, row: str, other: str, contestant: str) -> float | None:
    """A contestant's time of one row, against its own of another."""
    mine, others = figures.least(row, contestant), figures.least(other, contestant)
    return mine / others if mine and others else None


def _speed(nanoseconds: float | None) -> str:
    return "-" if nanoseconds is None else f"{1e3 / nanoseconds:.2f} M"


def _described(files: restarts.Files | None) -> str:
    if files is None:
        return "-"
    return f"{files.number:,}: {files.allocated / 2**20:.2f} MiB"


if __name__ == "__main__":
    main()
