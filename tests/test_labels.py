# SPDX-License-Identifier: Apache-2.0
"""Label schemas: counters and gauges whose label keys are fixed when they are defined."""

from __future__ import annotations

import enum
import gc
import logging
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry import metrics
from opentelemetry.sdk import metrics as sdk
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from points import exact, points_of, values, without_limit
from processes import Processes, processes

from otel_shm import MeterProvider, counter_schema, gauge_schema, gauge_schema_float

__all__ = ["processes"]  # a fixture: found by its name in this module

pytestmark = pytest.mark.usefixtures("no_global_provider")

Make = Callable[..., MeterProvider]


@pytest.fixture
def provider_set(no_global_provider: None, provider: MeterProvider) -> MeterProvider:
    """`provider` as the global one."""
    metrics.set_meter_provider(provider)
    return provider


@pytest.mark.usefixtures("provider_set")
def test_counter(reader: InMemoryMetricReader) -> None:
    """Static and dynamic labels together are the attributes of a series."""
    requests = (
        counter_schema("http_requests_total")
        .static_label("service", "my-api")
        .require_dynamic_key("status_code")
        .build()
    )
    requests.with_labels(status_code="200").increment()
    requests.with_labels(status_code="200").increment(2)
    requests.with_labels(status_code="500").increment(1.5)
    assert values(reader) == {
        "{'service': 'my-api', 'status_code': '200'}": 3,
        "{'service': 'my-api', 'status_code': '500'}": 1.5,
    }
    (point, _) = points_of(reader.get_metrics_data())
    assert (point.name, point.kind, point.monotonic) == ("http_requests_total", "Sum", True)
    assert point.scope.name == "otel_shm"


@pytest.mark.usefixtures("provider_set")
def test_gauges(reader: InMemoryMetricReader) -> None:
    """One of whole numbers, one of floats; without dynamic labels they are set directly."""
    memory = gauge_schema("memory", "By", "used").static_label("service", "my-api").build()
    memory.set(5)
    memory.set(7)
    load = gauge_schema_float("load").require_dynamic_key("cpu").build()
    load.with_labels(cpu=0).set(45.5)
    load.with_labels(cpu=1).set(2)
    found = [
        (p.name, p.unit, p.description, p.kind, exact(p.attributes), exact(p.value))
        for p in points_of(reader.get_metrics_data())
    ]
    assert found == [
        ("memory", "By", "used", "Gauge", "{'service': 'my-api'}", "7"),
        ("load", "", "", "Gauge", "{'cpu': 0}", "45.5"),
        ("load", "", "", "Gauge", "{'cpu': 1}", "2.0"),
    ]


@pytest.mark.usefixtures("provider_set")
def test_values_can_be_read_back() -> None:
    """`get()` is the value now; None before the first measurement."""
    counter = counter_schema("c").require_dynamic_key("k").build()
    assert counter.with_labels(k=1).get() is None
    counter.with_labels(k=1).increment(2)
    counter.with_labels(k=1).increment(3)
    assert counter.with_labels(k=1).get() == 5
    assert counter.with_labels(k=2).get() is None
    plain = counter_schema("plain").build()
    plain.increment()
    plain.increment(4)
    assert plain.get() == 5
    gauge, load = gauge_schema("g").build(), gauge_schema_float("f").build()
    assert gauge.get() is None
    gauge.set(-3)
    load.set(2)
    assert (exact(gauge.get()), exact(load.get())) == ("-3", "2.0")


@pytest.mark.usefixtures("provider_set")
def test_values_are_those_of_all_processes(processes: Processes) -> None:
    """What another process counted is in what this one reads."""
    counter = counter_schema("c").build()
    counter.increment()

    def work() -> Any:
        counter.increment(10)
        return counter.get()

    assert processes.fork(work).result() == 11
    assert processes.fork(work).result() == 21
    assert counter.get() == 21


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        ({}, "metric 'c': missing label method, status"),
        ({"status": 1}, "metric 'c': missing label method"),
        ({"status": 1, "method": "a", "x": 1, "b": 1}, "metric 'c': unknown label b, x"),
        ({"status": 1, "method": "a", "service": "x"}, "metric 'c': unknown label service"),
    ],
)
def test_wrong_keys_raise_at_once(labels: dict[str, Any], text: str) -> None:
    """Missing and unknown keys are named; it does not matter whether a provider is set."""
    counter = (
        counter_schema("c")
        .static_label("service", "s")
        .require_dynamic_key("status")
        .require_dynamic_key("method")
        .build()
    )
    for _ in range(2):
        with pytest.raises(ValueError, match=text):
            counter.with_labels(**labels)


def test_dynamic_labels_are_needed_to_measure() -> None:
    """Measuring the family itself names what is missing."""
    counter = counter_schema("c").require_dynamic_key("k").build()
    with pytest.raises(ValueError, match="metric 'c': missing label k"):
        counter.increment()
    with pytest.raises(ValueError, match="metric 'c': missing label k"):
        counter.get()
    gauge = gauge_schema("g").require_dynamic_key("k").build()
    with pytest.raises(ValueError, match="metric 'g': missing label k"):
        gauge.set(1)


@pytest.mark.parametrize("value", [None, [1], {"a": 1}, {1}, b"x", object(), 1j], ids=repr)
def test_label_of_a_wrong_type_raises(value: Any) -> None:
    """Dynamic or static, it names metric, label and type."""
    counter = counter_schema("c").require_dynamic_key("k").build()
    with pytest.raises(
        TypeError, match=r"metric 'c': label 'k' must be .* not " + type(value).__name__
    ):
        counter.with_labels(k=value)
    with pytest.raises(
        TypeError, match=r"metric 'c': label 'k' must be .* not " + type(value).__name__
    ):
        counter_schema("c").static_label("k", value)


@pytest.mark.parametrize("key", ["", None, 1, b"k"], ids=repr)
def test_label_key_must_be_text(key: Any) -> None:
    """An empty key or no str at all is told when it is defined."""
    with pytest.raises(ValueError, match="metric 'c': a label key must be a non-empty str"):
        counter_schema("c").static_label(key, "v")
    with pytest.raises(ValueError, match="metric 'c': a label key must be a non-empty str"):
        counter_schema("c").require_dynamic_key(key)


def test_a_key_is_defined_once() -> None:
    """Static twice, dynamic twice or both is a mistake that names the key."""
    define: list[Callable[[Any], Any]] = [
        lambda schema: schema.static_label("k", 1),
        lambda schema: schema.require_dynamic_key("k"),
    ]
    for first in define:
        for second in define:
            schema = first(gauge_schema("g"))
            with pytest.raises(ValueError, match="metric 'g': label 'k' is defined already"):
                second(schema)


def test_a_built_metric_is_finished() -> None:
    """Going on with the schema makes another metric and leaves the first one alone."""
    schema = counter_schema("c").static_label("a", 1)
    first = schema.build()
    second = schema.require_dynamic_key("k").build()
    first.increment()
    with pytest.raises(ValueError, match="missing label k"):
        second.increment()


@pytest.mark.usefixtures("provider_set")
def test_types_of_labels_count(reader: InMemoryMetricReader) -> None:
    """1, True, 1.0 and "1" are four series; an enum is the series of its value."""

    class Level(enum.IntEnum):
        ONE = 1

    counter = counter_schema("c").require_dynamic_key("k").build()
    for value in (1, True, 1.0, "1", Level.ONE):
        counter.with_labels(k=value).increment()
        counter.with_labels(k=value).increment()
    assert values(reader) == {"{'k': 1}": 4, "{'k': True}": 2, "{'k': 1.0}": 2, "{'k': '1'}": 2}


@pytest.mark.usefixtures("provider_set")
def test_same_labels_are_the_same_series_in_any_order() -> None:
    """The order of keywords plays no part."""
    counter = counter_schema("c").require_dynamic_key("a").require_dynamic_key("b").build()
    counter.with_labels(a=1, b=2).increment()
    counter.with_labels(b=2, a=1).increment()
    assert counter.with_labels(a=1, b=2).get() == 2
    assert counter.with_labels(a=1, b=2) is counter.with_labels(a=1, b=2)


@pytest.mark.usefixtures("provider_set")
def test_same_schema_twice_is_one_metric(reader: InMemoryMetricReader) -> None:
    """Two modules that define the same metric count together."""
    for _ in range(2):
        counter_schema("c").static_label("a", 1).build().increment()
    assert values(reader) == {"{'a': 1}": 2}


@pytest.mark.usefixtures("provider_set")
def test_a_gauge_of_whole_numbers_takes_no_float() -> None:
    """It says which schema does."""
    gauge = gauge_schema("g").build()
    for wrong in (1.5, "1", None):
        with pytest.raises(TypeError, match="gauge_schema_float"):
            gauge.set(wrong)  # type: ignore[arg-type]
    assert gauge.get() is None


@pytest.mark.usefixtures("provider_set")
def test_negative_increment_is_ignored(caplog: pytest.LogCaptureFixture) -> None:
    """As with any Counter."""
    counter = counter_schema("c").build()
    counter.increment(-1)
    assert counter.get() is None
    assert caplog.records[0].getMessage() == "Add amount must be non-negative on Counter c."


def test_before_a_provider_is_set(provider: MeterProvider, reader: InMemoryMetricReader) -> None:
    """What is measured too early is dropped; the same objects work from then on."""
    counter = counter_schema("c").require_dynamic_key("k").build()
    early = counter.with_labels(k=1)
    early.increment(100)
    assert early.get() is None
    metrics.set_meter_provider(provider)
    early.increment()
    counter.with_labels(k=1).increment()
    assert early.get() == 2
    assert values(reader) == {"{'k': 1}": 2}


def test_without_a_provider_nothing_grows() -> None:
    """A library that counts in a program without metrics must cost no memory."""
    counter = counter_schema("c").build()
    counter.increment()
    gc.collect()
    tracemalloc.start()
    try:
        for _ in range(5000):
            counter.increment()
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert grown < 5000 * 8


def test_with_another_provider() -> None:
    """With the SDK's own provider labels measure nothing, and nothing fails."""
    reader = InMemoryMetricReader()
    stock = sdk.MeterProvider([reader], shutdown_on_exit=False)
    metrics.set_meter_provider(stock)
    counter = counter_schema("c").build()
    counter.increment()
    assert counter.get() is None
    stock.shutdown()


def test_after_shutdown(provider_set: MeterProvider, caplog: pytest.LogCaptureFixture) -> None:
    """Series that are known go on; a new one is no flood of log lines."""
    counter = counter_schema("c").require_dynamic_key("k").build()
    counter.with_labels(k=1).increment()
    provider_set.shutdown()
    counter.with_labels(k=1).increment()
    assert counter.with_labels(k=1).get() == 2
    late = counter.with_labels(k=2)
    for _ in range(50):
        late.increment()
    assert len([r for r in caplog.records if r.levelno >= logging.WARNING]) <= 1


def test_endless_labels_are_bounded(make_provider: Make) -> None:
    """More label values than are kept are still counted right."""
    metrics.set_meter_provider(make_provider(without_limit(InMemoryMetricReader())))
    counter = counter_schema("c").require_dynamic_key("n").build()
    for _ in range(2):
        for n in range(9000):
            counter.with_labels(n=n).increment()
    assert {counter.with_labels(n=n).get() for n in range(0, 9000, 500)} == {2}
    assert len(counter._series) <= 8192
