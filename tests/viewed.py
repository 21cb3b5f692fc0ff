# SPDX-License-Identifier: Apache-2.0
"""Instruments that views are for, and what a reader got of them by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.metrics.view import View
from points import Point, points_of

import otel_shm

Make = Callable[..., otel_shm.MeterProvider]


def named(reader: InMemoryMetricReader) -> dict[str, Point]:
    """The points of a reader by the names of their metrics, each of which has one."""
    points = points_of(reader.get_metrics_data())
    found = {point.name: point for point in points}
    assert len(found) == len(points)
    return found


def meter_with(make_provider: Make, reader: InMemoryMetricReader, *views: View) -> otel_shm.Meter:
    """A meter of a provider with these views."""
    meter = make_provider(reader, views=views).get_meter("scope", "1.2", "https://schema")
    assert isinstance(meter, otel_shm.Meter)
    return meter


KINDS: list[tuple[str, str]] = [
    ("create_counter", "Counter"),
    ("create_up_down_counter", "UpDownCounter"),
    ("create_histogram", "Histogram"),
    ("create_gauge", "_Gauge"),
    ("create_observable_counter", "ObservableCounter"),
    ("create_observable_up_down_counter", "ObservableUpDownCounter"),
    ("create_observable_gauge", "ObservableGauge"),
]


def observe(_options: CallbackOptions) -> Iterable[Observation]:
    """What observables of these tests see."""
    return [Observation(2, {"a": 1, "b": 1}), Observation(3, {"a": 1, "b": 2})]


def measure_with(meter: Any, create: str, name: str = "i") -> Any:
    """An instrument that measured, or will observe, the two of `observe`."""
    if "observable" in create:
        return getattr(meter, create)(name, [observe])
    instrument = getattr(meter, create)(name)
    how = {"create_gauge": "set", "create_histogram": "record"}.get(create, "add")
    for observation in observe(CallbackOptions()):
        getattr(instrument, how)(observation.value, observation.attributes)
    return instrument
