# SPDX-License-Identifier: Apache-2.0
"""The processes of a storm: workers that measure without end, and a witness who looks when asked."""

from __future__ import annotations

import logging
import os
import pickle
import random
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from deltas import CUMULATIVE, DELTA
from ledger import (
    BEGUN,
    BEGUN_EVEN,
    BOUNDARIES,
    DONE,
    DONE_AT,
    LANE,
    LEAVE,
    MEASURED,
    OBSERVED,
    ORDER,
    PAUSED,
    PUBLISHED,
    READY,
    RUN,
    STEPS,
    TOLD,
    Ledger,
    Row,
    Spec,
    amount_of,
    own_value,
)
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource
from points import measure_of
from storm_sink import Seen, Sink, seen

from otel_shm import Meter, MeterProvider, collector

# A collection waits so long for callbacks; less than usual, so that many can wait in vain.
ANSWER_MILLIS = 200
INTERVAL_MILLIS = 25
_BATCH = 30

BEAT = "beat"  # the witness's own, so that no interval is empty


class Weather(NamedTuple):
    """What all processes of a storm have in common."""

    place: str  # a directory: of the buffer, the ledger and what is exported
    seed: int
    lanes: int

    @property
    def buffer(self) -> Path:
        """The buffer that all name."""
        return Path(self.place, "buffer")

    @property
    def ledger(self) -> Path:
        """The file of all ledgers."""
        return Path(self.place, "ledger")

    @property
    def log(self) -> Path:
        """What all of them logged."""
        return Path(self.place, "log")

    @property
    def cumulative(self) -> Path:
        """What the readers exported that want totals."""
        return Path(self.place, "cumulative")

    @property
    def delta(self) -> Path:
        """What the readers exported that want deltas."""
        return Path(self.place, "delta")


def _provider(weather: Weather, readers: list[Any], shutdown_on_exit: bool) -> MeterProvider:
    collector._MAX_ANSWER_MILLIS = ANSWER_MILLIS
    logging.basicConfig(
        filename=weather.log,
        level=logging.WARNING,
        force=True,
        format="%(process)d %(asctime)s.%(msecs)03d %(levelname)s %(message)s",
    )
    aggregation = ExponentialBucketHistogramAggregation(max_size=40)
    return MeterProvider(
        readers,
        Resource({"service.name": "storm"}),
        shutdown_on_exit=shutdown_on_exit,
        views=[View(instrument_name="exponential.*", aggregation=aggregation)],
        buffer=weather.buffer,
        series=2048,
        lanes=weather.lanes,
    )


def _measuring(meter: Meter) -> list[Callable[[Any], None]]:
    create: dict[str, Callable[[Spec], Any]] = {
        "counter": lambda spec: meter.create_counter(spec.name, fold=spec.rule),
        "updown": lambda spec: meter.create_up_down_counter(spec.name, fold=spec.rule),
        "gauge": lambda spec: meter.create_gauge(spec.name, fold=spec.rule),
        "explicit": lambda spec: meter.create_histogram(
            spec.name, explicit_bucket_boundaries_advisory=BOUNDARIES
        ),
        "exponential": lambda spec: meter.create_histogram(spec.name),
    }
    return [measure_of(create[spec.kind](spec).bind()) for spec in MEASURED]


def _observe(meter: Meter, row: Row, worker: int) -> None:
    """Makes observables of the steps in the ledger; their callbacks write down what they told.

    Observables are observed one after the other, each published before the next one's callbacks run. So a
    callback knows that what the one before it told is in the buffer.
    """
    words = row.words
    firsts = [Row.of_observed(place) for place in range(len(OBSERVED))]

    def published(first: int) -> None:
        words[first + PUBLISHED] = words[first + TOLD]

    def callback(place: int, spec: Spec) -> Callable[[CallbackOptions], list[Observation]]:
        def tell(_options: CallbackOptions) -> list[Observation]:
            published(firsts[place - 1])
            steps = words[STEPS]
            words[firsts[place] + TOLD] = steps + 1
            return [Observation(own_value(spec, worker, steps))]

        return tell

    def end(_options: CallbackOptions) -> Iterator[Observation]:
        published(firsts[-1])
        return iter(())

    create = {
        "observable_counter": meter.create_observable_counter,
        "observable_updown": meter.create_observable_up_down_counter,
        "observable_gauge": meter.create_observable_gauge,
    }
    for place, spec in enumerate(OBSERVED):
        create[spec.kind](spec.name, [callback(place, spec)], fold=spec.rule)
    meter.create_observable_gauge("end", [end])


def work(weather: Weather, worker: int, exits_as_programs_do: bool) -> None:
    """Measures until it is told to leave, or killed."""
    row, parent = Ledger(weather.ledger).row(worker), os.getppid()
    words, chance = row.words, random.Random(f"{weather.seed} {worker}")
    readers = [
        PeriodicExportingMetricReader(
            Sink(file, temporality, weather.seed + worker), INTERVAL_MILLIS
        )
        for file, temporality in ((weather.cumulative, CUMULATIVE), (weather.delta, DELTA))
    ]
    provider = _provider(weather, readers, shutdown_on_exit=exits_as_programs_do)
    lane = provider.buffer.lane
    meter = provider.get_meter("storm")
    assert isinstance(meter, Meter)
    measuring = list(enumerate(_measuring(meter)))
    if provider.buffer.lane == lane:  # else it has got one meanwhile, and series are in either
        words[LANE] = lane
        _observe(meter, row, worker)
        words[READY] = 1
    while (order := words[ORDER]) != LEAVE:
        if os.getppid() != parent:
            os._exit(1)  # the test is gone
        if words[READY] and order == RUN:
            _measure(row, worker, measuring, chance)
            words[STEPS] += 1
        else:
            words[PAUSED] = order
        time.sleep(0.001)
    if words[READY]:
        _measure(row, worker, measuring, chance)  # for whoever exports last
    if not exits_as_programs_do:
        provider.shutdown()


def _measure(
    row: Row,
    worker: int,
    measuring: list[tuple[int, Callable[[Any], None]]],
    chance: random.Random,
) -> None:
    words, clock = row.words, time.monotonic_ns
    for place, measure in chance.choices(measuring, k=_BATCH):
        first = Row.of_measured(place)
        number = words[first + DONE] + 1
        amount = amount_of(MEASURED[place], worker, number)
        words[first + BEGUN_EVEN + number % 2] = clock()
        words[first + BEGUN] = number
        measure(amount)
        words[first + DONE_AT] = clock()
        words[first + DONE] = number


class _Asked(InMemoryMetricReader):
    """A reader that answers whoever asks, whether or not its process is the collector."""

    __module__ = "opentelemetry.exporter.prometheus.storm"  # which is how it is known


def _testify(weather: Weather, questions: int, answers: int) -> None:
    reader = _Asked()
    provider = _provider(weather, [reader], shutdown_on_exit=False)
    beats = [0]

    def beat(_options: CallbackOptions) -> list[Observation]:
        beats[0] += 1
        return [Observation(beats[0])]

    provider.get_meter("storm").create_observable_counter(BEAT, [beat])
    while os.read(questions, 1) == b"?":
        message = pickle.dumps(seen(reader.get_metrics_data()))
        data = struct.pack("<Q", len(message)) + message
        while data:
            data = data[os.write(answers, data) :]
    provider.shutdown()


class Witness:
    """A process that looks at the buffer; it is neither killed nor stopped.

    Args:
        fork: starts a process.
        weather: of the storm.
    """

    def __init__(self, fork: Callable[..., Any], weather: Weather) -> None:
        questions, self._questions = os.pipe()
        self._answers, answers = os.pipe()
        self._process = fork(_testify, weather, questions, answers)
        os.close(questions)
        os.close(answers)

    def ask(self) -> None:
        """Has it look."""
        os.write(self._questions, b"?")

    def answer(self) -> tuple[str, list[Seen]]:
        """The service.instance.id and all points that it saw."""
        (length,) = struct.unpack("<Q", self._read(8))
        answer: tuple[str, list[Seen]] = pickle.loads(self._read(length))
        return answer

    def look(self) -> tuple[str, list[Seen]]:
        """Both."""
        self.ask()
        return self.answer()

    def leave(self) -> None:
        """Ends it."""
        os.write(self._questions, b".")
        self._process.result()
        os.close(self._questions)
        os.close(self._answers)

    def _read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = os.read(self._answers, count - len(data))
            if not more:
                pytest.fail("the witness is gone")
            data += more
        return data


def last_look(weather: Weather) -> tuple[str, list[Seen]]:
    """In a process of its own, when all others are gone: what is in the buffer."""
    reader = InMemoryMetricReader()
    provider = _provider(weather, [reader], shutdown_on_exit=False)
    found = seen(reader.get_metrics_data())
    provider.shutdown()
    return found
