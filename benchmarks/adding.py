# SPDX-License-Identifier: Apache-2.0
"""Processes that add at the same time: how many adds they make together, and whether all are counted.

Every contestant forks its workers, which make what they need, wait for each other, and then make a
fixed number of adds each. What is timed is from the word to the last one's last add.
"""

from __future__ import annotations

import json
import os
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from timeit import Timer
from typing import Any, Protocol

import rows
from cases import Case, Cases, prometheus_folder

SHARED, BOUND, OWN = "one series", "one series, bound", "a counter each"
SHAPES = (SHARED, BOUND, OWN)
TOTALS = "totals.json"  # in a contestant's folder, once its row `TOTAL` was timed
TOTAL = "the total of all processes"


@dataclass(frozen=True)
class Plan:
    """How many processes there are in turn, and about how long each adds."""

    counts: tuple[int, ...]
    seconds: float

    @property
    def rows(self) -> dict[str, tuple[str, int]]:
        """What the rows of the tables are about: shape and processes."""
        return {
            f"{shape}: {count} process{'es' if count > 1 else ''}": (shape, count)
            for shape in SHAPES
            for count in self.counts
        }


class Package(Protocol):
    """What adds."""

    def call(self, shape: str, worker: int) -> tuple[str, dict[str, Any]]:
        """The call that a worker makes again and again, with the names in it."""

    def total(self) -> int | float | None:
        """What all processes have added, as the package tells it; None if it does not."""


def _attributes(shape: str, worker: int) -> dict[str, str | int]:
    return {**rows.SETS[3], "route": f"/items/{worker}"} if shape == OWN else dict(rows.SETS[3])


class ThisPackage:
    """`otel_shm`: a provider that the workers inherit."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        os.environ["OTEL_SHM_BACKEND"] = "fast"
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader

        import otel_shm

        self._reader = InMemoryMetricReader()
        provider = otel_shm.MeterProvider([self._reader], shutdown_on_exit=False)
        meter = provider.get_meter("benchmark")
        self._shared = meter.create_counter("shared")
        self._own = [meter.create_counter(f"own.{worker}") for worker in range(max(plan.counts))]

    def call(self, shape: str, worker: int) -> tuple[str, dict[str, Any]]:
        attributes = _attributes(shape, worker)
        if shape == BOUND:
            return "bound.add(1)", {"bound": self._shared.bind(attributes)}
        counter = self._own[worker] if shape == OWN else self._shared
        return "counter.add(1, attributes)", {"counter": counter, "attributes": attributes}

    def total(self) -> int | float:
        data: Any = self._reader.get_metrics_data()
        return sum(
            point.value
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            for point in metric.data.data_points
        )


class Stock:
    """The OpenTelemetry SDK: each process has its own provider, and nobody has a total."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader

        self._make = lambda: MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False)

    def call(self, shape: str, worker: int) -> tuple[str, dict[str, Any]]:
        name = f"own.{worker}" if shape == OWN else "shared"
        counter = self._make().get_meter("benchmark").create_counter(name)
        attributes = _attributes(shape, worker)
        return "counter.add(1, attributes)", {"counter": counter, "attributes": attributes}

    def total(self) -> None:
        return None


class PrometheusFiles:
    """prometheus_client in multi-process mode: a mapped file a process."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        prometheus_folder(folder)
        from prometheus_client import CollectorRegistry, Counter, multiprocess

        self._registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(self._registry)
        make = partial(Counter, documentation="adds", labelnames=list(rows.SETS[3]), registry=None)
        self._shared = make("shared")
        self._own = [make(f"own_{worker}") for worker in range(max(plan.counts))]

    def call(self, shape: str, worker: int) -> tuple[str, dict[str, Any]]:
        attributes = _attributes(shape, worker)
        if shape == BOUND:
            return "bound.inc()", {"bound": self._shared.labels(**attributes)}
        family = self._own[worker] if shape == OWN else self._shared
        return "family.labels(**attributes).inc()", {"family": family, "attributes": attributes}

    def total(self) -> int | float:
        return sum(
            sample.value
            for family in self._registry.collect()
            for sample in family.samples
            if sample.name.endswith("_total")
        )


@dataclass
class Account:
    """What a contestant has added, and the processor time of it by row, in nanoseconds an add."""

    added: int = 0
    processor: dict[str, list[float]] = field(default_factory=dict)

    def check(self, package: Package, file: Path) -> None:
        """Write it beside what the package says."""
        said = {"added": self.added, "total": package.total(), "processor": self.processor}
        file.write_text(json.dumps(said))


class Workers:
    """Forked processes that are ready to add."""

    def __init__(
        self, package: Package, row: str, calls: int, account: Account, plan: Plan
    ) -> None:
        shape, count = plan.rows[row]
        self._row, self._calls, self._account = row, calls, account
        self._from_workers, report = os.pipe()
        word, self._word = os.pipe()
        self._pids = []
        for worker in range(count):
            pid = os.fork()
            if pid == 0:
                _add(partial(package.call, shape, worker), calls, word, report)
            self._pids.append(pid)
        os.close(report)
        os.close(word)
        self._read(1)

    def add(self) -> None:
        """Give the word, and wait for the last one."""
        os.write(self._word, bytes(len(self._pids)))
        self._reports = self._read(8)

    def bury(self) -> None:
        """Wait for their ends, and note what they did."""
        for pid in self._pids:
            os.waitpid(pid, 0)
        os.close(self._word)
        os.close(self._from_workers)
        adds = len(self._pids) * self._calls
        spent = sum(each for (each,) in struct.iter_unpack("d", self._reports))
        self._account.added += adds + len(self._pids)
        self._account.processor.setdefault(self._row, []).append(spent / adds * 1e9)

    def _read(self, size: int) -> bytes:
        """So many bytes from each of them."""
        read = b""
        while len(read) < size * len(self._pids):
            more = os.read(self._from_workers, 4096)
            if not more:
                raise RuntimeError(f"{self._row}: the workers ended early")
            read += more
        return read


def _add(call: Any, calls: int, word: int, report: int) -> None:
    """What a worker does; it does not return."""
    try:
        statement, names = call()
        timer = Timer(statement, timer=time.process_time, globals=names)
        # The first add makes the series, and the first in a process its place.
        timer.timeit(1)
        os.write(report, b"r")
        os.read(word, 1)
        os.write(report, struct.pack("d", timer.timeit(calls)))
        os._exit(0)
    finally:
        os._exit(1)


def adding(make: Any, plan: Plan, folder: Path) -> Cases:
    """All rows of one contestant."""
    package = make(plan, folder)
    account = Account()
    calls = {shape: _calls(package, shape, plan.seconds, account) for shape in SHAPES}
    living: list[Workers] = []

    def bury() -> None:
        while living:
            living.pop().bury()

    def start(row: str) -> Workers:
        bury()
        living.append(Workers(package, row, calls[plan.rows[row][0]], account, plan))
        return living[-1]

    def check() -> None:
        account.check(package, folder / TOTALS)

    by_row = {
        row: Case(
            "workers.add()", f"workers = start({row!r})", calls=count * calls[shape], once=True
        )
        for row, (shape, count) in plan.rows.items()
    }
    by_row[TOTAL] = Case("check()", "bury()", once=True)
    return Cases({"start": start, "check": check, "bury": bury}, by_row)


def _calls(package: Package, shape: str, seconds: float, account: Account) -> int:
    """As many calls as take one process about so long."""
    statement, names = package.call(shape, 0)
    tried = 1_000
    taken = Timer(statement, globals=names).repeat(5, tried)
    account.added += tried * len(taken)
    return max(tried, round(seconds / min(taken) * tried))


OURS, PROMETHEUS, STOCK = "otel_shm", "prometheus mp", "stock SDK"
PACKAGES = {OURS: ThisPackage, PROMETHEUS: PrometheusFiles, STOCK: Stock}


def contestants(plan: Plan) -> dict[str, Any]:
    """What makes the cases of each."""
    return {name: partial(adding, make, plan) for name, make in PACKAGES.items()}


def totals(folder: Path) -> dict[str, Any]:
    """What a contestant's folder says it added, and its total."""
    said: dict[str, Any] = json.loads((folder / TOTALS).read_text())
    return said


def difference(said: dict[str, Any]) -> str:
    """Whether a total is exact, in words."""
    if said["total"] is None:
        return "no total"
    off = said["total"] - said["added"]
    return "exact" if off == 0 else f"off by {off:+,}"


def exact(facts: Sequence[dict[str, Any]]) -> bool:
    """Whether all totals are what was added."""
    return all(each["total"] in (None, each["added"]) for each in facts)
