# SPDX-License-Identifier: Apache-2.0
"""What is timed, and for each contestant the statement a user would write for it.

Every statement is an attribute call on a global, `counter.add(1)`, in the loop of `timeit`, so what
the loop and the look-up cost is the same for all; the row "empty loop" shows how much it is.

Packages are imported where they are used: each contestant has a process of its own and must carry
nothing of the others.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ATTRIBUTES: dict[str, str | int] = {
    "method": "GET",
    "route": "/items/{id}",
    "status": 200,
    "scheme": "https",
    "version": "1.1",
    "host": "shop.example",
    "port": 443,
}
SETS = {count: dict(itertools.islice(ATTRIBUTES.items(), count)) for count in (1, 3, 7)}
FRESH = 1_000  # new attribute sets a round

LOOP = "empty loop"
BOUND_ADD = "bound add(1)"
BOUND_ADD_FLOAT = "bound add(1.5)"
ADD = "add(1)"
PREBUILT = {count: f"add(1, prebuilt {count})" for count in SETS}
LITERAL = {count: f"add(1, literal {count})" for count in SETS}
SET = "gauge set(2.5)"
BOUND_SET = "bound gauge set(2.5)"
FIRST_USE = "first use of a set of 3"
CREATION = "create a provider"
ROWS = [LOOP, BOUND_ADD, BOUND_ADD_FLOAT, ADD, *PREBUILT.values(), *LITERAL.values()]
ROWS += [SET, BOUND_SET, FIRST_USE, CREATION]


@dataclass(frozen=True)
class Case:
    """A statement to time; it makes `calls` calls and needs `setup` before each loop.

    `once` says that the statement holds only once after a setup: the loop has one turn.
    """

    statement: str
    setup: str = "pass"
    calls: int = 1
    once: bool = False


@dataclass(frozen=True)
class Cases:
    """The cases of one contestant by row, and the global names their statements use."""

    names: Mapping[str, Any]
    by_row: Mapping[str, Case]


OPENTELEMETRY_CALLS = {
    LOOP: Case("pass"),
    BOUND_ADD: Case("bound.add(1)"),
    BOUND_ADD_FLOAT: Case("bound_float.add(1.5)"),
    ADD: Case("counter.add(1)"),
    **{row: Case(f"counter.add(1, set_of_{count})") for count, row in PREBUILT.items()},
    **{row: Case(f"counter.add(1, {SETS[count]!r})") for count, row in LITERAL.items()},
    SET: Case("gauge.set(2.5)"),
    BOUND_SET: Case("bound_gauge.set(2.5)"),
}
SET_NAMES = {f"set_of_{count}": attributes for count, attributes in SETS.items()}


def fresh_sets(numbers: itertools.count[int]) -> list[dict[str, str | int]]:
    """Attribute sets that were never used before."""
    return [{**SETS[3], "route": f"/items/{next(numbers)}"} for _ in range(FRESH)]


def empty(instrument: Any, rows: Callable[[str], bool] = lambda row: True) -> Cases:
    """Methods that do nothing, called as the real ones are."""
    names = ("bound", "bound_float", "counter", "gauge", "bound_gauge")
    return Cases(
        {**dict.fromkeys(names, instrument), **SET_NAMES},
        {row: case for row, case in OPENTELEMETRY_CALLS.items() if rows(row)},
    )


def empty_c(folder: Path) -> Cases:
    """An empty C method with the signature of `Counter.add`."""
    from empty_method import compile_c

    return empty(compile_c(folder).Instrument())


def empty_c_one_argument(folder: Path) -> Cases:
    """An empty C method with the signature of a bound `add`: one argument, no more."""
    from empty_method import compile_c

    rows = (LOOP, BOUND_ADD, BOUND_ADD_FLOAT, ADD, SET, BOUND_SET)
    return empty(compile_c(folder).Bound(), rows.__contains__)


def empty_python(folder: Path) -> Cases:
    """An empty Python method."""
    from empty_method import Instrument

    return empty(Instrument())


def this_package(backend: str) -> Cases:
    """`otel_shm` with the backend asked for."""
    os.environ["OTEL_SHM_BACKEND"] = backend
    import otel_shm

    if otel_shm.backend != backend:
        raise ImportError(f"otel_shm chose the backend {otel_shm.backend}")
    return opentelemetry(otel_shm.MeterProvider)


def stock(folder: Path) -> Cases:
    """The OpenTelemetry SDK; it cannot bind, so its bound rows are the plain calls."""
    from opentelemetry.sdk.metrics import MeterProvider

    return opentelemetry(MeterProvider)


def opentelemetry(provider_class: Callable[..., Any]) -> Cases:
    """A MeterProvider with one reader, as both the SDK and this package have it."""
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.resources import Resource

    resource = Resource({"service.name": "benchmark"})
    numbers = itertools.count()
    created: list[Any] = []

    def create() -> Any:
        created.append(
            provider_class(
                metric_readers=[InMemoryMetricReader()], resource=resource, shutdown_on_exit=False
            )
        )
        return created[-1]

    def discard() -> None:
        while created:
            created.pop().shutdown()

    def start_afresh() -> tuple[Any, list[dict[str, str | int]]]:
        # A provider for each round, or the cardinality limit of the SDK would be what is timed.
        discard()
        return create().get_meter("fresh").create_counter("fresh"), fresh_sets(numbers)

    meter = create().get_meter("benchmark")
    created.clear()  # this one stays
    counter, gauge = meter.create_counter("ints"), meter.create_gauge("gauge")
    floats = meter.create_counter("floats")
    can_bind = hasattr(counter, "bind")
    names = {
        "counter": counter,
        "gauge": gauge,
        "bound": counter.bind(SETS[3]) if can_bind else counter,
        "bound_float": floats.bind(SETS[3]) if can_bind else floats,
        "bound_gauge": gauge.bind(SETS[3]) if can_bind else gauge,
        **SET_NAMES,
        "create": create,
        "discard": discard,
        "start_afresh": start_afresh,
    }
    first_use = Case(
        "for each in fresh:\n    counter.add(1, each)",
        setup="counter, fresh = start_afresh()",
        calls=FRESH,
        once=True,
    )
    creation = Case("create()", setup="discard()", once=True)
    return Cases(names, {**OPENTELEMETRY_CALLS, FIRST_USE: first_use, CREATION: creation})


def prometheus(folder: Path) -> Cases:
    """prometheus_client with its values in this process."""
    from prometheus_client import CollectorRegistry, Counter, Gauge

    registry = CollectorRegistry()
    numbers = itertools.count()

    def counter(name: str, count: int = 0) -> Any:
        return Counter(name, name, list(SETS[count]) if count else [], registry=registry)

    def start_afresh() -> tuple[Any, list[list[str | int]]]:
        family = Counter(f"fresh_{next(numbers)}", "fresh", list(SETS[3]), registry=None)
        return family, [list(each.values()) for each in fresh_sets(numbers)]

    families = {f"family_{count}": counter(f"family_{count}", count) for count in SETS}
    gauge = Gauge("gauge", "gauge", registry=registry)
    labelled_gauge = Gauge("labelled_gauge", "gauge", list(SETS[3]), registry=registry)
    names = {
        "counter": counter("ints"),
        "gauge": gauge,
        "bound": families["family_3"].labels(**SETS[3]),
        "bound_float": counter("floats", 3).labels(**SETS[3]),
        "bound_gauge": labelled_gauge.labels(**SETS[3]),
        **families,
        **SET_NAMES,
        "start_afresh": start_afresh,
    }
    cases = {
        LOOP: Case("pass"),
        BOUND_ADD: Case("bound.inc()"),
        BOUND_ADD_FLOAT: Case("bound_float.inc(1.5)"),
        ADD: Case("counter.inc()"),
        SET: Case("gauge.set(2.5)"),
        BOUND_SET: Case("bound_gauge.set(2.5)"),
        FIRST_USE: Case(
            "for each in fresh:\n    family.labels(*each).inc()",
            setup="family, fresh = start_afresh()",
            calls=FRESH,
            once=True,
        ),
    }
    for count, attributes in SETS.items():
        # Its quickest ways to say the same: keywords from a dict, and values in their order.
        values = ", ".join(map(repr, attributes.values()))
        cases[PREBUILT[count]] = Case(f"family_{count}.labels(**set_of_{count}).inc()")
        cases[LITERAL[count]] = Case(f"family_{count}.labels({values}).inc()")
    return Cases(names, cases)


def prometheus_files(folder: Path) -> Cases:
    """prometheus_client in multi-process mode: its values in a mapped file a process."""
    values = folder / "prometheus"
    values.mkdir()
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(values)
    return prometheus(folder)


EMPTY_C, EMPTY_C_ONE, EMPTY_PYTHON = "empty C", "empty C, 1 arg", "empty Python"
FAST, CFFI, STOCK = "otel_shm fast", "otel_shm cffi", "stock SDK"
PROMETHEUS, PROMETHEUS_FILES = "prometheus", "prometheus mp"

# Each is given a folder for what it has to write.
CONTESTANTS: dict[str, Callable[[Path], Cases]] = {
    EMPTY_C: empty_c,
    EMPTY_C_ONE: empty_c_one_argument,
    EMPTY_PYTHON: empty_python,
    FAST: lambda folder: this_package("fast"),
    CFFI: lambda folder: this_package("cffi"),
    STOCK: stock,
    PROMETHEUS: prometheus,
    PROMETHEUS_FILES: prometheus_files,
}
