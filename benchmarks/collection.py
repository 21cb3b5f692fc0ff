# SPDX-License-Identifier: Apache-2.0
"""Times one collection: this package with the lanes of one and of four processes, and the stock SDK.

    python benchmarks/collection.py [--json FOLDER] [--quick]

What is timed is all that stands between a reader that asks and the MetricsData it gets: an
InMemoryMetricReader. All contestants are timed in one run and in turn, so that a noisy machine is
noisy for all of them. It is processor time: a collection is long enough for other programs to come
in between, and here none waits for anything. The garbage collector works, as it does in a service.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import machine
import rows
from cases import Case, Cases
from contestant import Contestant
from figures import Figures
from table import as_ratio, as_time, grid

PER_INSTRUMENT = 1_000  # series, which is below the cardinality limits
AMOUNTS = rows.VARIED[:20]  # that a histogram series gets
MEASURED = 100  # series between two collections of deltas


@dataclass(frozen=True)
class Population:
    """The series of a provider, with three attributes each, and what its reader asks for."""

    kind: str
    series: int
    is_delta: bool = False

    @property
    def row(self) -> str:
        """What it is called in the tables."""
        which = f", delta, {MEASURED} measured" if self.is_delta else ""
        return f"{self.series:,} {self.kind} series{which}"

    def instruments(self, meter: Any) -> list[Any]:
        """The instruments that the series are of."""
        create = meter.create_counter if self.kind == "counter" else meter.create_histogram
        names = (f"{self.kind}.{number}" for number in range(-(-self.series // PER_INSTRUMENT)))
        return [create(name) for name in names]

    def measure(self, instruments: list[Any]) -> None:
        """Measure in every series."""
        for number in range(self.series):
            instrument = instruments[number // PER_INSTRUMENT]
            attributes = {**rows.SETS[3], "route": f"/items/{number % PER_INSTRUMENT}"}
            if self.kind == "counter":
                instrument.add(1, attributes)
            else:
                for amount in AMOUNTS:
                    instrument.record(amount, attributes)


POPULATIONS = [
    Population("counter", 100),
    Population("counter", 1_000),
    Population("counter", 10_000),
    Population("histogram", 1_000),
    Population("exponential", 100),
    Population("counter", 10_000, is_delta=True),
]


def this_package(processes: int, folder: Path) -> Cases:
    """`otel_shm`, with so many processes that measure in the same series and live."""
    os.environ["OTEL_SHM_BACKEND"] = "fast"
    import otel_shm

    return collections(otel_shm.MeterProvider, processes)


def stock(folder: Path) -> Cases:
    """The OpenTelemetry SDK, which knows of one process only."""
    from opentelemetry.sdk.metrics import MeterProvider

    return collections(MeterProvider, 1)


def collections(provider_class: Callable[..., Any], processes: int) -> Cases:
    """A collection of each population."""
    names: dict[str, Any] = {"gc": gc}
    by_row = {}
    made = []
    for index, population in enumerate(POPULATIONS):
        reader, instruments = _provide(provider_class, population)
        population.measure(instruments)
        made.append((population, instruments))
        names[f"reader_{index}"] = reader
        statement = f"reader_{index}.get_metrics_data()"
        if population.is_delta:
            few = Population(population.kind, MEASURED)
            names["measure_some"] = partial(few.measure, instruments)
            setup = "gc.enable(); measure_some()"
            by_row[population.row] = Case(statement, setup, once=True)
        else:
            by_row[population.row] = Case(statement, "gc.enable()")
    for _ in range(processes - 1):
        _another(made)
    for index, population in enumerate(POPULATIONS):
        # What is timed must be all of it.
        points = _points(names[f"reader_{index}"].get_metrics_data())
        if points != population.series:
            raise RuntimeError(f"{population.row}: a collection has {points} points")
    return Cases(names, by_row)


def _provide(provider_class: Callable[..., Any], population: Population) -> tuple[Any, list[Any]]:
    from opentelemetry.sdk.metrics import Counter, view
    from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader

    wanted = {Counter: AggregationTemporality.DELTA} if population.is_delta else {}
    reader = InMemoryMetricReader(preferred_temporality=wanted)
    exponential = view.View(
        instrument_name="exponential*", aggregation=view.ExponentialBucketHistogramAggregation()
    )
    provider = provider_class(metric_readers=[reader], views=[exponential], shutdown_on_exit=False)
    return reader, population.instruments(provider.get_meter("benchmark"))


def _another(made: list[tuple[Population, list[Any]]]) -> None:
    """A forked process that measures the same, and then lives until this one ends."""
    context = multiprocessing.get_context("fork")
    is_done = context.Event()

    def run() -> None:
        for population, instruments in made:
            population.measure(instruments)
        is_done.set()
        signal.pause()

    context.Process(target=run, daemon=True).start()
    is_done.wait()


def _points(data: Any) -> int:
    return sum(
        len(metric.data.data_points)
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    )


ONE, FOUR, STOCK = "otel_shm, 1 process", "otel_shm, 4 processes", "stock SDK"
CONTESTANTS = {ONE: partial(this_package, 1), FOUR: partial(this_package, 4), STOCK: stock}


def main() -> None:
    """Run, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, metavar="FOLDER", help="write all figures there")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    options = parser.parse_args()
    rounds, seconds = (3, 0.002) if options.quick else (20, 0.005)

    started = time.monotonic()
    described = machine.describe()
    for name, fact in described.items():
        print(f"{name}: {fact}")
    figures = measure(rounds, seconds)
    print(f"\n{render(figures)}")
    print(f"\n{rounds} rounds in {time.monotonic() - started:.0f} s")
    if options.json:
        report = {
            "machine": described,
            "rounds": rounds,
            "seconds_per_loop": seconds,
            "figures": figures.as_json(),
        }
        options.json.mkdir(parents=True, exist_ok=True)
        text = json.dumps(report, indent=2, ensure_ascii=False)
        (options.json / "collection.json").write_text(f"{text}\n")


def measure(rounds: int, seconds: float) -> Figures:
    """The figures of all collections."""
    figures = Figures()
    with tempfile.TemporaryDirectory() as folder:
        contestants = [
            Contestant(name, make, Path(folder, str(number)), seconds, time.process_time)
            for number, (name, make) in enumerate(CONTESTANTS.items())
        ]
        try:
            for each in contestants:
                if each.absence is not None:
                    print(f"{each.name}: does not take part: {each.absence}", file=sys.stderr)
                for row, statement in each.statements.items():
                    figures.statements[row, each.name] = statement
            for _ in range(rounds):
                for population in POPULATIONS:
                    for each in contestants:
                        if population.row in each.statements:
                            figures.add(population.row, each.name, each.time(population.row))
        finally:
            for each in contestants:
                each.close()
    return figures


def render(figures: Figures) -> str:
    """Times, and what they are against each other."""
    lines = [
        [
            row,
            *(as_time(figures.least(row, contestant)) for contestant in CONTESTANTS),
            as_ratio(figures.ratio(row, STOCK, ONE)),
            as_ratio(figures.ratio(row, STOCK, FOUR)),
            as_ratio(figures.ratio(row, FOUR, ONE)),
        ]
        for row in (population.row for population in POPULATIONS)
    ]
    columns = [*CONTESTANTS, "stock / 1 process", "stock / 4 processes", "4 processes / 1"]
    return grid("time a collection, least of all rounds", columns, lines)


if __name__ == "__main__":
    main()
