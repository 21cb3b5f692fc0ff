# SPDX-License-Identifier: Apache-2.0
"""Several views, and views beside the defaults of readers; what is dropped, and what is warned of."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry.sdk import metrics as sdk
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.metrics.view import (
    Aggregation,
    DefaultAggregation,
    DropAggregation,
    ExplicitBucketHistogramAggregation,
    ExponentialBucketHistogramAggregation,
    LastValueAggregation,
    SumAggregation,
    View,
)
from points import exact, points_of
from viewed import KINDS, Make, measure_with, meter_with, named, observe

import otel_shm

pytestmark = pytest.mark.usefixtures("backend")

STORAGE = "opentelemetry.sdk.metrics._internal.metric_reader_storage"


# Several views.


def test_several_views_are_several_streams(
    make_provider: Make, reader: InMemoryMetricReader
) -> None:
    """Every view that is for an instrument makes a metric of it; views for others do not matter."""
    meter = meter_with(
        make_provider,
        reader,
        View(instrument_name="i", name="sum", aggregation=SumAggregation()),
        View(instrument_name="other", name="no"),
        View(instrument_name="i", name="explicit"),
        View(
            instrument_name="i",
            name="exponential",
            aggregation=ExponentialBucketHistogramAggregation(),
        ),
        View(instrument_name="i", name="dropped", aggregation=DropAggregation()),
        View(instrument_type=sdk.Histogram, description="once more"),
    )
    histogram = meter.create_histogram("i")
    histogram.record(3)
    histogram.record(0.5, {"a": 1})
    histogram.bind().record(1)
    found: dict[str, dict[str, float]] = {}
    for point in points_of(reader.get_metrics_data()):
        found.setdefault(point.name, {})[exact(point.attributes)] = point.value
    expected = {"{}": 4, "{'a': 1}": 0.5}
    assert found == dict.fromkeys(("sum", "explicit", "exponential", "i"), expected)


def test_equal_views_are_one_stream(
    make_provider: Make, reader: InMemoryMetricReader, caplog: pytest.LogCaptureFixture
) -> None:
    """Two views that say the same do not count twice, nor make a metric twice."""
    views = [View(instrument_name="*", description="d"), View(instrument_name="i", description="d")]
    meter_with(make_provider, reader, *views).create_counter("i").add(1)
    assert [point.value for point in points_of(reader.get_metrics_data())] == [1]
    assert not caplog.records


def test_drop(make_provider: Make, reader: InMemoryMetricReader) -> None:
    """What is dropped has no series, and the instrument says that it is not enabled."""
    view = View(instrument_name="i*", aggregation=DropAggregation())
    provider = make_provider(reader, views=[view])
    meter = provider.get_meter("m")
    for number, (create, _) in enumerate(KINDS):
        instrument = measure_with(meter, create, f"i{number}")
        assert instrument.enabled() is False
    counter = meter.create_counter("i")
    counter.bind({"a": 1}).add(1)
    with pytest.raises(TypeError):
        counter.add(None)  # as ever
    assert reader.get_metrics_data() is None
    statistics = provider.buffer.statistics
    assert (statistics.series, statistics.dropped, statistics.overflowed) == (0, 0, 0)
    assert measure_with(meter, "create_counter", "other").enabled() is True


# What is said.


def warnings_of(make: Callable[[], Any], caplog: pytest.LogCaptureFixture) -> list[str]:
    """What is said in the name of the SDK's storage of readers while something is made.

    Views are told apart by number: the default one is another with each provider.
    """
    caplog.clear()
    with caplog.at_level(logging.WARNING, STORAGE):
        make()
    said = [record.getMessage() for record in caplog.records if record.name == STORAGE]
    default = re.escape(repr(View(instrument_name="x"))).partition("0x")[0]
    numbers: dict[str, int] = {}
    return [
        re.sub(
            default + "0x[0-9a-f]+>", lambda m: str(numbers.setdefault(m[0], len(numbers))), text
        )
        for text in said
    ]


def sums(*names: str) -> list[View]:
    """Views that give instruments of some names one name."""
    return [View(instrument_name=name, name="same") for name in names]


CONFLICTS: list[tuple[list[View], list[tuple[str, str, str]], int]] = [
    (sums("a", "b"), [("create_counter", "a", ""), ("create_counter", "b", "")], 1),
    (sums("a", "b"), [("create_counter", "a", "s"), ("create_counter", "b", "")], 0),
    (sums("a", "b"), [("create_counter", "a", ""), ("create_up_down_counter", "b", "")], 0),
    (sums("a", "b"), [("create_counter", "a", ""), ("create_histogram", "b", "")], 0),
    (sums("a", "b"), [("create_counter", "a", ""), ("create_observable_counter", "b", "")], 0),
    (sums("a", "b"), [("create_gauge", "a", ""), ("create_observable_gauge", "b", "")], 1),
    (sums("a", "b"), [("create_histogram", "a", ""), ("create_histogram", "b", "")], 1),
    (sums("a"), [("create_counter", "same", ""), ("create_counter", "a", "")], 1),
    (sums("a"), [("create_counter", "a", ""), ("create_counter", "same", "")], 0),
    (sums("a", "b", "c"), [("create_counter", name, "") for name in "abc"], 3),
    (sums("a", "a"), [("create_counter", "a", "")], 0),
]


@pytest.mark.parametrize(("views", "instruments", "count"), CONFLICTS)
def test_conflicts_are_said_as_by_the_sdk(
    make_provider: Make,
    reader: InMemoryMetricReader,
    caplog: pytest.LogCaptureFixture,
    views: list[View],
    instruments: list[tuple[str, str, str]],
    count: int,
) -> None:
    """Two views that bring out one name, unit and kind of data are warned of, in the SDK's words."""

    def make(meter: Any) -> None:
        for create, name, unit in instruments:
            measure_in = getattr(meter, create)
            if "observable" in create:
                measure_in(name, [observe], unit=unit)
            else:
                instrument = measure_in(name, unit=unit)
                getattr(instrument, {"g": "set", "h": "record"}.get(create[7], "add"))(1)

    stock_reader = InMemoryMetricReader()
    stock = sdk.MeterProvider([stock_reader], shutdown_on_exit=False, views=views)
    theirs = warnings_of(
        lambda: (make(stock.get_meter("scope")), stock_reader.get_metrics_data()), caplog
    )
    stock.shutdown()
    ours = warnings_of(lambda: make(meter_with(make_provider, reader, *views)), caplog)
    assert ours == theirs
    assert len(ours) == count
    assert all("will cause conflicting metrics identities" in text for text in ours)


@pytest.mark.parametrize(
    "aggregation",
    [ExplicitBucketHistogramAggregation(), ExponentialBucketHistogramAggregation()],
    ids=lambda aggregation: type(aggregation).__name__,
)
def test_histogram_of_an_observable_is_not_applied(
    make_provider: Make,
    reader: InMemoryMetricReader,
    caplog: pytest.LogCaptureFixture,
    aggregation: Aggregation,
) -> None:
    """As the SDK says it, and the instrument has what it has without the view."""
    view = View(instrument_name="*", aggregation=aggregation)
    meter = meter_with(make_provider, reader, view)
    instrument: Any = None

    def make() -> None:
        nonlocal instrument
        instrument = meter.create_observable_up_down_counter("i", [observe])

    said = warnings_of(make, caplog)
    (text,) = said
    assert text.startswith(f"View 0 and instrument {instrument} will produce semantic errors")
    assert text.endswith("the view has not been applied.")
    assert {point.kind for point in points_of(reader.get_metrics_data())} == {"Sum"}


@pytest.mark.parametrize(
    "aggregation",
    [
        ExponentialBucketHistogramAggregation(max_size=1),
        ExponentialBucketHistogramAggregation(max_size=20_000),
    ],
    ids=["small", "large"],
)
def test_view_that_cannot_be_is_refused_at_once(aggregation: Aggregation) -> None:
    """When the provider is made, whether or not an instrument is ever there for it."""
    with pytest.raises(ValueError, match="Buckets max size"):
        otel_shm.MeterProvider(views=[View(instrument_name="x", aggregation=aggregation)])


# Views and the defaults of readers.


def test_readers_have_each_their_default(make_provider: Make) -> None:
    """Where a view leaves the aggregation open, each reader gets the one that it has by default."""
    plain = InMemoryMetricReader()
    sums_up = InMemoryMetricReader(None, {sdk.Histogram: SumAggregation()})
    drops = InMemoryMetricReader(None, {sdk.Histogram: DropAggregation()})
    views = [
        View(instrument_name="open", name="renamed"),
        View(instrument_name="decided", aggregation=ExplicitBucketHistogramAggregation([5])),
    ]
    meter = make_provider(plain, sums_up, drops, views=views).get_meter("m")
    for name in ("without", "open", "decided"):
        meter.create_histogram(name).record(3)

    def kinds(reader: InMemoryMetricReader) -> dict[str, str]:
        return {name: point.kind for name, point in named(reader).items()}

    assert kinds(plain) == dict.fromkeys(("without", "renamed", "decided"), "Histogram")
    assert kinds(sums_up) == {"without": "Sum", "renamed": "Sum", "decided": "Histogram"}
    assert kinds(drops) == {"decided": "Histogram"}


def test_instruments_suit_readers_that_come_later(make_provider: Make) -> None:
    """A reader with another default aggregation gets it of instruments that were there before, from
    then on."""
    plain, later = (
        InMemoryMetricReader(),
        InMemoryMetricReader(None, {sdk.Counter: LastValueAggregation()}),
    )
    provider = make_provider(plain)
    counter = provider.get_meter("m").create_counter("c")
    bound = counter.bind()
    counter.add(1)
    bound.add(1)
    provider.add_metric_reader(later)
    counter.add(10)
    assert named(plain)["c"].value == 12
    assert (named(later)["c"].kind, named(later)["c"].value) == ("Gauge", 10)


def test_default_aggregation_in_a_view_is_the_readers(
    make_provider: Make,
) -> None:
    """A view that names DefaultAggregation leaves it open."""
    reader = InMemoryMetricReader(None, {sdk.Counter: LastValueAggregation()})
    view = View(instrument_name="c", aggregation=DefaultAggregation())
    counter = make_provider(reader, views=[view]).get_meter("m").create_counter("c")
    counter.add(1)
    counter.add(5)
    assert (named(reader)["c"].kind, named(reader)["c"].value) == ("Gauge", 5)
