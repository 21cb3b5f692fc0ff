# SPDX-License-Identifier: Apache-2.0
"""Fold rules: what becomes of the shares of many processes, alive and dead."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.metrics import Observation
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from points import points_of
from processes import Gate, Processes

from otel_shm import MeterProvider, folds
from otel_shm import buffer as rules

SYNCHRONOUS = (rules.COUNTER, rules.UP_DOWN_COUNTER, rules.HISTOGRAM, rules.GAUGE)
OBSERVABLES = (
    rules.OBSERVABLE_COUNTER,
    rules.OBSERVABLE_UP_DOWN_COUNTER,
    rules.OBSERVABLE_GAUGE,
)

STREAM_FOLDS = {
    (rules.COUNTER, rules.AGGREGATION_SUM): rules.SUM,
    (rules.HISTOGRAM, rules.AGGREGATION_SUM): rules.SUM,
    (rules.UP_DOWN_COUNTER, rules.AGGREGATION_SUM): rules.LIVE_SUM,
    (rules.GAUGE, rules.AGGREGATION_SUM): rules.SUM,
    (rules.OBSERVABLE_COUNTER, rules.AGGREGATION_SUM): rules.SUM,
    (rules.OBSERVABLE_UP_DOWN_COUNTER, rules.AGGREGATION_SUM): rules.LIVE_SUM,
    (rules.OBSERVABLE_GAUGE, rules.AGGREGATION_SUM): rules.ONE,
    **{(kind, rules.AGGREGATION_LAST): rules.LAST for kind in SYNCHRONOUS},
    **{(kind, rules.AGGREGATION_LAST): rules.ONE for kind in OBSERVABLES},
    **{
        (kind, aggregation): rules.SUM
        for kind in SYNCHRONOUS
        for aggregation in (rules.AGGREGATION_EXPLICIT, rules.AGGREGATION_EXPONENTIAL)
    },
}


def default_fold(name: str, kind: int) -> int:
    """The number of an instrument's default rule."""
    return folds.NUMBERS[folds.default_of(name, kind)]


@pytest.mark.parametrize(("stream", "fold"), STREAM_FOLDS.items())
def test_fold_of_a_stream(stream: tuple[int, int], fold: int) -> None:
    """What processes add stays, what they have now goes with them, what is set is everybody's."""
    kind, aggregation = stream
    assert folds.of_stream(default_fold("requests", kind), kind, aggregation) == fold


@pytest.mark.parametrize("kind", OBSERVABLES)
def test_what_is_observed_of_the_machine_is_not_added_up(kind: int) -> None:
    """Every process observes the same of `system.*`, so one of them says it."""
    assert default_fold("system.cpu.time", kind) == rules.ONE
    for name in ("systematic", "process.cpu.time", "my.system.time", "system"):
        assert folds.default_of(name, kind) == folds.rules_of(kind)[0]
    assert default_fold("system.requests", rules.COUNTER) == rules.SUM


def test_what_processes_use_of_the_machine_is_added_up() -> None:
    """A service uses as much of a processor as its processes together, gauge or not."""
    for name in ("process.cpu.utilization", "process.runtime.cpython.cpu.utilization"):
        assert default_fold(name, rules.OBSERVABLE_GAUGE) == rules.LIVE_SUM
        assert default_fold(name, rules.GAUGE) == rules.LAST
    assert default_fold("process.uptime", rules.OBSERVABLE_GAUGE) == rules.ONE


def test_rules_are_wished_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first pattern that matches holds; the argument's come before the environment's."""
    monkeypatch.setenv(folds.OTEL_SHM_FOLDS, " queue.*=min , other=max,")
    wished = folds.FoldRules({"Queue.depth": "each", "queue.?": "one"})
    assert wished.wish("queue.depth") == "each"
    assert wished.wish("queue.a") == "one"
    assert wished.wish("queue.ab") == "min"
    assert wished.wish("other") == "max"
    assert wished.wish("another") is None


@pytest.mark.parametrize(
    ("argument", "variable", "message"),
    [
        ({"a": "median"}, "", "a=median: the rule must be one of sum, live_sum, last, one"),
        (None, "a=median", "OTEL_SHM_FOLDS: a=median: the rule must be one of"),
        (None, "a", "OTEL_SHM_FOLDS: 'a' must be like"),
        (None, "=max", "OTEL_SHM_FOLDS: '=max' must be like"),
    ],
)
def test_mistakes_are_named(
    monkeypatch: pytest.MonkeyPatch, argument: Any, variable: str, message: str
) -> None:
    """A rule that there is not is an error when the provider is made."""
    monkeypatch.setenv(folds.OTEL_SHM_FOLDS, variable)
    with pytest.raises(ValueError, match=message):
        MeterProvider(folds=argument, shutdown_on_exit=False)


@pytest.fixture
def reader() -> InMemoryMetricReader:
    """Whoever asks it gets the metrics."""
    return InMemoryMetricReader()


@pytest.fixture
def provider(reader: InMemoryMetricReader) -> Iterator[MeterProvider]:
    """One whose buffer forked children share."""
    provider = MeterProvider(
        [reader], folds={"by.name": "max", "requests": "max"}, shutdown_on_exit=False
    )
    yield provider
    provider.shutdown()


def values_of(reader: InMemoryMetricReader) -> dict[str, list[Any]]:
    """The values of each metric in order."""
    values: dict[str, list[Any]] = {}
    for point in points_of(reader.get_metrics_data()):
        values.setdefault(point.name, []).append(point.value)
    return {name: sorted(found) for name, found in values.items()}


def test_a_rule_must_be_for_the_kind(
    provider: MeterProvider, caplog: pytest.LogCaptureFixture
) -> None:
    """Given where an instrument is made it is an error; by name it is logged, and the default holds."""
    meter = provider.get_meter("m")
    with pytest.raises(
        ValueError, match="Counter 'c': the fold must be one of sum, live_sum, not 'max'"
    ):
        meter.create_counter("c", fold="max")
    meter.create_counter("requests")
    assert "Instrument requests: the fold 'max' is not for its kind, which has: sum" in caplog.text


GAUGES = {
    "last": ([30], [30]),
    "one": ([5], [5]),
    "min": ([5], [5]),
    "max": ([30], [5]),
    "live_sum": ([65], [5]),
    "each": ([5, 10, 20, 30], [5]),
}
OBSERVED = {rule: GAUGES[rule] for rule in ("one", "min", "max", "live_sum", "each")}
SUMS = {"sum": ([65], [65]), "live_sum": ([65], [5])}


def measured(
    provider: MeterProvider, reader: InMemoryMetricReader, measure: Callable[[int], None]
) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    """What comes out while three children live that measured 10, 20 and 30, beside 5 of this process,
    and when they have died."""
    measure(5)
    gate = Gate()
    measured_there, tell = os.pipe()

    def child(n: int) -> None:
        measure(n)
        os.write(tell, b".")
        gate.wait()

    with Processes() as processes:
        children = []
        for n in (10, 20, 30):  # one after the other, so that it is clear which is the last
            children.append(processes.fork(child, n))
            assert os.read(measured_there, 1) == b"."
        alive = values_of(reader)
        gate.open()
        for process in children:
            process.result()
    os.close(tell)
    os.close(measured_there)
    return alive, values_of(reader)


def test_gauges(provider: MeterProvider, reader: InMemoryMetricReader) -> None:
    """Each rule of a Gauge, with the living and after they died."""
    meter = provider.get_meter("m")
    gauges = {rule: meter.create_gauge(rule, fold=rule) for rule in GAUGES}
    by_name = meter.create_gauge("by.name")

    def measure(n: int) -> None:
        for gauge in gauges.values():
            gauge.set(n)
        by_name.set(n)

    alive, dead = measured(provider, reader, measure)
    assert alive == {"by.name": [30], **{rule: expected[0] for rule, expected in GAUGES.items()}}
    assert dead == {"by.name": [5], **{rule: expected[1] for rule, expected in GAUGES.items()}}


def test_each_is_told_apart_by_a_small_number(
    provider: MeterProvider, reader: InMemoryMetricReader
) -> None:
    """The worker number is that of a lane, so it stays small however many processes come and go."""
    gauge = provider.get_meter("m").create_gauge("g", fold="each")
    for _ in range(20):
        with Processes() as processes:
            processes.fork(lambda: gauge.set(1, {"a": "b"})).result()
    gauge.set(2, {"a": "b"})
    (point,) = points_of(reader.get_metrics_data())
    assert point.attributes == {"a": "b", folds.WORKER: 1}


def test_sums(provider: MeterProvider, reader: InMemoryMetricReader) -> None:
    """Each rule of a Counter and an UpDownCounter."""
    meter = provider.get_meter("m")
    made = [
        *(meter.create_counter(f"c.{rule}", fold=rule) for rule in SUMS),
        *(meter.create_up_down_counter(f"u.{rule}", fold=rule) for rule in SUMS),
    ]

    def measure(n: int) -> None:
        for instrument in made:
            instrument.add(n)

    alive, dead = measured(provider, reader, measure)
    assert alive == {f"{kind}.{rule}": SUMS[rule][0] for kind in "cu" for rule in SUMS}
    assert dead == {f"{kind}.{rule}": SUMS[rule][1] for kind in "cu" for rule in SUMS}
    monotonic = {point.name for point in points_of(reader.get_metrics_data()) if point.monotonic}
    assert monotonic == {"c.sum"}, "what a dead process leaves makes the others fall"


def test_observables(provider: MeterProvider, reader: InMemoryMetricReader) -> None:
    """Each rule of the observables; their callbacks run in every process."""
    meter = provider.get_meter("m")
    now = [0]

    def callback(_options: object) -> list[Observation]:
        return [Observation(now[0])]

    for rule in OBSERVED:
        meter.create_observable_gauge(f"g.{rule}", [callback], fold=rule)
    sums = {**SUMS, **{rule: OBSERVED[rule] for rule in ("one", "min", "max")}}
    for rule in sums:
        meter.create_observable_counter(f"c.{rule}", [callback], fold=rule)
        meter.create_observable_up_down_counter(f"u.{rule}", [callback], fold=rule)

    def measure(n: int) -> None:
        now[0] = n

    alive, dead = measured(provider, reader, measure)
    assert alive == {
        **{f"g.{rule}": expected[0] for rule, expected in OBSERVED.items()},
        **{f"{kind}.{rule}": expected[0] for kind in "cu" for rule, expected in sums.items()},
    }
    assert dead == {
        **{f"g.{rule}": expected[1] for rule, expected in OBSERVED.items()},
        **{f"{kind}.{rule}": expected[1] for kind in "cu" for rule, expected in sums.items()},
    }


def test_the_first_wish_stands(buffer_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever reads the file folds as the first process wished; the second one is told."""
    readers = InMemoryMetricReader(), InMemoryMetricReader()
    first, second = (
        MeterProvider([reader], buffer=buffer_path, shutdown_on_exit=False) for reader in readers
    )
    first.get_meter("m").create_gauge("g", fold="max").set(1)
    second.get_meter("m").create_gauge("g", fold="min").set(2)
    assert "another process made it first with the fold 'max', which stands, and not 'min'" in (
        caplog.text
    )
    first.shutdown()
    second.shutdown()
