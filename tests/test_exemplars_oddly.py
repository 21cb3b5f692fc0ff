# SPDX-License-Identifier: Apache-2.0
"""Exemplars that OTLP cannot carry, and filters and reservoirs that fail: what they cost."""

from __future__ import annotations

import decimal
import fractions
import logging
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from exemplified import context_of, exemplars_of, in_span, in_trace
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.metrics import Observation
from opentelemetry.sdk.metrics import AlwaysOnExemplarFilter, ExemplarFilter, ExemplarReservoir
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.metrics.view import View
from points import exact, points_of, values

import otel_shm

pytestmark = pytest.mark.usefixtures("backend")

Make = Callable[..., otel_shm.MeterProvider]

ON = AlwaysOnExemplarFilter()


@pytest.mark.parametrize(
    ("amount", "expected"),
    [
        (True, 1),
        (2**63 - 1, 2**63 - 1),
        (2**63, 2.0**63),
        (10**30, 1e30),
        (1e308, 1e308),
        (decimal.Decimal("2.5"), 2.5),
        (fractions.Fraction(7, 2), 3.5),
    ],
    ids=str,
)
def test_odd_amounts_can_be_exported(
    make_provider: Make, reader: InMemoryMetricReader, amount: Any, expected: Any
) -> None:
    """An exemplar has the value that was measured, as OTLP can carry it."""
    meter = make_provider(reader).get_meter("m")
    with in_span(1):
        meter.create_counter("c").add(amount)
        meter.create_histogram("h").bind().record(amount)
    meter.create_observable_gauge("o", [lambda _: [Observation(amount, None, context_of(1))]])
    data = reader.get_metrics_data()
    for metric in encoded(data):
        (point,) = getattr(metric, metric.WhichOneof("data")).data_points
        (exemplar,) = point.exemplars
        value = exemplar.as_double if exemplar.HasField("as_double") else exemplar.as_int
        assert exact(value) == exact(expected)
        assert int.from_bytes(exemplar.trace_id, "big") == 1
    assert len(encoded(data)) == 3


def encoded(data: Any) -> Sequence[Any]:
    """The metrics as OTLP."""
    (resource,) = encode_metrics(data).resource_metrics
    (scope,) = resource.scope_metrics
    return scope.metrics


def test_odd_attributes_can_be_exported(
    make_provider: Make, reader: InMemoryMetricReader, caplog: pytest.LogCaptureFixture
) -> None:
    """What OTLP cannot carry is not in an exemplar, as it is not in a point; the rest is."""
    views = [View(instrument_name="*", attribute_keys=set())]
    counter = make_provider(reader, views=views).get_meter("m").create_counter("c")
    attributes = {"big": 2**70, "text": "x", "surrogate": "\ud800", "bytes": b"\xff", "none": None}
    with in_span(1):
        counter.add(1, attributes)
    (metric,) = encoded(reader.get_metrics_data())
    (exemplar,) = metric.sum.data_points[0].exemplars
    assert {each.key for each in exemplar.filtered_attributes} == {"text", "bytes", "none"}
    assert not [each for each in caplog.records if each.name.startswith("opentelemetry.exporter")]


# What is not ours may fail.


class Broken(ExemplarReservoir):
    """A reservoir that raises where it is told to."""

    where = ""

    def __init__(self, **_: Any) -> None:
        if self.where == "init":
            raise ZeroDivisionError("init")

    def offer(self, *_: Any) -> None:
        """Raises, or does nothing."""
        if self.where == "offer":
            raise ZeroDivisionError("offer")

    def collect(self, point_attributes: Any) -> Any:
        """Raises, or returns what is no list of exemplars."""
        if self.where == "collect":
            raise ZeroDivisionError("collect")
        return {"none": None, "number": 5, "strings": ["a"]}.get(self.where, [])


class BrokenFilter(ExemplarFilter):
    """A filter that raises."""

    def should_sample(self, *_: Any) -> bool:
        """Raises."""
        raise ZeroDivisionError("filter")


@pytest.mark.parametrize(
    "where", ["filter", "factory", "init", "offer", "collect", "none", "number", "strings"]
)
def test_what_fails_costs_exemplars_only(
    where: str,
    make_provider: Make,
    reader: InMemoryMetricReader,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An exception of a filter or reservoir is logged once; everything is measured and exported."""
    monkeypatch.setattr(Broken, "where", where)

    def factory(_aggregation: type) -> type:
        if where == "factory":
            raise ZeroDivisionError("factory")
        return Broken

    views = [View(instrument_name="broken", exemplar_reservoir_factory=factory)]
    chosen = BrokenFilter() if where == "filter" else ON
    meter = make_provider(reader, views=views, exemplar_filter=chosen).get_meter("m")
    counter, other = meter.create_counter("broken"), meter.create_counter("other")
    bound = counter.bind({"a": 1})
    for turn in range(1, 4):
        counter.add(1, {"a": 1})
        counter.add(1)
        bound.add(1)
        other.add(1)
        data = reader.get_metrics_data()
        assert {(p.name, exact(p.attributes)): p.value for p in points_of(data)} == {
            ("broken", "{'a': 1}"): 2 * turn,
            ("broken", "{}"): turn,
            ("other", "{}"): turn,
        }
        assert len(encoded(data)) == 2
        expected = {} if where == "filter" else {("other", "{}"): [in_trace(1, None)]}
        assert exemplars_of(data) == expected
    logged = [each for each in caplog.records if each.name.startswith("otel_shm.")]
    assert len(logged) == (2 if where == "filter" else 1)  # once an instrument
    assert all(
        each.levelno == logging.WARNING and "exemplar" in each.getMessage().lower()
        for each in logged
    )
    assert len(caplog.records) == len(logged)


def test_measurement_inside_of_sampling_is_no_deadlock(
    make_provider: Make, reader: InMemoryMetricReader
) -> None:
    """What runs in the middle of it, a finalizer or a signal handler, may measure in the same series."""
    counter = make_provider(reader, exemplar_filter=ON).get_meter("m").create_counter("c")

    class Busy(trace.NonRecordingSpan):
        def get_span_context(self) -> trace.SpanContext:
            """As a reservoir asks for it."""
            if not nested:
                nested.append(1)
                with in_span(2):
                    counter.add(1)
            return super().get_span_context()

    nested: list[int] = []
    context = trace.get_current_span(context_of(1)).get_span_context()
    with trace.use_span(Busy(context)):
        counter.add(1)
    assert values(reader) == {"{}": 2}
    assert nested
