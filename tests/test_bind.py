# SPDX-License-Identifier: Apache-2.0
"""Bound instruments, and that measuring holds on to nothing, in both backends."""

from __future__ import annotations

import copy
import gc
import logging
import sys
import time
import tracemalloc
import weakref
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from buffers import claim_stream
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from points import measure_of, values

import otel_shm
from otel_shm.description import Description
from otel_shm.metadata import InstrumentIdentity
from otel_shm.streams import AttributeFilter

pytestmark = pytest.mark.usefixtures("backend")

Make = Callable[..., otel_shm.MeterProvider]
Measure = Callable[..., None]
SYNCHRONOUS = ("Counter", "UpDownCounter", "Gauge", "Histogram")
OVERFLOW = "{'otel.metric.overflow': True}"


def test_no_point_before_the_first_measurement(
    instrument: Any, reader: InMemoryMetricReader
) -> None:
    """Binding claims a place and measures nothing; ignored amounts do not either."""
    bound = instrument.bind({"a": 1})
    assert reader.get_metrics_data() is None
    measure_of(bound)(float("nan"))
    assert reader.get_metrics_data() is None
    measure_of(bound)(0)
    assert values(reader) == {"{'a': 1}": 0}


def test_start_is_the_first_measurement(
    meter: otel_shm.Meter, reader: InMemoryMetricReader
) -> None:
    """The start time of a series that was bound early is not the time of the bind."""
    bound = meter.create_counter("c").bind()
    after_bind = time.time_ns()
    while time.time_ns() == after_bind:
        pass
    bound.add(1)
    data = reader.get_metrics_data()
    assert data is not None
    (point,) = data.resource_metrics[0].scope_metrics[0].metrics[0].data.data_points
    assert after_bind < point.start_time_unix_nano <= point.time_unix_nano


def test_bound_and_unbound_are_one_series(
    instrument: Any, measure: Measure, reader: InMemoryMetricReader
) -> None:
    """However the attributes were given, there is one series of them."""
    for attributes in (None, {"a": 1, "b": [1, 2]}, {"n": float("nan")}):
        measure_of(instrument.bind(attributes))(1)
        measure_of(instrument.bind(attributes=attributes))(1)
        measure(1, attributes)
    total = 1 if hasattr(instrument, "set") else 3
    assert list(values(reader).values()) == [total] * 3


def test_bound_is_called_without_attributes(instrument: Any, reader: InMemoryMetricReader) -> None:
    """A bound instrument takes amount and context, by position or name, and nothing else."""
    measure = measure_of(instrument.bind({"a": 1}))
    measure(1, None)
    measure(1, context=None)
    measure(context=None, amount=1)
    assert values(reader) == {"{'a': 1}": 1 if hasattr(instrument, "set") else 3}
    for args, names in (
        ((), {}),
        ((1, None, None), {}),
        ((1,), {"attributes": {}}),
        ((1,), {"amount": 1}),
        ((1, None), {"context": None}),
    ):
        with pytest.raises(TypeError):
            measure(*args, **names)
    for args, names in (((1, 2), {}), (({},), {"attributes": {}}), ((), {"labels": {}})):
        with pytest.raises(TypeError):
            instrument.bind(*args, **names)


def test_caller_may_change_bound_attributes(instrument: Any, reader: InMemoryMetricReader) -> None:
    """What the dict holds later is not what was bound."""
    attributes: dict[str, Any] = {"a": [1]}
    bound = instrument.bind(attributes)
    attributes["a"].append(2)
    attributes["b"] = 1
    measure_of(bound)(1)
    assert values(reader) == {"{'a': [1]}": 1}


def test_odd_attributes_are_bound_as_they_would_be_measured(
    instrument: Any, reader: InMemoryMetricReader, caplog: pytest.LogCaptureFixture
) -> None:
    """The SDK's warnings come from bind(), once, and not from each measurement."""
    for wrong in ([], {1: 2}):
        measure_of(instrument.bind(wrong))(1)
        measure_of(instrument.bind(wrong))(1)
    assert [record.name for record in caplog.records] == [
        "opentelemetry.sdk.metrics._internal.measurement",
        "opentelemetry.sdk.metrics._internal.measurement",
        "opentelemetry.attributes",
        "opentelemetry.attributes",
    ]
    assert list(values(reader)) == ["{}", "{'1': 2}"]


def test_bind_in_a_full_buffer(
    make_provider: Make, reader: InMemoryMetricReader, caplog: pytest.LogCaptureFixture
) -> None:
    """Bound there, each measurement goes to the overflow series, is counted, and logged once."""
    provider = make_provider(reader, series=1)
    counter = provider.get_meter("s").create_counter("c")
    counter.add(1, {"fits": 1})
    first, second = counter.bind({"n": 1}), counter.bind({"n": 2})
    assert list(values(reader)) == ["{'fits': 1}"]
    first.add(10)
    second.add(100)
    second.add(100)
    counter.add(1000, {"n": 3})
    assert values(reader) == {"{'fits': 1}": 1, OVERFLOW: 1210}
    assert provider.buffer.statistics.overflowed == 4
    (line,) = caplog.record_tuples
    assert line[0].startswith("otel_shm.")
    assert line[1] == logging.WARNING
    assert "Counter c: no place for a new set of attributes" in line[2]


def test_bound_keeps_its_instrument_and_buffer(
    backend: ModuleType, reader: InMemoryMetricReader
) -> None:
    """Somebody who holds nothing but a bound object can go on measuring."""
    provider = otel_shm.MeterProvider([reader], shutdown_on_exit=False)
    bound = provider.get_meter("s").create_up_down_counter("u").bind()
    assert isinstance(bound.instrument, backend.UpDownCounter)
    assert bound.instrument.name == "u"
    provider.shutdown()
    gone = weakref.ref(provider)
    del provider, reader
    gc.collect()
    assert gone() is None
    bound.add(3)
    bound.add(4)
    assert bound.instrument._owner.read(bound._series) == 7


def described() -> Any:
    """What an instrument is made with; an object that can be part of a cycle."""

    class Cyclic(Description):
        __slots__ = ("__weakref__", "held")

    return Cyclic("Counter", InstrumentIdentity("c", "", ""), InstrumentationScope("s"))


def test_instruments_in_cycles_are_collected(backend: ModuleType) -> None:
    """The garbage collector sees through instruments and bound instruments."""
    buffer = otel_shm.Buffer()
    streams = ((claim_stream(buffer), AttributeFilter(["a"], excludes=True)), (0, None))
    for name in SYNCHRONOUS:
        about = described()
        instrument = getattr(backend, name)(buffer, buffer.address, about, streams)
        about.held = instrument.bind()
        gone = weakref.ref(about), weakref.ref(instrument)
        del about, instrument
        gc.collect()
        assert [reference() for reference in gone] == [None, None]


def test_instrument_can_be_referenced_weakly(instrument: Any) -> None:
    """Caches of instruments work as with the SDK's."""
    assert weakref.ref(instrument)() is instrument
    assert instrument in weakref.WeakSet([instrument])
    assert {instrument: 1}[instrument] == 1


def test_instruments_cannot_be_copied(instrument: Any) -> None:
    """A copy would be no instrument of the meter: it is refused, not half made."""
    for thing in (instrument, instrument.bind()):
        try:
            copied = copy.copy(thing)
        except (TypeError, RuntimeError):
            continue
        measure_of(copied)(1)  # whoever allows it must make one that works


def test_types_are_made_by_a_meter_only(backend: ModuleType) -> None:
    """Wrong arguments raise TypeError, and a type cannot be filled in later."""
    buffer = otel_shm.Buffer()
    good = (buffer, buffer.address, described())
    for name in SYNCHRONOUS:
        for args in (
            (),
            (None,),
            (None, 0, 0),
            ("owner", "address", None, ()),
            good,
            (*good, None),
        ):
            with pytest.raises((TypeError, AttributeError)):
                getattr(backend, name)(*args)


KEY, VALUE = "a key of this test " * 2, "a value of this test " * 2


def test_references_are_given_back(meter: otel_shm.Meter, instrument: Any) -> None:
    """Measuring keeps at most one reference to a key and a value, however often it is done."""
    measure = measure_of(instrument)
    watched = (KEY, VALUE, instrument, amount := 12345.5)

    def counts() -> list[int]:
        gc.collect()
        return [sys.getrefcount(thing) for thing in watched]

    logging.disable()  # pytest keeps what is logged
    before = counts()
    for n in range(2000):
        measure(amount, {KEY: VALUE})
        measure(amount, {VALUE: KEY, KEY: [VALUE, {KEY: None}]}, None)
        measure(amount=amount, attributes={KEY: n % 3})
        bound = instrument.bind({KEY: VALUE})
        measure_of(bound)(amount, context=None)
        measure_of(bound)(float("nan"))
        for wrong in (None, "", 10**400):
            with pytest.raises((TypeError, OverflowError)):
                measure(wrong, {KEY: VALUE})
        with pytest.raises(TypeError):
            measure(amount, {KEY: VALUE}, value=amount)
        del bound
    logging.disable(logging.NOTSET)
    after = counts()
    # The table may remember three sets more, which hold the key and the value at most once each.
    assert [now - then for now, then in zip(after, before, strict=True)] < [10] * 4


@pytest.mark.parametrize("backend", ["fast"], indirect=True)
def test_memory_does_not_grow(instrument: Any) -> None:
    """Known series, refused amounts, odd attributes and binding allocate nothing that stays."""
    measure = measure_of(instrument)

    def rounds(count: int) -> None:
        for n in range(count):
            measure(n, {"n": n % 100, "f": 1.5, "s": f"{n % 7}"})
            measure(n, {"list": [n % 10], "deep": {"er": (n % 3, None)}})
            measure(n, {f"k{k}": k for k in range(20)})
            measure(n, {"big": 2**70 + n})
            measure(float("inf"))
            measure_of(instrument.bind({"n": n % 100}))(n)
            with pytest.raises(TypeError):
                measure(None)

    logging.disable()  # pytest keeps what is logged
    tracemalloc.start()
    try:
        rounds(1500)
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        rounds(1500)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
        logging.disable(logging.NOTSET)
    assert grown < 1500 * 8  # less than a pointer a round


def test_table_is_bounded(meter: otel_shm.Meter, make_provider: Make) -> None:
    """An endless stream of new attribute sets costs a bounded amount of memory."""
    provider = make_provider(series=100)
    counter = provider.get_meter("s").create_counter("c")
    for n in range(9000):
        counter.add(1, {"n": n})
    tracemalloc.start()
    try:
        for n in range(9000, 9000 + 3 * 8192):
            counter.add(1, {"n": n})
        grown = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    # Full tables, seen once: at most 8192 sets stay, whatever came; a leak would keep 24576.
    assert grown < 8192 * 1000
    assert provider.buffer.statistics.overflowed == 9000 + 3 * 8192 - 100
