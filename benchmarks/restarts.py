# SPDX-License-Identifier: Apache-2.0
"""Workers that come and go: what a collection takes, and what is on disk, after many of them.

A restart is a forked worker that adds to every series and ends, without a farewell. A process that
lives adds once too, and collects.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import rows
from cases import Case, Cases, prometheus_folder

COUNTERS, SERIES = 4, 25  # series a counter
AT_ONCE = 8  # workers
WARMING = 0.005  # seconds of collections, one at least, before the one that is timed

Add = Callable[[], None]
Collect = Callable[[], Any]


def row_of(restarts: int) -> str:
    """What it is called in the tables."""
    return f"{restarts:,} restarts"


@dataclass(frozen=True)
class Service:
    """What adds to every series, what is timed, and what the total of that is."""

    add: Add
    collect: Collect
    total: Callable[[Any], int | float]
    buried: Callable[[int], object] = lambda pid: None


def _sets() -> list[dict[str, str | int]]:
    return [{**rows.SETS[3], "route": f"/items/{number}"} for number in range(SERIES)]


def this_package(folder: Path) -> Service:
    """`otel_shm` with a buffer in the folder."""
    os.environ["OTEL_SHM_BACKEND"] = "fast"
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    import otel_shm

    reader = InMemoryMetricReader()
    buffer = folder / "buffer"
    provider = otel_shm.MeterProvider([reader], buffer=buffer, shutdown_on_exit=False)
    meter = provider.get_meter("benchmark")
    counters = [meter.create_counter(f"counter.{number}") for number in range(COUNTERS)]
    sets = _sets()

    def add() -> None:
        for counter in counters:
            for attributes in sets:
                counter.add(1, attributes)

    def total(data: Any) -> int | float:
        return sum(
            point.value
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            for point in metric.data.data_points
        )

    return Service(add, reader.get_metrics_data, total)


def prometheus_files(folder: Path) -> Service:
    """prometheus_client in multi-process mode, told of every worker that ended."""
    prometheus_folder(folder)
    from prometheus_client import CollectorRegistry, Counter, multiprocess

    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)
    families = [
        Counter(f"counter_{number}", "adds", list(rows.SETS[3]), registry=None)
        for number in range(COUNTERS)
    ]
    sets = _sets()

    def add() -> None:
        for family in families:
            for attributes in sets:
                family.labels(**attributes).inc()

    def total(families: Any) -> int | float:
        return sum(
            sample.value
            for family in families
            for sample in family.samples
            if sample.name.endswith("_total")
        )

    def collect() -> list[Any]:
        return list(registry.collect())

    return Service(add, collect, total, multiprocess.mark_process_dead)


def restarting(make: Callable[[Path], Service], counts: tuple[int, ...], folder: Path) -> Cases:
    """A collection after each number of restarts; to be asked for in that order."""
    service = make(folder)
    service.add()
    done = 0

    def restart(wanted: int) -> None:
        nonlocal done
        if done == wanted:
            return
        while done < wanted:
            batch = min(AT_ONCE, wanted - done)
            for pid in [_fork(service.add) for _ in range(batch)]:
                _, status = os.waitpid(pid, 0)
                if status:
                    raise RuntimeError("a worker failed")
                service.buried(pid)
            done += batch
        total, expected = service.total(service.collect()), (done + 1) * COUNTERS * SERIES
        if total != expected:
            raise RuntimeError(f"after {done:,} restarts the total is {total}, not {expected}")

    def warm() -> None:
        # After a fork a process's pages are copied when it next writes to them, and the other
        # contestant was here in between: what is timed is none of that.
        until = time.process_time() + WARMING
        while time.process_time() < until:
            service.collect()

    names = {"restart": restart, "warm": warm, "collect": service.collect, "gc": gc}
    setup = "restart({}); gc.enable(); warm()"
    return Cases(
        names,
        {row_of(count): Case("collect()", setup.format(count), once=True) for count in counts},
    )


def _fork(add: Add) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            add()
            os._exit(0)
        finally:
            os._exit(1)
    return pid


OURS, PROMETHEUS = "otel_shm", "prometheus mp"
SERVICES = {OURS: this_package, PROMETHEUS: prometheus_files}


def contestants(counts: tuple[int, ...]) -> dict[str, Any]:
    """What makes the cases of each."""
    return {name: partial(restarting, make, counts) for name, make in SERVICES.items()}


@dataclass(frozen=True)
class Files:
    """What is in a folder: how many files, their lengths, and what they take up."""

    number: int
    length: int
    allocated: int

    @classmethod
    def of(cls, folder: Path) -> Files:
        """Look."""
        facts = [path.stat() for path in folder.rglob("*") if path.is_file()]
        return cls(
            len(facts),
            sum(fact.st_size for fact in facts),
            sum(fact.st_blocks for fact in facts) * 512,
        )
