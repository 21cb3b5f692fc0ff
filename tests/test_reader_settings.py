# SPDX-License-Identifier: Apache-2.0
"""What readers ask for: temporality, default aggregation and limit of each kind of instrument."""

from __future__ import annotations

from typing import Any
from unittest.mock import MagicMock, Mock

import pytest
from opentelemetry.sdk import metrics as sdk
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    ConsoleMetricExporter,
    InMemoryMetricReader,
    MetricExporter,
    MetricReader,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.metrics.view import (
    Aggregation,
    DefaultAggregation,
    DropAggregation,
    ExplicitBucketHistogramAggregation,
    ExponentialBucketHistogramAggregation,
    LastValueAggregation,
    SumAggregation,
)
from recording import NEVER

import otel_shm
from otel_shm import buffer as rules
from otel_shm.reader_settings import CLASSES, DEFAULT_LIMIT, ReaderSettings

CUMULATIVE, DELTA = AggregationTemporality.CUMULATIVE, AggregationTemporality.DELTA
KINDS = range(1, 8)


def test_every_kind_has_a_class_of_the_sdk() -> None:
    """The table is complete, and our instruments are of those classes."""
    assert set(CLASSES) == set(KINDS)
    meter = otel_shm.MeterProvider(shutdown_on_exit=False).get_meter("m")
    made = {
        rules.COUNTER: meter.create_counter("c"),
        rules.UP_DOWN_COUNTER: meter.create_up_down_counter("u"),
        rules.HISTOGRAM: meter.create_histogram("h"),
        rules.GAUGE: meter.create_gauge("g"),
        rules.OBSERVABLE_COUNTER: meter.create_observable_counter("oc"),
        rules.OBSERVABLE_UP_DOWN_COUNTER: meter.create_observable_up_down_counter("ou"),
        rules.OBSERVABLE_GAUGE: meter.create_observable_gauge("og"),
    }
    for kind, instrument in made.items():
        fitting = [number for number, of in CLASSES.items() if isinstance(instrument, of)]
        assert fitting == [kind]


@pytest.mark.parametrize(
    "reader",
    [InMemoryMetricReader(), Mock(), MagicMock(), object()],
    ids=lambda reader: type(reader).__name__,
)
def test_defaults(reader: Any) -> None:
    """Totals of everything, the aggregations of the specification and its limit; also for stand-ins."""
    settings = ReaderSettings(reader)
    for kind in KINDS:
        assert settings.temporality[kind] is CUMULATIVE
        assert isinstance(settings.aggregation[kind], DefaultAggregation)
        assert settings.limit[kind] == DEFAULT_LIMIT == 2000
    assert settings.delta_kinds == frozenset()


@pytest.mark.parametrize("kind", KINDS)
def test_temporality_of_a_kind(kind: int) -> None:
    """What a reader prefers for a class is for that kind only."""
    settings = ReaderSettings(InMemoryMetricReader({CLASSES[kind]: DELTA}))
    assert settings.delta_kinds == {kind}
    assert {k for k, value in settings.temporality.items() if value is DELTA} == {kind}
    explicitly = ReaderSettings(InMemoryMetricReader(dict.fromkeys(CLASSES.values(), CUMULATIVE)))
    assert explicitly.delta_kinds == frozenset()


@pytest.mark.parametrize("kind", KINDS)
def test_aggregation_of_a_kind(kind: int) -> None:
    """So is the default aggregation."""
    wanted = LastValueAggregation()
    settings = ReaderSettings(InMemoryMetricReader(None, {CLASSES[kind]: wanted}))
    assert settings.aggregation[kind] is wanted
    others = [settings.aggregation[k] for k in KINDS if k != kind]
    assert all(isinstance(other, DefaultAggregation) for other in others)


@pytest.mark.parametrize("kind", KINDS)
def test_limit_of_a_kind(kind: int) -> None:
    """And the limit, as SDKs since 1.45.2 have it."""
    reader = InMemoryMetricReader()
    table = {
        key: 7 if key.__name__ == f"_{CLASSES[kind].__name__.lstrip('_')}" else 2000
        for key in reader._instrument_class_temporality
    }
    reader._instrument_class_cardinality_limit = table  # type: ignore[attr-defined]
    settings = ReaderSettings(reader)
    assert {k: limit for k, limit in settings.limit.items() if limit != 2000} == {kind: 7}


def test_exporters_say_what_they_prefer() -> None:
    """A periodic reader asks for what its exporter prefers."""
    exporter = ConsoleMetricExporter(
        preferred_temporality={sdk.Counter: DELTA},
        preferred_aggregation={sdk.Histogram: ExponentialBucketHistogramAggregation()},
    )
    reader = PeriodicExportingMetricReader(exporter, NEVER)
    settings = ReaderSettings(reader)
    assert settings.delta_kinds == {rules.COUNTER}
    assert isinstance(settings.aggregation[rules.HISTOGRAM], ExponentialBucketHistogramAggregation)
    reader._collect = lambda *_, **__: None  # or its last collection complains
    reader.shutdown()


@pytest.mark.parametrize(
    ("preference", "kinds"),
    [
        ("cumulative", set()),
        ("DELTA", {rules.COUNTER, rules.HISTOGRAM, rules.OBSERVABLE_COUNTER}),
        ("lowmemory", {rules.COUNTER, rules.HISTOGRAM}),
    ],
)
def test_otlp_preferences(
    preference: str, kinds: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE makes of an OTLP exporter holds."""
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", preference)
    exporter: MetricExporter = OTLPMetricExporter(endpoint="http://127.0.0.1:1")
    reader = PeriodicExportingMetricReader(exporter, NEVER)
    settings = ReaderSettings(reader)
    assert settings.delta_kinds == kinds
    assert isinstance(settings.aggregation[rules.HISTOGRAM], ExplicitBucketHistogramAggregation)
    reader._collect = lambda *_, **__: None
    reader.shutdown()


class Odd(MetricReader):
    """A reader whose tables are not what they must be."""

    def _receive_metrics(self, *_: Any, **__: Any) -> None:
        """Takes nothing."""

    def shutdown(self, timeout_millis: float = 30_000, **_: Any) -> None:
        """Has nothing to end."""


@pytest.mark.parametrize("table", [None, [], {sdk.Counter: "delta"}, {sdk.Counter: None}], ids=repr)
def test_tables_that_are_none_give_defaults(table: Any) -> None:
    """A version of the SDK that renames or changes them is used as if nothing had been asked for."""
    reader = Odd()
    for name in ("temporality", "aggregation", "cardinality_limit"):
        setattr(reader, f"_instrument_class_{name}", table)
    settings = ReaderSettings(reader)
    assert settings.delta_kinds == frozenset()
    assert set(settings.limit.values()) == {2000}
    assert all(isinstance(a, DefaultAggregation) for a in settings.aggregation.values())


@pytest.mark.parametrize(
    ("kind", "aggregation"),
    [
        (sdk.Counter, ExponentialBucketHistogramAggregation(max_size=1)),
        (sdk.Histogram, ExponentialBucketHistogramAggregation(max_size=99_999)),
    ],
)
def test_default_that_cannot_be_is_refused_at_once(kind: type, aggregation: Aggregation) -> None:
    """When the provider is made, or the reader added; the reader stays free."""
    reader = InMemoryMetricReader(None, {kind: aggregation})
    with pytest.raises(ValueError, match="Buckets max size"):
        otel_shm.MeterProvider([reader], shutdown_on_exit=False)
    provider = otel_shm.MeterProvider(shutdown_on_exit=False)
    with pytest.raises(ValueError, match="Buckets max size"):
        provider.add_metric_reader(reader)
    stock = sdk.MeterProvider([reader], shutdown_on_exit=False)
    stock.shutdown()


@pytest.mark.parametrize("aggregation", [DropAggregation(), SumAggregation()], ids=repr)
def test_what_a_reader_does_not_have_costs_others_nothing(aggregation: Aggregation) -> None:
    """A default aggregation of one reader is no reason to fail for kinds that nobody uses."""
    reader = InMemoryMetricReader(
        {sdk.Histogram: DELTA, sdk.ObservableGauge: DELTA}, {sdk.ObservableGauge: aggregation}
    )
    provider = otel_shm.MeterProvider([reader], shutdown_on_exit=False)
    provider.get_meter("m").create_counter("c").add(1)
    data = reader.get_metrics_data()
    assert data is not None
    assert data.resource_metrics[0].scope_metrics[0].metrics[0].name == "c"
    provider.shutdown()
