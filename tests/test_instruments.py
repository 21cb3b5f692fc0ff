# SPDX-License-Identifier: Apache-2.0
"""The synchronous instruments of both backends: which attributes are which series."""

from __future__ import annotations

import collections
import enum
import logging
import sys
import threading
import types
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from opentelemetry import metrics as api
from opentelemetry.sdk import metrics as sdk
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.metrics.view import View
from points import exact, values, without_limit

from otel_shm import Meter, MeterProvider

pytestmark = pytest.mark.usefixtures("backend")

Make = Callable[..., MeterProvider]
Measure = Callable[..., None]
SDK_MEASUREMENT = "opentelemetry.sdk.metrics._internal.measurement"


class Level(enum.IntEnum):
    """An int that is more than an int."""

    ONE = 1


class Color(str, enum.Enum):
    """A str that is more than a str."""

    RED = "red"


@pytest.mark.parametrize(
    "attributes",
    [
        {"a": 1},
        types.MappingProxyType({"a": 1}),
        collections.OrderedDict(a=1),
        collections.defaultdict(int, a=1),
        collections.ChainMap({"a": 1}, {"a": 2}),
        collections.UserDict(a=1),
        {"a": Level.ONE},
        {Color.RED: 1},
    ],
    ids=lambda attributes: type(attributes).__name__,
)
def test_any_mapping_is_taken(
    measure: Measure, attributes: Mapping[str, Any], reader: InMemoryMetricReader
) -> None:
    """Whatever mapping holds them, the same attributes are the same series."""
    measure(1, attributes)
    measure(1, attributes)
    plain = {str.__str__(key): int(value) for key, value in attributes.items()}
    measure(1, plain)
    assert list(values(reader)) == [exact(plain)]


@pytest.mark.parametrize(
    "attributes", [[], [("a", 1)], "text", 0, 1, {"a"}, object()], ids=lambda a: type(a).__name__
)
def test_attributes_that_are_no_mapping(
    measure: Measure,
    attributes: Any,
    reader: InMemoryMetricReader,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The SDK's warning, and the amount is measured without attributes."""
    measure(1, attributes)
    text = f"Invalid type '{type(attributes)}' for attributes. Expected a Mapping or None."
    assert caplog.record_tuples == [(SDK_MEASUREMENT, logging.WARNING, text)]
    assert values(reader) == {"{}": 1}


def test_no_attributes_are_one_series(measure: Measure, reader: InMemoryMetricReader) -> None:
    """None, {}, an empty mapping and none given are the same; {"a": None} is another."""
    measure(1)
    measure(1, None)
    measure(1, {})
    measure(1, types.MappingProxyType({}))
    measure(1, attributes={})
    measure(1, {"a": None})
    assert list(values(reader)) == ["{}", "{'a': None}"]


def test_series_are_told_apart_by_type(meter: Meter, reader: InMemoryMetricReader) -> None:
    """1, True, 1.0, "1" and b"1" are five series, first through the buffer, then by the table."""
    counter = meter.create_counter("c")
    kinds = [1, True, 1.0, "1", b"1", 0, False, "", None, "None", (1,), (True,), ("1",)]
    for _ in range(3):
        for value in kinds:
            counter.add(1, {"a": value})
            counter.add(1, {"a": value, "b": value})
    assert values(reader) == {
        exact(attributes): 3
        for value in kinds
        for attributes in ({"a": value}, {"a": value, "b": value})
    }


def test_series_that_are_one(meter: Meter, reader: InMemoryMetricReader) -> None:
    """Order, the kind of sequence, the sign of zero, the NaN and enums make no difference."""
    counter = meter.create_counter("c")
    groups: list[list[dict[str, Any]]] = [
        [{"a": 1, "b": 2, "c": 3}, {"c": 3, "a": 1, "b": 2}],
        [{"s": [1, 2]}, {"s": (1, 2)}, {"s": range(1, 3)}, {"s": collections.deque([1, 2])}],
        [{"z": 0.0}, {"z": -0.0}],
        [{"n": float("nan")}, {"n": -float("nan")}, {"n": float("inf") - float("inf")}],
        [{"e": 1}, {"e": Level.ONE}],
        [{"t": "red"}, {"t": Color.RED}],
        [{"m": {"x": 1, "y": [1]}}, {"m": {"y": (1,), "x": 1}}],
    ]
    for _ in range(2):
        for group in groups:
            for attributes in group:
                counter.add(1, attributes)
    assert list(values(reader).values()) == [2 * len(group) for group in groups]


def test_caller_may_change_its_attributes_later(meter: Meter, reader: InMemoryMetricReader) -> None:
    """The same dict object with other content is another series; what was measured stays."""
    counter = meter.create_counter("c")
    attributes: dict[str, Any] = {"a": 1}
    counter.add(1, attributes)
    attributes["a"] = True
    counter.add(10, attributes)
    attributes["b"] = [1]
    counter.add(100, attributes)
    attributes["b"].append(2)
    counter.add(1000, attributes)
    del attributes["b"]
    attributes["a"] = 1
    counter.add(1, attributes)
    attributes.clear()
    counter.add(10_000, attributes)
    assert values(reader) == {
        "{'a': 1}": 2,
        "{'a': True}": 10,
        "{'a': True, 'b': [1]}": 100,
        "{'a': True, 'b': [1, 2]}": 1000,
        "{}": 10_000,
    }


def test_more_sets_than_the_table_holds(make_provider: Make) -> None:
    """With more attribute sets than an instrument remembers every sum is still exact."""
    reader = without_limit(InMemoryMetricReader())
    counter = make_provider(reader).get_meter("m").create_counter("c")
    many = 8192 + 500
    for _ in range(2):
        for n in range(many):
            counter.add(n, {"n": n, "parity": "odd" if n % 2 else "even"})
    found = values(reader)
    assert len(found) == many
    assert all(
        found[exact({"n": n, "parity": "odd" if n % 2 else "even"})] == 2 * n for n in range(many)
    )


def test_values_of_equal_hash_are_told_apart(meter: Meter, reader: InMemoryMetricReader) -> None:
    """Ints that Python hashes alike, and keys and values changed around, are their own series."""
    counter = meter.create_counter("c")
    modulus = sys.hash_info.modulus
    same = [-1, -2, 0, modulus, 2 * modulus, 1, 1 + modulus]
    assert hash(-1) == hash(-2)
    assert hash(0) == hash(modulus)
    sets: list[dict[str, Any]] = [{"a": value} for value in same]
    sets += [{"a": "b", "b": "a"}, {"a": "a", "b": "b"}, {"b": "b"}, {"ab": ""}, {"a": "b"}]
    sets += [{f"k{n}": n for n in range(size)} for size in (15, 16, 17, 40)]
    for _ in range(2):
        for attributes in sets:
            counter.add(1, attributes)
    assert values(reader) == {exact(attributes): 2 for attributes in sets}


def test_what_otlp_cannot_carry_is_logged_once(
    kind: str,
    measure: Measure,
    reader: InMemoryMetricReader,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The attribute is left out with one line an instrument and key, the amount is measured."""
    for n in range(3):
        measure(n + 1, {"a": 1, "big": 2**64 + n})
    assert len(values(reader)) == 1
    assert list(values(reader)) == ["{'a': 1}"]
    (line,) = caplog.record_tuples
    assert line[0].startswith("otel_shm.")
    assert line[1] == logging.WARNING
    assert f"{kind} i: attribute 'big' cannot be sent over OTLP" in line[2]


def test_threads_lose_nothing(meter: Meter, reader: InMemoryMetricReader) -> None:
    """Many threads that add ints and floats to new and known series, bound and not: exact sums."""
    counter, up_down = meter.create_counter("c"), meter.create_up_down_counter("u")
    start = threading.Barrier(8)

    def work() -> None:
        bound = counter.bind({"n": 0})
        start.wait()
        for n in range(500):
            counter.add(1, {"n": n % 50})
            bound.add(2)
            up_down.add(0.5, {"n": n % 3})
            up_down.add(-0.25, {"n": n % 3})

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = values(reader, "c")
    assert found.pop("{'n': 0}") == 8 * (10 + 2 * 500)
    assert set(found.values()) == {8 * 10}
    assert sum(values(reader, "u").values()) == 8 * 500 * 0.25


def test_instruments_are_what_the_api_and_the_sdk_call_so(kind: str, instrument: Any) -> None:
    """isinstance() holds for the abstract classes of both, and a View matches by them."""
    name = "_Gauge" if kind == "Gauge" else kind
    all_of_them = {"Counter", "UpDownCounter", "_Gauge", "Histogram", "ObservableGauge"}
    others = all_of_them - {name}
    for module in (api, sdk):
        assert isinstance(instrument, getattr(module, name))
        assert not any(isinstance(instrument, getattr(module, other)) for other in others)
    assert isinstance(instrument, api.Synchronous)
    assert View(instrument_type=getattr(sdk, name), name="v")._match(instrument)
    assert View(instrument_name="i", instrument_unit="", meter_name="scope")._match(instrument)
    for other in others:
        assert not View(instrument_type=getattr(sdk, other))._match(instrument)


def test_instrument_says_what_it_is(kind: str, instrument: Any, provider: MeterProvider) -> None:
    """Name, unit, description and scope are there to read, and the representation names it."""
    assert (instrument.name, instrument.unit, instrument.description) == ("i", "", "")
    assert (instrument.instrumentation_scope.name, instrument.instrumentation_scope.version) == (
        "scope",
        "1.2",
    )
    assert repr(instrument) == f"<otel_shm.{kind} 'i'>"
    with pytest.raises((TypeError, AttributeError)):
        instrument.no_such_attribute = 1
