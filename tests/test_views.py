# SPDX-License-Identifier: Apache-2.0
"""Views: which instruments they are for, and what comes out of those."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.sdk import metrics as sdk
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.metrics.view import (
    Aggregation,
    ExplicitBucketHistogramAggregation,
    ExponentialBucketHistogramAggregation,
    LastValueAggregation,
    SumAggregation,
    View,
)
from points import OVERFLOW, Point, exact, points_of, values, without_limit
from sdk_version import SDK, todays_sdk
from viewed import KINDS, Make, measure_with, meter_with, named

import otel_shm

pytestmark = pytest.mark.usefixtures("backend")


# Which instruments.


@pytest.mark.parametrize(
    ("criteria", "applies"),
    [
        ({"instrument_name": "requests"}, True),
        ({"instrument_name": "request"}, False),
        ({"instrument_name": "req*"}, True),
        ({"instrument_name": "*"}, True),
        ({"instrument_name": "re?uest?"}, True),
        ({"instrument_name": "re?uest"}, False),
        ({"instrument_name": "[qr]equests"}, True),
        ({"instrument_name": "[!r]equests"}, False),
        ({"instrument_unit": "By"}, True),
        ({"instrument_unit": "B?"}, True),
        ({"instrument_unit": ""}, False),
        ({"instrument_unit": "s"}, False),
        ({"instrument_type": sdk.Counter}, True),
        ({"instrument_type": sdk.UpDownCounter}, False),
        ({"instrument_type": sdk.ObservableCounter}, False),
        ({"meter_name": "scope"}, True),
        ({"meter_name": "Scope"}, False),
        ({"meter_version": "1.2"}, True),
        ({"meter_version": "1"}, False),
        ({"meter_schema_url": "https://schema"}, True),
        ({"meter_schema_url": "https://other"}, False),
        ({"instrument_name": "r*", "meter_name": "scope", "instrument_type": sdk.Counter}, True),
        ({"instrument_name": "r*", "meter_name": "other"}, False),
        ({"instrument_name": "r*", "instrument_unit": "s"}, False),
    ],
    ids=repr,
)
def test_criteria(
    make_provider: Make, reader: InMemoryMetricReader, criteria: dict[str, Any], applies: bool
) -> None:
    """A view is for the instruments that all its criteria are true of."""
    meter = meter_with(make_provider, reader, View(**criteria, description="by the view"))
    meter.create_counter("requests", "By", "its own").add(1)
    assert named(reader)["requests"].description == ("by the view" if applies else "its own")


@pytest.mark.skipif(SDK < (1, 45), reason="names in views are taken as they are written")
def test_case_of_a_name_does_not_matter(make_provider: Make, reader: InMemoryMetricReader) -> None:
    """Names of instruments have none."""
    meter = meter_with(make_provider, reader, View(instrument_name="ReQuests", name="renamed"))
    meter.create_counter("REQuests").add(1)
    assert list(named(reader)) == ["renamed"]


@pytest.mark.parametrize(("create", "of_class"), KINDS)
def test_class_of_an_instrument(
    make_provider: Make, reader: InMemoryMetricReader, create: str, of_class: str
) -> None:
    """Each kind is found by its class of the SDK, and by no other."""
    views = [View(instrument_type=getattr(sdk, name), description=f"a {name}") for _, name in KINDS]
    measure_with(meter_with(make_provider, reader, *views), create)
    assert {point.description for point in points_of(reader.get_metrics_data())} == {
        f"a {of_class}"
    }


# What comes out.


def test_name_and_description(make_provider: Make, reader: InMemoryMetricReader) -> None:
    """A view gives what it names, and leaves the rest to the instrument."""
    meter = meter_with(
        make_provider,
        reader,
        View(instrument_name="a", name="Renamed"),
        View(instrument_name="b", description="described"),
        View(instrument_name="c"),
    )
    for name in "abc":
        meter.create_counter(name, "s", f"of {name}").add(1)
    seen = {p.name: (p.unit, p.description) for p in points_of(reader.get_metrics_data())}
    assert seen == {"Renamed": ("s", "of a"), "b": ("s", "described"), "c": ("s", "of c")}


@pytest.mark.parametrize(("create", "of_class"), KINDS)
def test_attribute_keys(
    make_provider: Make, reader: InMemoryMetricReader, create: str, of_class: str
) -> None:
    """Attributes that are left out make no series: what was measured with them is one."""
    meter = meter_with(
        make_provider,
        reader,
        View(instrument_name="i", name="kept", attribute_keys={"a", "other"}),
        View(instrument_name="i", name="none", attribute_keys=set()),
        otel_shm.View(instrument_name="i", name="excluded", excluded_attribute_keys=["b", "z"]),
        otel_shm.View(instrument_name="i", name="all", excluded_attribute_keys=[]),
    )
    measure_with(meter, create)
    total = 3 if "gauge" in create else 5
    found: dict[str, dict[str, float]] = {}
    for point in points_of(reader.get_metrics_data()):
        found.setdefault(point.name, {})[exact(point.attributes)] = point.value
    assert found == {
        "kept": {"{'a': 1}": total},
        "none": {"{}": total},
        "excluded": {"{'a': 1}": total},
        "all": {"{'a': 1, 'b': 1}": 2, "{'a': 1, 'b': 2}": 3},
    }


def test_attribute_keys_and_bound_instruments(
    make_provider: Make, reader: InMemoryMetricReader
) -> None:
    """A bound instrument measures in every stream, in each with the attributes that it keeps."""
    meter = meter_with(
        make_provider,
        reader,
        View(instrument_name="i", name="kept", attribute_keys={"a"}),
        View(instrument_name="i", name="all"),
    )
    counter = meter.create_counter("i")
    bound = counter.bind({"a": 1, "b": 2})
    assert reader.get_metrics_data() is None
    bound.add(1)
    bound.add(1)
    counter.add(1, {"a": 1, "b": 3})
    assert values(reader, "kept") == {"{'a': 1}": 3}
    assert values(reader, "all") == {"{'a': 1, 'b': 2}": 2, "{'a': 1, 'b': 3}": 1}


def test_exclude_list_is_one_of_two() -> None:
    """What is kept and what is not cannot be named both; the other arguments are the SDK's."""
    with pytest.raises(ValueError, match="attribute_keys or excluded_attribute_keys, not both"):
        otel_shm.View(instrument_name="i", attribute_keys={"a"}, excluded_attribute_keys=["b"])
    with pytest.raises(Exception, match="Some instrument selection criteria must be provided"):
        otel_shm.View(excluded_attribute_keys=["b"])
    with pytest.raises(Exception, match="declared with wildcard characters"):
        otel_shm.View(instrument_name="*", name="n", excluded_attribute_keys=["b"])
    view = otel_shm.View(sdk.Counter, "i", attribute_keys={"a"})
    assert isinstance(view, View)
    assert view._instrument_type is sdk.Counter


AGGREGATIONS: list[tuple[Aggregation, str]] = [
    (SumAggregation(), "Sum"),
    (LastValueAggregation(), "Gauge"),
    (ExplicitBucketHistogramAggregation([1.0, 2.0]), "Histogram"),
    (ExponentialBucketHistogramAggregation(4), "ExponentialHistogram"),
]


@todays_sdk
@pytest.mark.parametrize(("aggregation", "kind"), AGGREGATIONS, ids=lambda x: str(x)[:30])
@pytest.mark.parametrize(("create", "of_class"), KINDS)
def test_any_aggregation_of_any_instrument(
    make_provider: Make,
    reader: InMemoryMetricReader,
    aggregation: Aggregation,
    kind: str,
    create: str,
    of_class: str,
) -> None:
    """What comes out is what the SDK makes of it: class, values, monotonic, temporality."""
    stock_reader = InMemoryMetricReader()
    view = View(instrument_name="i", aggregation=aggregation, attribute_keys=set())
    stock = sdk.MeterProvider([stock_reader], shutdown_on_exit=False, views=[view])
    if "observable" in create and "Histogram" in kind:
        kind = "Gauge" if "gauge" in create else "Sum"  # is not applied
    for meter in (stock.get_meter("scope"), meter_with(make_provider, reader, view)):
        measure_with(meter, create)

    def seen(point: Point) -> str:
        of_histograms = ("count", "bucket_counts", "explicit_bounds", "scale", "positive")
        values = (*point[2:10], *(getattr(point.data, name, None) for name in of_histograms))
        return repr(values).replace("[", "(").replace("]", ")")

    ours, theirs = (points_of(each.get_metrics_data()) for each in (reader, stock_reader))
    stock.shutdown()
    assert list(map(seen, ours)) == list(map(seen, theirs))
    assert {point.kind for point in ours} == {kind}


@todays_sdk
def test_cardinality_limit(make_provider: Make) -> None:
    """A view's limit goes before a reader's, counts what the filter left, and overflows in addition."""
    reader = without_limit(InMemoryMetricReader())
    meter = meter_with(
        make_provider,
        reader,
        View(instrument_name="i", name="few", aggregation_cardinality_limit=3),
        View(
            instrument_name="i",
            name="filtered",
            attribute_keys={"parity"},
            aggregation_cardinality_limit=2,
        ),
        View(instrument_name="i", name="all"),
    )
    counter = meter.create_counter("i")
    for _ in range(2):
        for n in range(10):
            counter.add(1, {"n": n, "parity": n % 2})
    few = values(reader, "few")
    assert few.pop(OVERFLOW) == 14
    assert few == {exact({"n": n, "parity": n % 2}): 2 for n in range(3)}
    assert values(reader, "filtered") == {"{'parity': 0}": 10, "{'parity': 1}": 10}
    assert len(values(reader, "all")) == 10
