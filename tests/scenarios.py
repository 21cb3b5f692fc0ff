# SPDX-License-Identifier: Apache-2.0
"""Scripts that any MeterProvider can play: what is made, then measured, observed and collected.

A `Scenario` prints as the Python that makes it, so one that failed can be pasted into a test.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from opentelemetry import metrics as api
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk import metrics as sdk
from opentelemetry.sdk.metrics import view as sdk_view
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    InMemoryMetricReader,
    MetricReader,
    MetricsData,
)
from opentelemetry.sdk.resources import Resource

CLASSES: dict[str, type] = {
    "Counter": sdk.Counter,
    "UpDownCounter": sdk.UpDownCounter,
    "Histogram": sdk.Histogram,
    "Gauge": sdk._Gauge,
    "ObservableCounter": sdk.ObservableCounter,
    "ObservableUpDownCounter": sdk.ObservableUpDownCounter,
    "ObservableGauge": sdk.ObservableGauge,
}
OBSERVABLES = tuple(kind for kind in CLASSES if kind.startswith("Observable"))
RESOURCE = Resource({"service.name": "differential"}, "https://resource")

# Among the items that a callback observes:
FAIL = "FAIL"  # raises there; as the first item in the call itself
JUNK = "JUNK"  # yields what is no Observation
# Instead of the items:
END = "END"  # a generator returns; a function observes nothing
NOTHING = None  # returns None, which nobody can iterate over


class Shown:
    """An attribute value or key of no legal type, which says how to show itself."""

    def __repr__(self) -> str:
        return "Shown()"

    def __hash__(self) -> int:
        return 1

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Shown)


class Hidden:
    """An attribute value or key of no legal type, which does not."""


class Scope(NamedTuple):
    """The arguments of get_meter."""

    name: str
    version: str | None = None
    schema_url: str | None = None
    attributes: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Instrument:
    """The arguments of create_*; one word a callback: "list", "yield" or "generator"."""

    kind: str
    name: str = "a"
    unit: str = ""
    description: str = ""
    scope: int = 0
    advisory: Sequence[float] | None = None
    callbacks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Aggregation:
    """The name of one of the SDK's, without the word Aggregation, and its options."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def make(self) -> sdk_view.Aggregation:
        """The SDK's object."""
        made: sdk_view.Aggregation = getattr(sdk_view, f"{self.name}Aggregation")(**self.options)
        return made


@dataclass(frozen=True)
class View:
    """The arguments of the SDK's View; instrument_type is the name of a kind."""

    options: Mapping[str, Any]
    aggregation: Aggregation | None = None
    api_type: bool = False  # the API's class as instrument_type

    def make(self) -> sdk_view.View:
        """The SDK's object."""
        options = dict(self.options)
        if "instrument_type" in options:
            kind = options["instrument_type"]
            name = "_Gauge" if kind == "Gauge" else kind
            options["instrument_type"] = getattr(api, name) if self.api_type else CLASSES[kind]
        aggregation = self.aggregation.make() if self.aggregation else None
        return sdk_view.View(**options, aggregation=aggregation)


@dataclass(frozen=True)
class Reader:
    """The kinds with delta temporality, and by kind: aggregations and cardinality limits."""

    delta: tuple[str, ...] = ()
    aggregations: Mapping[str, Aggregation] = field(default_factory=dict)
    limits: Mapping[str, int] = field(default_factory=dict)

    def make(self) -> InMemoryMetricReader:
        """The SDK's object."""
        return InMemoryMetricReader(
            {CLASSES[kind]: AggregationTemporality.DELTA for kind in self.delta},
            {CLASSES[kind]: each.make() for kind, each in self.aggregations.items()},
            {CLASSES[kind]: limit for kind, limit in self.limits.items()},
        )


class Seen(NamedTuple):
    """One observation of a callback."""

    value: Any
    attributes: Any = None


class Measure(NamedTuple):
    """A step: add, record or set on a synchronous instrument."""

    instrument: int
    amount: Any
    attributes: Any = None


class Observe(NamedTuple):
    """A step: what a callback of an observable instrument observes from now on."""

    instrument: int
    items: Sequence[Seen | str] | str | None
    callback: int = 0


class Collect(NamedTuple):
    """A step: a reader collects."""

    reader: int = 0


@dataclass(frozen=True)
class Scenario:
    """A script. Instruments and readers are named by their places."""

    instruments: Sequence[Instrument]
    steps: Sequence[Measure | Observe | Collect]
    readers: Sequence[Reader] = (Reader(),)
    views: Sequence[View] = ()
    scopes: Sequence[Scope] = (Scope("scope"),)


class Collection(NamedTuple):
    """What a reader got, or the error it got instead."""

    reader: int
    data: MetricsData | None
    error: Exception | None = None


class Played(NamedTuple):
    """What became of a script: the types that measuring raised, by step, and the collections."""

    raised: dict[int, type[Exception]]
    collections: list[Collection]


Make = Callable[[list[MetricReader], list[sdk_view.View]], Any]


def stock(readers: list[MetricReader], views: list[sdk_view.View]) -> sdk.MeterProvider:
    """The SDK's provider."""
    return sdk.MeterProvider(readers, RESOURCE, shutdown_on_exit=False, views=views)


def play(make: Make, scenario: Scenario) -> Played:
    """Has a provider play a script.

    Args:
        make: a new provider for these readers and views.
        scenario: the script.
    """
    with quiet():
        readers = [reader.make() for reader in scenario.readers]
        provider = make([*readers], [view.make() for view in scenario.views])
        try:
            return _play(provider, readers, scenario)
        finally:
            provider.shutdown()


@contextmanager
def quiet() -> Iterator[None]:
    """Writing down warnings with tracebacks would take most of the time."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def _play(provider: Any, readers: list[InMemoryMetricReader], scenario: Scenario) -> Played:
    meters = [provider.get_meter(*scope) for scope in scenario.scopes]
    sources = [[_Source() for _ in each.callbacks] for each in scenario.instruments]
    instruments = [
        _create(meters[each.scope], each, callbacks)
        for each, callbacks in zip(scenario.instruments, sources, strict=True)
    ]
    played = Played({}, [])
    for number, step in enumerate(scenario.steps):
        match step:
            case Measure(instrument, amount, attributes):
                try:
                    _measure(instruments[instrument])(amount, attributes)
                except Exception as error:
                    played.raised[number] = type(error)
            case Observe(instrument, items, callback):
                sources[instrument][callback].items = items
            case Collect(reader):
                try:
                    played.collections.append(
                        Collection(reader, readers[reader].get_metrics_data())
                    )
                except Exception as error:
                    played.collections.append(Collection(reader, None, error))
    return played


def _create(meter: api.Meter, made: Instrument, sources: Sequence[_Source]) -> Any:
    text = {"unit": made.unit, "description": made.description}
    match made.kind:
        case "Counter":
            return meter.create_counter(made.name, **text)
        case "UpDownCounter":
            return meter.create_up_down_counter(made.name, **text)
        case "Gauge":
            return meter.create_gauge(made.name, **text)
        case "Histogram":
            return meter.create_histogram(
                made.name, **text, explicit_bucket_boundaries_advisory=made.advisory
            )
    callbacks: list[Any] = [
        source.generator() if how == "generator" else getattr(source, f"as_{how}")
        for source, how in zip(sources, made.callbacks, strict=True)
    ]
    match made.kind:
        case "ObservableCounter":
            return meter.create_observable_counter(made.name, callbacks, **text)
        case "ObservableUpDownCounter":
            return meter.create_observable_up_down_counter(made.name, callbacks, **text)
        case "ObservableGauge":
            return meter.create_observable_gauge(made.name, callbacks, **text)
    raise ValueError(made.kind)


def _measure(instrument: Any) -> Callable[[Any, Any], None]:
    """The method of a synchronous instrument that takes an amount."""
    found: Callable[[Any, Any], None] = next(
        getattr(instrument, name) for name in ("add", "record", "set") if hasattr(instrument, name)
    )
    return found


class _Source:
    """What a callback observes, and the shapes a callback may have."""

    def __init__(self) -> None:
        self.items: Sequence[Seen | str] | str | None = ()

    def as_list(self, options: CallbackOptions) -> Any:
        """A function that returns something to iterate over."""
        if self.items is NOTHING:
            return None
        items = () if self.items == END else tuple(self.items)
        if items[:1] == (FAIL,):
            raise RuntimeError("a callback fails")
        observations = self._observations(items)
        return observations if FAIL in items else list(observations)

    def as_yield(self, options: CallbackOptions) -> Iterator[Any]:
        """A function that yields; it fails at the first step only."""
        yield from self.as_list(options)

    def generator(self) -> Generator[Any, CallbackOptions, None]:
        """A generator, which is sent options; it never comes back after an error of its own."""
        options = yield ()
        while self.items != END:
            options = yield self.as_list(options)

    @staticmethod
    def _observations(items: Iterable[Seen | str]) -> Iterator[Any]:
        for item in items:
            if item == FAIL:
                raise RuntimeError("a callback fails")
            yield Observation(*item) if isinstance(item, Seen) else item
