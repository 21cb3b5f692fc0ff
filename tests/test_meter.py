# SPDX-License-Identifier: Apache-2.0
"""Meters: names and units, which instrument is which, and what is not there yet."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry import metrics
from opentelemetry.metrics import Meter as ApiMeter
from opentelemetry.metrics import Observation
from opentelemetry.sdk import metrics as sdk
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from points import points_of, values
from sdk_version import SDK

from otel_shm import Meter, MeterProvider

pytestmark = pytest.mark.usefixtures("backend")

CREATE = [
    "create_counter",
    "create_up_down_counter",
    "create_histogram",
    "create_gauge",
    "create_observable_counter",
    "create_observable_up_down_counter",
    "create_observable_gauge",
]


@pytest.fixture(params=CREATE)
def create(request: pytest.FixtureRequest, meter: Meter) -> Callable[..., Any]:
    """Each method that makes an instrument, in turn."""
    return getattr(meter, request.param)


@pytest.fixture(params=CREATE)
def both(request: pytest.FixtureRequest, meter: Meter) -> list[Callable[..., Any]]:
    """The same method of ours and of the SDK's meter."""
    stock = sdk.MeterProvider(shutdown_on_exit=False).get_meter("scope")
    return [getattr(each, request.param) for each in (meter, stock)]


@pytest.mark.parametrize("name", ["a", "Z", "a" * 255, "a.b-c_d/e9", "http.server.requests"])
def test_legal_names(create: Callable[..., Any], name: str) -> None:
    """Letters, digits and _ . - / after a letter, up to 255 characters; in lower case from then on."""
    assert create(name).name == name.lower()


@pytest.mark.parametrize(
    "name", ["", "1a", "_a", "a" * 256, "a b", "ä", "a\n", "\na", "a:b", "a\0", "a{b}", ".a"]
)
def test_illegal_names_raise_as_in_the_sdk(both: list[Callable[..., Any]], name: str) -> None:
    """The SDK's exception with the SDK's text; nothing is made."""
    for create in both if SDK >= (1, 45) else both[:1]:
        with pytest.raises(Exception) as raised:  # noqa: PT011  # the SDK raises no better type
            create(name)
        text = f"Expected ASCII string of maximum length 255 characters but got {name}"
        assert str(raised.value) == text
        assert type(raised.value) is Exception


@pytest.mark.parametrize("unit", ["", "ms", "{request}", "By/s", "a" * 63, "\x00", " ", "\x7f"])
def test_legal_units(both: list[Callable[..., Any]], unit: str) -> None:
    """Any ASCII up to 63 characters, kept as it is."""
    assert [create("a", unit=unit).unit for create in both] == [unit, unit]


@pytest.mark.parametrize("unit", ["a" * 64, "µs", "\x80"])
def test_illegal_units_raise_as_in_the_sdk(both: list[Callable[..., Any]], unit: str) -> None:
    """The SDK's exception with the SDK's text."""
    for create in both:
        with pytest.raises(Exception) as raised:  # noqa: PT011  # the SDK raises no better type
            create("a", unit=unit)
        text = f"Expected ASCII string of maximum length 63 characters but got {unit}"
        assert str(raised.value) == text
        assert type(raised.value) is Exception


@pytest.mark.parametrize("name", [None, 1, b"a", ["a"]])
def test_names_that_are_no_text_raise(create: Callable[..., Any], name: Any) -> None:
    """They do not become names by accident."""
    with pytest.raises(Exception, match=r"Expected ASCII string|expected string"):
        create(name)


def test_unit_and_description_may_be_none(create: Callable[..., Any]) -> None:
    """None is nothing, so it is the same instrument as without."""
    instrument = create("a", unit=None, description=None)
    assert (instrument.unit, instrument.description) == ("", "")
    assert create("a") is instrument


def test_descriptions_are_kept(
    meter: Meter, reader: InMemoryMetricReader, provider: MeterProvider
) -> None:
    """Any text, long, multi-line or in any script, arrives with the metric."""
    texts = ["", "two\nlines", "größer als \U0001f600", "x" * 5000, " padded "]
    for n, text in enumerate(texts):
        meter.create_counter(f"c{n}", "1", text).add(1)
    assert [point.description for point in points_of(reader.get_metrics_data())] == texts


def test_a_description_that_otlp_cannot_carry_harms_nobody(
    meter: Meter, reader: InMemoryMetricReader
) -> None:
    """Creating the instrument does not raise, as it does not in the SDK; the others go on."""
    meter.create_counter("good").add(1)
    meter.create_counter("odd", description="\ud800").add(1)
    meter.create_counter("fine").add(1)
    names = [point.name for point in points_of(reader.get_metrics_data())]
    assert [name for name in names if name != "odd"] == ["good", "fine"]


def test_same_identity_is_the_same_object(create: Callable[..., Any]) -> None:
    """Asked for again, with the name in any case, it is the instrument there is."""
    first = create("Requests.Total", unit="1", description="d")
    assert create("requests.TOTAL", unit="1", description="d") is first


def test_different_identity_is_another_instrument(
    meter: Meter, reader: InMemoryMetricReader
) -> None:
    """Unit, description or kind differ: each is a stream of its own, under the one name."""
    meter.create_counter("a").add(1)
    meter.create_counter("a", unit="1").add(2)
    meter.create_counter("a", unit="1", description="d").add(3)
    meter.create_counter("a", description="d").add(4)
    meter.create_up_down_counter("a").add(5)
    meter.create_gauge("a").set(6)
    found = [
        (point.kind, point.monotonic, point.unit, point.description, point.value)
        for point in points_of(reader.get_metrics_data())
    ]
    assert found == [
        ("Sum", True, "", "", 1),
        ("Sum", True, "1", "", 2),
        ("Sum", True, "1", "d", 3),
        ("Sum", True, "", "d", 4),
        ("Sum", False, "", "", 5),
        ("Gauge", None, "", "", 6),
    ]


def test_meters_share_what_is_the_same(
    provider: MeterProvider, reader: InMemoryMetricReader
) -> None:
    """The same scope is the same meter; equal instruments of other scopes are other series."""
    attributes = {"k": 1}
    same = [provider.get_meter("m", "1", "s", attributes) for _ in range(2)]
    assert same[0] is same[1]
    others = [
        provider.get_meter("m"),
        provider.get_meter("m", "1"),
        provider.get_meter("m", "1", "s"),
        provider.get_meter("m", "1", "s", {"k": 2}),
        provider.get_meter("M", "1", "s", attributes),
    ]
    meters = [same[0], *others]
    assert len(set(map(id, meters))) == len(meters)
    for n, each in enumerate(meters):
        each.create_counter("c").add(10**n)
    assert [point.value for point in points_of(reader.get_metrics_data())] == [
        10**n for n in range(len(meters))
    ]


def test_two_meters_of_one_scope_add_up(
    provider: MeterProvider, reader: InMemoryMetricReader
) -> None:
    """No version and an empty version are one scope for OTLP: one series, both counted."""
    for version in (None, ""):
        provider.get_meter("m", version).create_counter("c").add(1)
    assert values(reader) == {"{}": 2}


def test_scopes_that_otlp_cannot_carry_harm_nobody(
    provider: MeterProvider, reader: InMemoryMetricReader
) -> None:
    """A lone surrogate or a version that is no text: get_meter does not raise, others go on."""
    for odd in (("m\ud800",), ("m", "\ud800"), ("m", 1.5), ("m", "1", "\ud800")):
        provider.get_meter(*odd).create_counter("odd").add(1)
    provider.get_meter("good").create_counter("c").add(1)
    assert values(reader, "c") == {"{}": 1}


def test_meter_is_a_meter_of_the_api(meter: Meter) -> None:
    """isinstance() and the API's properties hold."""
    assert isinstance(meter, ApiMeter)
    assert (meter.name, meter.version, meter.schema_url) == ("scope", "1.2", "https://schema")


def test_creating_at_once_in_many_threads(
    meter: Meter, reader: InMemoryMetricReader, provider: MeterProvider
) -> None:
    """All threads get the one instrument of an identity, and one meter of a scope."""
    start = threading.Barrier(20)
    made: list[Any] = []

    def work() -> None:
        start.wait()
        counter = provider.get_meter("racing").create_counter("c")
        made.append(counter)
        counter.add(1, {"a": 1})

    threads = [threading.Thread(target=work) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, made))) == 1
    assert values(reader) == {"{'a': 1}": 20}


def test_no_room_for_an_instrument(
    make_provider: Callable[..., MeterProvider],
    reader: InMemoryMetricReader,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A meter or instrument without a place works, counts as dropped, and says so once."""
    provider = make_provider(reader, record_bytes=4096)
    first = provider.get_meter("m").create_counter("first")
    first.add(1)
    big = provider.get_meter("m").create_counter("big", description="x" * 4096)
    lost = provider.get_meter("n" * 4096)
    big.add(1)
    big.bind({"a": 1}).add(1)
    big.add(1, {"a": 1})
    lost.create_gauge("g").set(1)
    lost.create_observable_gauge("o", [lambda _options: [Observation(1)]])
    assert values(reader) == {"{}": 1}
    assert provider.buffer.statistics.dropped == 5
    texts = [record.getMessage() for record in caplog.records]
    assert sum("Instrument big: its measurements are dropped" in text for text in texts) == 1
    assert sum(f"Meter {'n' * 4096}: its measurements are dropped" in text for text in texts) == 1
    assert all(record.name.startswith("otel_shm.") for record in caplog.records)
    assert first.name == "first"


@pytest.mark.usefixtures("no_global_provider")
def test_instruments_made_before_the_provider_is_set(
    provider: MeterProvider, reader: InMemoryMetricReader
) -> None:
    """The API's stand-ins become real ones; what they were given before is dropped."""
    meter = metrics.get_meter("early", "1.0")
    counter, up_down = meter.create_counter("c"), meter.create_up_down_counter("u")
    gauge, histogram = meter.create_gauge("g"), meter.create_histogram("h")
    meter.create_observable_gauge("o", [lambda _options: [Observation(4)]])
    meter.create_observable_counter("oc", [lambda _options: [Observation(5)]])
    meter.create_observable_up_down_counter("ou", [lambda _options: [Observation(-6)]])
    counter.add(100)
    metrics.set_meter_provider(provider)
    counter.add(1, {"a": 1}, None)
    up_down.add(-2, attributes={"a": 1})
    gauge.set(3)
    histogram.record(7)
    later = metrics.get_meter("early", "1.0").create_counter("c")
    later.add(1, {"a": 1})
    found = {point.name: point.value for point in points_of(reader.get_metrics_data())}
    assert found == {"c": 2, "u": -2, "g": 3, "h": 7, "o": 4, "oc": 5, "ou": -6}
