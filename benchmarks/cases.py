# SPDX-License-Identifier: Apache-2.0
"""The contestants, and for each row the statement that a user of theirs would write.

Every statement is an attribute call on a global, `counter.add(1)`, in the loop of `timeit`, so what
the loop and the look-up cost is the same for all; the row "empty loop" shows how much it is.

Packages are imported where they are used: each contestant has a process of its own and must carry
nothing of the others.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import rows


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


MakeCases = Callable[[Path], Cases]


def varied(call: str) -> Case:
    """A call with an amount that is another one each time."""
    return Case(f"for amount in varied:\n    {call}", calls=len(rows.VARIED))


OPENTELEMETRY_CALLS = {
    rows.LOOP: Case("pass"),
    rows.LOOP_VARIED: varied("pass"),
    rows.BOUND_ADD: Case("bound.add(1)"),
    rows.BOUND_ADD_FLOAT: Case("bound_float.add(1.5)"),
    rows.ADD: Case("counter.add(1)"),
    **{row: Case(f"counter.add(1, set_of_{count})") for count, row in rows.PREBUILT.items()},
    **{row: Case(f"counter.add(1, {rows.SETS[count]!r})") for count, row in rows.LITERAL.items()},
    rows.SET: Case("gauge.set(2.5)"),
    rows.BOUND_SET: Case("bound_gauge.set(2.5)"),
    rows.DROPPED: Case("dropped.add(1, set_of_3)"),
    rows.FILTERED: Case("filtered.add(1, set_of_3)"),
    rows.BOUND_RECORD: Case("bound_histogram.record(3.5)"),
    rows.BOUND_RECORD_VARIED: varied("bound_histogram.record(amount)"),
    rows.RECORD: Case("histogram.record(3.5)"),
    rows.RECORD_PREBUILT: Case("histogram.record(3.5, set_of_3)"),
    rows.RECORD_VARIED: varied("histogram.record(amount, set_of_3)"),
    rows.RECORD_LITERAL: Case(f"histogram.record(3.5, {rows.SETS[3]!r})"),
    rows.BOUND_EXPONENTIAL: Case("bound_exponential.record(3.5)"),
    rows.BOUND_EXPONENTIAL_VARIED: varied("bound_exponential.record(amount)"),
    rows.EXPONENTIAL_PREBUILT: Case("exponential.record(3.5, set_of_3)"),
}
NAMES = {
    "varied": rows.VARIED,
    **{f"set_of_{count}": attributes for count, attributes in rows.SETS.items()},
}


def fresh_sets(numbers: itertools.count[int]) -> list[dict[str, str | int]]:
    """Attribute sets that were never used before."""
    return [{**rows.SETS[3], "route": f"/items/{next(numbers)}"} for _ in range(rows.FRESH)]


def empty(instrument: Any, takes_part: Callable[[str], bool] = lambda row: True) -> Cases:
    """Methods that do nothing, called as the real ones are."""
    names = ["counter", "gauge", "histogram", "exponential", "dropped", "filtered", "bound"]
    names += ["bound_float", "bound_gauge", "bound_histogram", "bound_exponential"]
    return Cases(
        {**dict.fromkeys(names, instrument), **NAMES},
        {row: case for row, case in OPENTELEMETRY_CALLS.items() if takes_part(row)},
    )


def empty_c(folder: Path) -> Cases:
    """An empty C method with the signature of `Counter.add`."""
    from empty_method import compile_c

    return empty(compile_c(folder).Instrument())


def empty_c_one_argument(folder: Path) -> Cases:
    """An empty C method with the signature of a bound `add`: one argument, no more."""
    from empty_method import compile_c

    return empty(compile_c(folder).Bound(), rows.ONE_ARGUMENT.__contains__)


def empty_python(folder: Path) -> Cases:
    """An empty Python method."""
    from empty_method import Instrument

    return empty(Instrument())


def this_package(backend: str, folder: Path, **options: Any) -> Cases:
    """`otel_shm` with the backend asked for, and a MeterProvider with these options."""
    os.environ["OTEL_SHM_BACKEND"] = backend
    import otel_shm

    if otel_shm.backend != backend:
        raise ImportError(f"otel_shm chose the backend {otel_shm.backend}")
    return opentelemetry(otel_shm.MeterProvider, **options)


def stock(folder: Path) -> Cases:
    """The OpenTelemetry SDK; it cannot bind, so its bound rows are the plain calls."""
    from opentelemetry.sdk.metrics import MeterProvider

    return opentelemetry(MeterProvider)


def without_exemplars(folder: Path) -> Cases:
    """`otel_shm` where no measurement may become an exemplar."""
    from opentelemetry.sdk.metrics import AlwaysOffExemplarFilter

    cases = this_package("fast", folder, exemplar_filter=AlwaysOffExemplarFilter())
    return Cases(cases.names, {row: cases.by_row[row] for row in rows.OF_EXEMPLARS})


def in_context(folder: Path) -> Cases:
    """`otel_shm` where the context has variables of others, as in a task of asyncio, but no span."""
    for number in range(5):
        ContextVar(f"other.{number}", default=0).set(number)
    cases = this_package("fast", folder)
    return Cases(cases.names, {row: cases.by_row[row] for row in rows.OF_EXEMPLARS})


def in_span(make: MakeCases, folder: Path, *, sampled: bool) -> Cases:
    """A contestant whose calls are made while a span is current.

    Args:
        make: makes its cases.
        folder: for what it has to write.
        sampled: whether the span is, and so each measurement may become an exemplar.
    """
    from opentelemetry.context import attach
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON
    from opentelemetry.trace import set_span_in_context

    cases = make(folder)
    tracer = TracerProvider(sampler=ALWAYS_ON if sampled else ALWAYS_OFF).get_tracer("benchmark")
    attach(set_span_in_context(tracer.start_span("current")))  # and never detached
    return Cases(cases.names, {row: cases.by_row[row] for row in rows.OF_EXEMPLARS})


def opentelemetry(provider_class: Callable[..., Any], **options: Any) -> Cases:
    """A MeterProvider with one reader, as both the SDK and this package have it."""
    from opentelemetry.sdk.metrics import view
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.resources import Resource

    resource = Resource({"service.name": "benchmark"})
    numbers = itertools.count()
    created: list[Any] = []
    views = [
        view.View(instrument_name="dropped", aggregation=view.DropAggregation()),
        view.View(instrument_name="filtered", attribute_keys={"method", "route"}),
        view.View(
            instrument_name="exponential", aggregation=view.ExponentialBucketHistogramAggregation()
        ),
    ]

    def create(**more: Any) -> Any:
        created.append(
            provider_class(
                metric_readers=[InMemoryMetricReader()],
                resource=resource,
                shutdown_on_exit=False,
                **options,
                **more,
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

    meter = create(views=views).get_meter("benchmark")
    created.clear()  # this one stays
    instruments = {
        "counter": meter.create_counter("ints"),
        "gauge": meter.create_gauge("gauge"),
        "histogram": meter.create_histogram("histogram"),
        "exponential": meter.create_histogram("exponential"),
        "dropped": meter.create_counter("dropped"),
        "filtered": meter.create_counter("filtered"),
    }

    def bound(instrument: Any) -> Any:
        return instrument.bind(rows.SETS[3]) if hasattr(instrument, "bind") else instrument

    names = {
        **instruments,
        "bound": bound(instruments["counter"]),
        "bound_float": bound(meter.create_counter("floats")),
        "bound_gauge": bound(instruments["gauge"]),
        "bound_histogram": bound(instruments["histogram"]),
        "bound_exponential": bound(instruments["exponential"]),
        **NAMES,
        "create": create,
        "discard": discard,
        "start_afresh": start_afresh,
    }
    first_use = Case(
        "for each in fresh:\n    counter.add(1, each)",
        setup="counter, fresh = start_afresh()",
        calls=rows.FRESH,
        once=True,
    )
    creation = Case("create()", setup="discard()", once=True)
    return Cases(names, {**OPENTELEMETRY_CALLS, rows.FIRST_USE: first_use, rows.CREATION: creation})


def values_of(count: int) -> str:
    """The values of a set as they are written in a call."""
    return ", ".join(map(repr, rows.SETS[count].values()))


def prometheus(folder: Path) -> Cases:
    """prometheus_client with its values in this process."""
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

    registry = CollectorRegistry()
    numbers = itertools.count()

    def counter(name: str, count: int = 0) -> Any:
        return Counter(name, name, list(rows.SETS[count]) if count else [], registry=registry)

    def start_afresh() -> tuple[Any, list[list[str | int]]]:
        family = Counter(f"fresh_{next(numbers)}", "fresh", list(rows.SETS[3]), registry=None)
        return family, [list(each.values()) for each in fresh_sets(numbers)]

    def histogram(name: str, count: int = 0) -> Any:
        labels = list(rows.SETS[count]) if count else []
        return Histogram(name, name, labels, registry=registry, buckets=rows.BOUNDARIES)

    families = {f"family_{count}": counter(f"family_{count}", count) for count in rows.SETS}
    histograms = histogram("histograms", 3)
    gauge = Gauge("gauge", "gauge", registry=registry)
    labelled_gauge = Gauge("labelled_gauge", "gauge", list(rows.SETS[3]), registry=registry)
    names = {
        "counter": counter("ints"),
        "gauge": gauge,
        "bound": families["family_3"].labels(**rows.SETS[3]),
        "bound_float": counter("floats", 3).labels(**rows.SETS[3]),
        "bound_gauge": labelled_gauge.labels(**rows.SETS[3]),
        "histogram": histogram("histogram"),
        "histograms": histograms,
        "bound_histogram": histograms.labels(**rows.SETS[3]),
        **families,
        **NAMES,
        "start_afresh": start_afresh,
    }
    cases = {
        rows.LOOP: Case("pass"),
        rows.BOUND_ADD: Case("bound.inc()"),
        rows.BOUND_ADD_FLOAT: Case("bound_float.inc(1.5)"),
        rows.ADD: Case("counter.inc()"),
        rows.SET: Case("gauge.set(2.5)"),
        rows.BOUND_SET: Case("bound_gauge.set(2.5)"),
        rows.LOOP_VARIED: varied("pass"),
        rows.BOUND_RECORD: Case("bound_histogram.observe(3.5)"),
        rows.BOUND_RECORD_VARIED: varied("bound_histogram.observe(amount)"),
        rows.RECORD: Case("histogram.observe(3.5)"),
        rows.RECORD_PREBUILT: Case("histograms.labels(**set_of_3).observe(3.5)"),
        rows.RECORD_VARIED: varied("histograms.labels(**set_of_3).observe(amount)"),
        rows.RECORD_LITERAL: Case(f"histograms.labels({values_of(3)}).observe(3.5)"),
        rows.FIRST_USE: Case(
            "for each in fresh:\n    family.labels(*each).inc()",
            setup="family, fresh = start_afresh()",
            calls=rows.FRESH,
            once=True,
        ),
    }
    for count in rows.SETS:
        # Its quickest ways to say the same: keywords from a dict, and values in their order.
        cases[rows.PREBUILT[count]] = Case(f"family_{count}.labels(**set_of_{count}).inc()")
        cases[rows.LITERAL[count]] = Case(f"family_{count}.labels({values_of(count)}).inc()")
    return Cases(names, cases)


def prometheus_files(folder: Path) -> Cases:
    """prometheus_client in multi-process mode: its values in a mapped file a process."""
    prometheus_folder(folder)
    return prometheus(folder)


def prometheus_folder(folder: Path) -> None:
    """Say where the multi-process mode has its files, before the package is imported."""
    values = folder / "prometheus"
    values.mkdir()
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(values)


EMPTY_C, EMPTY_C_ONE, EMPTY_PYTHON = "empty C", "empty C, 1 arg", "empty Python"
FAST, CFFI, STOCK = "otel_shm fast", "otel_shm cffi", "stock SDK"
PROMETHEUS, PROMETHEUS_FILES = "prometheus", "prometheus mp"
# The others have the default filter, and no span is current.
FAST_OFF, FAST_CONTEXT = "fast, filter off", "fast, context"
FAST_UNSAMPLED, FAST_SAMPLED, STOCK_SAMPLED = "fast, unsampled", "fast, sampled", "stock, sampled"


# Each is given a folder for what it has to write.
CONTESTANTS: dict[str, MakeCases] = {
    EMPTY_C: empty_c,
    EMPTY_C_ONE: empty_c_one_argument,
    EMPTY_PYTHON: empty_python,
    FAST: partial(this_package, "fast"),
    CFFI: partial(this_package, "cffi"),
    STOCK: stock,
    PROMETHEUS: prometheus,
    PROMETHEUS_FILES: prometheus_files,
    FAST_OFF: without_exemplars,
    FAST_CONTEXT: in_context,
    FAST_UNSAMPLED: partial(in_span, partial(this_package, "fast"), sampled=False),
    FAST_SAMPLED: partial(in_span, partial(this_package, "fast"), sampled=True),
    STOCK_SAMPLED: partial(in_span, stock, sampled=True),
}
# Not in the main tables.
FOR_EXEMPLARS = (FAST_OFF, FAST_CONTEXT, FAST_UNSAMPLED, FAST_SAMPLED, STOCK_SAMPLED)
