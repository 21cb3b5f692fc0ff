# SPDX-License-Identifier: Apache-2.0
"""Times a call of each instrument: this package, the stock SDK, prometheus_client, empty methods.

    python benchmarks/instruments.py [--json FOLDER] [--quick]

All contestants are timed in one run and in turn, call by call, so that a noisy machine is noisy
for all of them. Ratios are those of what was timed, the loop around the call included, as both
sides have the same loop; the ratio without it stands beside them.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import cases
import machine
import rows
import table
from contestant import Contestant
from figures import Figures, targets


def main() -> None:
    """Run, print the tables, write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, metavar="FOLDER", help="write all figures there")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    options = parser.parse_args()
    rounds, seconds = (5, 0.002) if options.quick else (40, 0.003)

    started = time.monotonic()
    described = machine.describe()
    for name, fact in described.items():
        print(f"{name}: {fact}")
    figures, contestants = measure(rounds, seconds)
    found = targets(figures)
    print(f"\n{table.render(figures, contestants, found)}")
    print(f"\n{rounds} rounds in {time.monotonic() - started:.0f} s")
    if options.json:
        report = {
            "machine": described,
            "rounds": rounds,
            "seconds_per_loop": seconds,
            "figures": figures.as_json(),
            "allocations": {row: each._asdict() for row, each in figures.allocations.items()},
            "targets": [{**asdict(target), "held": target.held} for target in found],
        }
        options.json.mkdir(parents=True, exist_ok=True)
        text = json.dumps(report, indent=2, ensure_ascii=False)
        (options.json / "instruments.json").write_text(f"{text}\n")


def measure(rounds: int, seconds: float) -> tuple[Figures, list[str]]:
    """The figures, and the names of the contestants that took part."""
    figures = Figures()
    with tempfile.TemporaryDirectory() as folder:
        contestants = [
            Contestant(name, make, Path(folder, str(number)), seconds)
            for number, (name, make) in enumerate(cases.CONTESTANTS.items())
        ]
        try:
            for each in contestants:
                if each.absence is not None:
                    print(f"{each.name}: does not take part: {each.absence}", file=sys.stderr)
                for row, statement in each.statements.items():
                    figures.statements[row, each.name] = statement
            for _ in range(rounds):
                for row in rows.ALL:
                    for each in contestants:
                        if row in each.statements:
                            figures.add(row, each.name, each.time(row))
            for each in contestants:
                if each.name == cases.FAST and each.absence is None:
                    for row in rows.ALLOCATING_NOTHING:
                        figures.allocations[row] = each.allocation(row)
        finally:
            for each in contestants:
                each.close()
    return figures, [each.name for each in contestants if each.absence is None]


if __name__ == "__main__":
    main()
