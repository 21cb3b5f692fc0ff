# SPDX-License-Identifier: Apache-2.0
"""Exemplars: which measurements become some, with which reservoirs, and who gets them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from clocked_deltas import Deltas, delta_reader, limited
from exemplified import Sampled, context_of, exemplars_of, in_span, in_trace
from opentelemetry.context import Context
from opentelemetry.metrics import Observation
from opentelemetry.sdk import metrics as sdk
from opentelemetry.sdk.metrics import (
    AlwaysOffExemplarFilter,
    AlwaysOnExemplarFilter,
    ExemplarFilter,
    ExemplarReservoir,
    SimpleFixedSizeExemplarReservoir,
    TraceBasedExemplarFilter,
)
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation, View
from points import exact, measure_of
from reused import SIZES, hold, stream_of
from sdk_version import todays_sdk

import otel_shm
from otel_shm.buffer import Buffer, position_of
from otel_shm.exemplars import Exemplars
from otel_shm.streams import stream_from_key

pytestmark = pytest.mark.usefixtures("backend")

Make = Callable[..., otel_shm.MeterProvider]

ON = AlwaysOnExemplarFilter()


class Large(ExemplarFilter):
    """Samples what is larger than 10 and has an attribute."""

    def should_sample(
        self, value: float, time_unix_nano: int, attributes: Any, context: Context
    ) -> bool:
        """Decides by all that it is given."""
        assert time_unix_nano > 10**18
        assert isinstance(context, Context)
        return value > 10 and bool(attributes)


def record_everywhere(histogram: Any) -> None:
    """Outside of any span, in one that is sampled and in one that is not, in a bucket each."""
    histogram.record(1)
    with in_span(7):
        histogram.record(20, {"a": 1})
    with in_span(8, is_sampled=False):
        histogram.record(200, {"a": 1})


EVERYWHERE = {
    ("h", "{}"): [in_trace(1, None)],
    ("h", "{'a': 1}"): [in_trace(20, 7, {}), in_trace(200, 8, {})],
}
IN_SAMPLED_SPAN = {("h", "{'a': 1}"): [in_trace(20, 7, {})]}
WITH_ATTRIBUTES = {("h", "{'a': 1}"): [in_trace(20, 7, {}), in_trace(200, 8, {})]}


@pytest.mark.parametrize(
    ("given", "name", "expected"),
    [
        (None, None, IN_SAMPLED_SPAN),
        (None, "trace_based", IN_SAMPLED_SPAN),
        (None, "always_on", EVERYWHERE),
        (None, "always_off", {}),
        (AlwaysOnExemplarFilter(), "always_off", EVERYWHERE),
        (AlwaysOffExemplarFilter(), "always_on", {}),
        (TraceBasedExemplarFilter(), "always_on", IN_SAMPLED_SPAN),
        (Large(), None, WITH_ATTRIBUTES),
    ],
)
def test_filter_decides(
    given: ExemplarFilter | None,
    name: str | None,
    expected: dict[Any, Any],
    make_provider: Make,
    reader: InMemoryMetricReader,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The one that is given, else the environment's, else the trace-based one; of ours or of others."""
    if name is not None:
        monkeypatch.setenv("OTEL_METRICS_EXEMPLAR_FILTER", name)
    meter = make_provider(reader, exemplar_filter=given).get_meter("m")
    record_everywhere(meter.create_histogram("h"))
    assert exemplars_of(reader.get_metrics_data()) == expected
    assert exemplars_of(reader.get_metrics_data()) == {}
    record_everywhere(meter.create_histogram("h"))
    assert exemplars_of(reader.get_metrics_data()) == expected


def test_unknown_filter_is_refused_as_in_the_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is none raises when the provider is made."""
    monkeypatch.setenv("OTEL_METRICS_EXEMPLAR_FILTER", "sometimes")
    for make in (sdk.MeterProvider, otel_shm.MeterProvider):
        with pytest.raises(ValueError, match=r"^Unknown exemplar filter 'sometimes'\.$"):
            make(shutdown_on_exit=False)


# As the SDK.

SIZE_3 = View(
    instrument_name="three",
    exemplar_reservoir_factory=lambda _aggregation: (
        lambda **kwargs: SimpleFixedSizeExemplarReservoir(3, **without_size(kwargs))
    ),
)
VIEWS = [
    SIZE_3,
    View(instrument_name="exponential", aggregation=ExponentialBucketHistogramAggregation(4)),
    View(instrument_name="fine", aggregation=ExponentialBucketHistogramAggregation()),
    View(instrument_name="filtered", attribute_keys={"kept"}),
    View(instrument_name="filtered", name="none", attribute_keys=set()),
    View(instrument_name="limited", aggregation_cardinality_limit=2)
    if "aggregation_cardinality_limit" in View.__init__.__code__.co_varnames
    else View(instrument_name="limited", name="limited"),
]


def without_size(kwargs: dict[str, Any]) -> dict[str, Any]:
    """A reservoir's arguments, but its size."""
    return {name: value for name, value in kwargs.items() if name != "size"}


def measure_all(meter: Any, turn: int) -> None:
    """Measures in all kinds of instruments, in spans and outside, with attributes and without."""
    for name in ("counter", "three", "filtered", "limited"):
        counter = meter.create_counter(name)
        for n in range(8):
            with in_span(100 * turn + n + 1):
                counter.add(n + turn, {"kept": n % 4, "dropped": f"{n}", "list": [n, "x"]})
        counter.add(1)
    up_down = meter.create_up_down_counter("up-down")
    for n in range(6):
        up_down.add((-1) ** n * n / 2, {"a": 1}, context_of(n + 500))
    for n, name in enumerate(("gauge", "another")):
        meter.create_gauge(name).set(2.5 * n, {"a": n})
    for name in ("explicit", "exponential", "fine", "filtered"):
        histogram = meter.create_histogram(name)
        for n in range(60):
            attributes = {"kept": n % 2, **({"dropped": n} if name == "filtered" else {})}
            # The SDK takes no zero of an exponential histogram for an exemplar.
            histogram.record((n + 1) ** 2 + turn, attributes, context_of(n + 1))
        histogram.record(0.5)


@todays_sdk
def test_reservoirs_are_the_sdks(
    make_provider: Make, reader: InMemoryMetricReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Aligned to the buckets, of fixed size, by a view: what the SDK gives, for every aggregation."""
    monkeypatch.setattr(
        "opentelemetry.sdk.metrics._internal.exemplar.exemplar_reservoir.randrange",
        lambda begin, end: (7 * end + 3) % end if end % 3 else begin,
    )
    theirs = InMemoryMetricReader()
    options: dict[str, Any] = {"exemplar_filter": ON, "views": VIEWS}
    stock = sdk.MeterProvider([theirs], shutdown_on_exit=False, **options)
    meters = [make_provider(reader, **options).get_meter("m"), stock.get_meter("m")]
    for meter in meters:
        meter.create_observable_counter(
            "observed", [lambda _: [Observation(5, {"a": 1}, context_of(3)), Observation(1.5)]]
        )
        meter.create_observable_gauge("level", [lambda _: [Observation(n) for n in range(4)]])
    for turn in range(3):
        for meter in meters:
            measure_all(meter, turn)
        ours, expected = (exemplars_of(each.get_metrics_data()) for each in (reader, theirs))
        assert len(expected) > 30
        assert ours.keys() == expected.keys()
        for key, exemplars in expected.items():
            assert exact(ours[key]) == exact(exemplars), key
    stock.shutdown()


def test_view_makes_the_reservoirs(make_provider: Make, reader: InMemoryMetricReader) -> None:
    """Its factory is given the SDK's class of the aggregation, and what it makes the aggregation's
    arguments; one reservoir a series."""
    asked: list[str] = []
    made: list[dict[str, Any]] = []

    def factory(aggregation: type) -> Callable[..., ExemplarReservoir]:
        asked.append(aggregation.__name__)

        def build(**kwargs: Any) -> ExemplarReservoir:
            made.append(kwargs)
            return SimpleFixedSizeExemplarReservoir(size=10)

        return build

    views = [
        View(
            instrument_name="e*",
            aggregation=ExponentialBucketHistogramAggregation(max_size=9),
            exemplar_reservoir_factory=factory,
        ),
        View(instrument_name="*", exemplar_reservoir_factory=factory),
    ]
    meter = make_provider(reader, views=views[:1], exemplar_filter=ON).get_meter("m")
    meter.create_histogram("e").record(1)
    meter = make_provider(InMemoryMetricReader(), views=views[1:], exemplar_filter=ON).get_meter(
        "m"
    )
    meter.create_counter("c").add(1)
    meter.create_gauge("g").set(1)
    histogram = meter.create_histogram("h", explicit_bucket_boundaries_advisory=[1, 2])
    for n in range(4):
        histogram.record(n, {"a": n % 2})
    assert asked == [
        "_ExponentialBucketHistogramAggregation",
        "_SumAggregation",
        "_LastValueAggregation",
        *["_ExplicitBucketHistogramAggregation"] * 2,
    ]
    assert made == [{"size": 9}, {}, {}, *[{"boundaries": (1.0, 2.0)}] * 2]


def test_exemplar_has_the_attributes_that_its_point_has_not(
    make_provider: Make, reader: InMemoryMetricReader
) -> None:
    """Those that a view leaves out, and in the overflow series all."""
    views = [View(instrument_name="filtered", attribute_keys={"kept"})]
    provider = make_provider(limited(reader, 1), views=views)
    filtered, plain = map(provider.get_meter("m").create_counter, ("filtered", "plain"))
    with in_span(1):
        filtered.add(1, {"kept": 1, "gone": 2, "gone too": (1, {"a": None})})
        plain.add(1, {"first": 1})
        plain.add(1, {"second": 1, "more": "x"})
    found = exemplars_of(reader.get_metrics_data())
    assert found == {
        ("filtered", "{'kept': 1}"): [in_trace(1, 1, {"gone": 2, "gone too": (1, {"a": None})})],
        ("plain", "{'first': 1}"): [in_trace(1, 1, {})],
        ("plain", "{'otel.metric.overflow': True}"): [in_trace(1, 1, {"second": 1, "more": "x"})],
    }


def test_bound_instruments_sample(make_provider: Make, reader: InMemoryMetricReader) -> None:
    """In the current context or the one that is given, from the first measurement on."""
    views = [View(instrument_name="*", attribute_keys=set())]
    meter = make_provider(reader, views=views).get_meter("m")
    made = {
        name: getattr(meter, f"create_{name}")(name).bind({"a": 1})
        for name in ("counter", "up_down_counter", "gauge", "histogram")
    }
    for turn in range(3):
        for bound in made.values():
            measure_of(bound)(1)
            measure_of(bound)(1, context_of(5, is_sampled=False))
            measure_of(bound)(2 + turn, context=context_of(6))
        assert exemplars_of(reader.get_metrics_data()) == {
            (name, "{}"): [in_trace(2 + turn, 6, {"a": 1})] for name in made
        }
    with in_span(7):
        made["counter"].add(9)
    assert exemplars_of(reader.get_metrics_data()) == {
        ("counter", "{}"): [in_trace(9, 7, {"a": 1})]
    }


def test_observations_are_sampled(make_provider: Make, reader: InMemoryMetricReader) -> None:
    """In the context that a callback gives, or is called in."""

    def observe(_options: Any) -> list[Observation]:
        return [Observation(1, {"a": 1}, context_of(3)), Observation(2, {"a": 2}), Observation(3)]

    meter = make_provider(reader).get_meter("m")
    meter.create_observable_up_down_counter("o", [observe])
    expected = {("o", "{'a': 1}"): [in_trace(1, 3, {})]}
    assert exemplars_of(reader.get_metrics_data()) == expected
    with in_span(4):
        found = exemplars_of(reader.get_metrics_data())
    expected[("o", "{'a': 2}")] = [in_trace(2, 4, {})]
    assert found == {**expected, ("o", "{}"): [in_trace(3, 4, None)]}


def test_each_reader_gets_each_exemplar_once(make_provider: Make) -> None:
    """Whenever it collects, and whatever temporality it wants."""
    totals, deltas, late = InMemoryMetricReader(), delta_reader(), InMemoryMetricReader()
    provider = make_provider(totals, deltas)
    counter = provider.get_meter("m").create_counter("c")
    got: dict[Any, list[Sampled]] = {totals: [], deltas: [], late: []}
    expected: dict[Any, list[Sampled]] = {totals: [], deltas: [], late: []}
    for turn in range(1, 21):
        with in_span(turn):
            counter.add(turn)
        if turn == 10:
            provider.add_metric_reader(late)
        for reader in (totals, deltas, late) if turn >= 10 else (totals, deltas):
            expected[reader].append(in_trace(turn, turn, None))
        for reader, every in ((totals, 1), (deltas, 3), (late, 4)):
            if turn % every == 0:
                data = reader.get_metrics_data()
                got[reader] += exemplars_of(data).get(("c", "{}"), [])
    for reader, exemplars in got.items():
        data = reader.get_metrics_data()
        got[reader] += exemplars_of(data).get(("c", "{}"), [])
        assert exemplars_of(reader.get_metrics_data()) == {}
        if reader is totals:
            assert exemplars == expected[reader]
        # One reservoir a process: what is offered until anybody collects is one sample.
        assert set(exemplars) <= set(expected[reader])
        assert len(set(exemplars)) == len(exemplars)


def test_record_of_a_retired_series_does_not_bring_its_exemplars(backend: Any) -> None:
    """What a process sampled, and did not get to tell, is not another series' that has the record now."""
    buffer = Buffer(**SIZES)
    stream, deltas = stream_of(buffer), Deltas(buffer)
    exemplars, view = Exemplars(buffer, ON), View(instrument_name="*")
    identity = stream_from_key(buffer.record_key(stream.record), stream.aggregation)

    def offer(key: int) -> int:
        series = hold(stream, key)
        series.measure(1)
        exemplars._offer([(view, identity)], (series.identity,), key, {"n": key, "more": 1}, None)
        return series.identity

    first = [offer(key) for key in range(8)]
    deltas.collect()
    deltas.until_reusable(8)
    second = [offer(key) for key in range(100, 108)]
    assert {position_of(i) for i in second} == {position_of(i) for i in first}
    assert not set(first) & set(second)
    taken = exemplars.empty()
    assert {i: [each.value for each in found] for i, found in taken.items()} == {
        i: [key] for key, i in enumerate(second, 100)
    }
    assert {each.filtered_attributes["more"] for found in taken.values() for each in found} == {1}
    assert exemplars.empty() == {}
    reader = InMemoryMetricReader()
    exemplars.put_back(reader, {first[0]: taken[second[0]], second[0]: taken[second[0]]})
    assert exemplars.take(reader).keys() == {second[0]}
