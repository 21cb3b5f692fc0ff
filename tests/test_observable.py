# SPDX-License-Identifier: Apache-2.0
"""Observable gauges: which callbacks run, what becomes a point, what an error costs."""

from __future__ import annotations

import decimal
import logging
import threading
import weakref
from collections.abc import Generator, Iterable
from typing import Any

import pytest
from opentelemetry import metrics as api
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk import metrics as sdk
from opentelemetry.sdk.metrics import MetricsTimeoutError
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.metrics.view import View
from points import exact, points_of, values

from otel_shm import Meter, MeterProvider, ObservableGauge

SDK_LOGGER = "opentelemetry.sdk.metrics._internal.instrument"


class Source:
    """A callback that observes what the test puts into it, and counts its calls."""

    def __init__(self, *observations: Any) -> None:
        self.observations = list(observations)
        self.options: list[CallbackOptions] = []

    def __call__(self, options: CallbackOptions) -> Iterable[Observation]:
        """Yields the observations; an exception among them is raised in its place."""
        self.options.append(options)
        for observation in self.observations:
            if isinstance(observation, BaseException):
                raise observation
            yield observation


def test_every_callback_runs_once_a_collection(meter: Meter, reader: InMemoryMetricReader) -> None:
    """Not at creation, not when asked for again; the observations of all make the points."""
    first, second = Source(Observation(1, {"a": 1})), Source(Observation(2, {"a": 2}))
    gauge = meter.create_observable_gauge("g", [first, second], "By", "d")
    assert meter.create_observable_gauge("g", [first], "By", "d") is gauge
    assert not first.options
    for collections in (1, 2, 3):
        assert values(reader) == {"{'a': 1}": 1, "{'a': 2}": 2}
        assert len(first.options) == len(second.options) == collections


def test_callbacks_run_for_each_reader(make_provider: Any, reader: InMemoryMetricReader) -> None:
    """Two readers of a provider collect twice, as with the SDK."""
    other, source = InMemoryMetricReader(), Source(Observation(1))
    make_provider(reader, other).get_meter("m").create_observable_gauge("g", [source])
    assert values(reader) == values(other) == {"{}": 1}
    assert len(source.options) == 2


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, 0),
        (-5, -5),
        (1.5, 1.5),
        (True, 1),
        (2**62, 2**62),
        (2**64, 2.0**64),
        (-0.0, 0.0),
        (decimal.Decimal("0.5"), 0.5),
        (-(2**63), -(2.0**63)),
    ],
    ids=str,
)
def test_values(meter: Meter, reader: InMemoryMetricReader, value: Any, expected: Any) -> None:
    """Ints stay int while they fit in a slot, the rest becomes float."""
    meter.create_observable_gauge("g", [Source(Observation(value))])
    assert exact(values(reader)) == exact({"{}": expected})


def test_generator_as_callback(meter: Meter, reader: InMemoryMetricReader) -> None:
    """It is advanced to its first yield, gets the options at each collection, and may end."""
    got: list[CallbackOptions] = []

    def generate() -> Generator[Iterable[Observation], CallbackOptions, None]:
        options = yield []
        for value in (1, 2):
            got.append(options)
            options = yield [Observation(value)]

    meter.create_observable_gauge("g", [generate()])
    assert values(reader) == {"{}": 1}
    assert values(reader) == {"{}": 2}
    assert values(reader) == {}
    assert values(reader) == {}
    assert [type(options) for options in got] == [CallbackOptions, CallbackOptions]


def test_what_was_not_observed_is_no_point(meter: Meter, reader: InMemoryMetricReader) -> None:
    """A set of attributes is there when it was observed just now, and may come back."""
    source = Source(Observation(1, {"a": 1}), Observation(2, {"a": 2}))
    meter.create_observable_gauge("g", [source])
    assert values(reader) == {"{'a': 1}": 1, "{'a': 2}": 2}
    first = source.observations.pop(0)
    assert values(reader) == {"{'a': 2}": 2}
    source.observations.clear()
    assert reader.get_metrics_data() is None
    source.observations.append(first)
    assert values(reader) == {"{'a': 1}": 1}


def test_the_last_of_equal_attributes_wins(meter: Meter, reader: InMemoryMetricReader) -> None:
    """Within one collection, in one callback or in several."""
    first = Source(Observation(1, {"a": 1, "b": 2}), Observation(2, {"b": 2, "a": 1}))
    meter.create_observable_gauge("g", [first, Source(Observation(3.5, {"a": 1, "b": 2}))])
    assert values(reader) == {"{'a': 1, 'b': 2}": 3.5}


def test_a_float_makes_the_series_float(meter: Meter, reader: InMemoryMetricReader) -> None:
    """Once a float was observed the series stays float, as that of a Gauge does."""
    source = Source()
    meter.create_observable_gauge("g", [source])
    for value, expected in ((1, 1), (1.5, 1.5), (2, 2.0)):
        source.observations = [Observation(value)]
        assert exact(values(reader)) == exact({"{}": expected})


@pytest.mark.parametrize("error", [ZeroDivisionError("oh"), TimeoutError(), MetricsTimeoutError()])
def test_an_error_costs_its_callback_only(
    meter: Meter, reader: InMemoryMetricReader, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    """What was yielded before stays, other callbacks and instruments run; one ERROR with traceback."""
    broken = Source(Observation(1, {"a": 1}), error, Observation(2, {"a": 2}))
    meter.create_observable_gauge("g", [broken, Source(Observation(3, {"a": 3}))])
    meter.create_observable_gauge("other", [Source(Observation(4, {"a": 4}))])
    assert values(reader) == {"{'a': 1}": 1, "{'a': 3}": 3, "{'a': 4}": 4}
    assert caplog.record_tuples == [
        (SDK_LOGGER, logging.ERROR, "Callback failed for instrument g.")
    ]
    assert caplog.records[0].exc_info is not None
    assert caplog.records[0].exc_info[1] is error


@pytest.mark.parametrize(
    "returned",
    [
        None,
        5,
        object(),
        [None],
        [5],
        ["ab"],
        [Observation(None)],
        [Observation("1")],
        [Observation(1j)],
        [Observation(10**400)],
    ],
    ids=lambda returned: repr(returned)[:30],
)
def test_what_is_no_observation(
    meter: Meter, reader: InMemoryMetricReader, caplog: pytest.LogCaptureFixture, returned: Any
) -> None:
    """It is logged as a failure of the callback, and the next one runs."""
    meter.create_observable_gauge("g", [lambda _options: returned, Source(Observation(1))])
    assert values(reader) == {"{}": 1}
    assert caplog.record_tuples == [
        (SDK_LOGGER, logging.ERROR, "Callback failed for instrument g.")
    ]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")], ids=str)
def test_value_that_is_not_finite(
    meter: Meter, reader: InMemoryMetricReader, caplog: pytest.LogCaptureFixture, value: float
) -> None:
    """It is left out with the SDK's warning; the callback goes on."""
    source = Source(Observation(value, {"a": 1}), Observation(1, {"a": 2}))
    meter.create_observable_gauge("g", [source])
    assert values(reader) == {"{'a': 2}": 1}
    text = f"Callback returned a non-finite value {value} for instrument g, ignoring measurement."
    assert caplog.record_tuples == [(SDK_LOGGER, logging.WARNING, text)]


def test_odd_attributes(
    meter: Meter, reader: InMemoryMetricReader, caplog: pytest.LogCaptureFixture
) -> None:
    """They are made legal as those of a synchronous instrument are."""
    source = Source(
        Observation(1, [1]),
        Observation(2, {"a": [1], "b": {"c": None}}),
        Observation(3, {"a": 2**70, "b": 1}),
    )
    meter.create_observable_gauge("g", [source])
    assert values(reader) == {"{}": 1, "{'a': [1], 'b': {'c': None}}": 2, "{'b': 1}": 3}
    texts = [record.getMessage() for record in caplog.records]
    assert texts[0] == f"Invalid type '{list}' for attributes. Expected a Mapping or None."
    assert "ObservableGauge g: attribute 'a' cannot be sent over OTLP" in texts[1]
    values(reader)
    assert len(caplog.records) == 3  # the attribute is told once, the wrong type each time


def test_no_callbacks(meter: Meter, reader: InMemoryMetricReader) -> None:
    """None and an empty list are an instrument without points."""
    meter.create_observable_gauge("a")
    meter.create_observable_gauge("b", [])
    meter.create_observable_gauge("c", None)
    meter.create_observable_gauge("d", callbacks=[Source(Observation(1))])
    assert [point.name for point in points_of(reader.get_metrics_data())] == ["d"]


def test_callbacks_are_told_the_time_they_have(meter: Meter, reader: InMemoryMetricReader) -> None:
    """As with the SDK: what is left of the collection's time, ten seconds at most."""
    source = Source(Observation(1))
    meter.create_observable_gauge("g", [source])
    for timeout_millis in (5_000, 10_000, 1e9, float("inf")):
        reader.collect(timeout_millis=timeout_millis)
        assert 0 < source.options[-1].timeout_millis <= min(timeout_millis, 10_000)


def test_slow_callbacks_time_out(meter: Meter, reader: InMemoryMetricReader) -> None:
    """A collection past its time raises MetricsTimeoutError; the next one is not hurt."""
    passed, late = threading.Event(), Source(Observation(2))

    def slow(options: CallbackOptions) -> Iterable[Observation]:
        threading.Event().wait(options.timeout_millis / 1e3 + 0.01)
        passed.set()
        return [Observation(1)]

    meter.create_observable_gauge(
        "slow", [lambda o: [Observation(1)] if passed.is_set() else slow(o)]
    )
    meter.create_observable_gauge("late", [late])
    with pytest.raises(MetricsTimeoutError):
        reader.collect(timeout_millis=20)
    assert not late.options
    assert {point.name for point in points_of(reader.get_metrics_data())} == {"slow", "late"}


def test_no_time_at_all(meter: Meter, reader: InMemoryMetricReader) -> None:
    """A timeout of zero or less is over before the first callback."""
    source = Source(Observation(1))
    meter.create_observable_gauge("g", [source])
    for timeout_millis in (0, -1):
        with pytest.raises(MetricsTimeoutError):
            reader.collect(timeout_millis=timeout_millis)
    assert not source.options


def test_callback_may_use_the_meter(
    meter: Meter, provider: MeterProvider, reader: InMemoryMetricReader
) -> None:
    """Measuring, creating instruments and getting meters inside a callback is no deadlock."""
    counter = meter.create_counter("c")

    def busy(_options: CallbackOptions) -> Iterable[Observation]:
        counter.add(1)
        meter.create_gauge("inner").set(2)
        provider.get_meter("new").create_observable_gauge("new", [Source(Observation(3))])
        yield Observation(4)

    meter.create_observable_gauge("g", [busy])
    reader.get_metrics_data()
    found = {point.name: point.value for point in points_of(reader.get_metrics_data())}
    assert found == {"c": 2, "inner": 2, "new": 3, "g": 4}


def test_callback_that_collects_times_out(
    meter: Meter, reader: InMemoryMetricReader, caplog: pytest.LogCaptureFixture
) -> None:
    """A collection inside a collection fails in its callback, and does not hang."""
    meter.create_observable_gauge("g", [lambda _options: reader.collect(timeout_millis=10)])
    meter.create_counter("c").add(1)
    assert values(reader) == {"{}": 1}
    assert [record.getMessage() for record in caplog.records] == [
        "Callback failed for instrument g."
    ]


def test_observable_is_what_the_api_and_the_sdk_call_so(meter: Meter) -> None:
    """isinstance() holds for the classes of both, Views match, and it tells what it is."""
    gauge = meter.create_observable_gauge("G", unit="By", description="d")
    assert isinstance(gauge, (ObservableGauge, api.ObservableGauge))
    assert isinstance(gauge, sdk.ObservableGauge)
    assert isinstance(gauge, api.Asynchronous)
    assert not isinstance(gauge, (sdk.ObservableCounter, sdk.Counter))
    assert View(instrument_type=sdk.ObservableGauge)._match(gauge)
    assert (gauge.name, gauge.unit, gauge.description) == ("g", "By", "d")
    assert gauge.instrumentation_scope.name == "scope"
    assert repr(gauge) == "<otel_shm.ObservableGauge 'g'>"
    assert weakref.ref(gauge)() is gauge


def test_empty_generator_raises_as_in_the_sdk(meter: Meter) -> None:
    """A generator that has no first yield is a mistake of the caller, told at creation."""

    def empty() -> Generator[Iterable[Observation], CallbackOptions, None]:
        return
        yield []

    stock = sdk.MeterProvider(shutdown_on_exit=False).get_meter("m")
    for create in (meter.create_observable_gauge, stock.create_observable_gauge):
        with pytest.raises(StopIteration):
            create("g", [empty()])
