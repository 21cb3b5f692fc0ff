# SPDX-License-Identifier: Apache-2.0
"""The thread that answers to the collections of other processes."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path

import pytest
from buffers import SMALL
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MetricsTimeoutError
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from points import points_of, values
from processes import Gate, Processes, processes, until

from otel_shm import MeterProvider, collector
from otel_shm.answers import Questions
from otel_shm.buffer import Buffer
from otel_shm.publisher import Publisher

__all__ = ["processes"]  # a fixture: found by its name in this module

Make = Callable[..., MeterProvider]


class Answering:
    """Notes which collections were to be answered."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def answer(self, collection: int) -> bytes:
        """Notes one."""
        self.asked.append(collection)
        return b""


def test_own_collections_are_not_answered() -> None:
    """Nor are those that began before the last own one, when the thread comes to them late."""
    buffer, answering = Buffer(**SMALL), Answering()
    publisher = Publisher(buffer, answering.answer)
    own = [publisher.begin_collection() for _ in range(3)]
    theirs = buffer.begin_collection()
    for collection in (own[0], own[1], theirs, own[2]):
        publisher.serve(collection)
    assert answering.asked == [theirs]


def test_theirs_behind_an_own_one_is_answered() -> None:
    """The thread comes to the last one only, which then stands for another process's before it."""
    buffer, answering = Buffer(**SMALL), Answering()
    publisher = Publisher(buffer, answering.answer)
    publisher.serve(publisher.begin_collection())
    buffer.begin_collection()
    own = publisher.begin_collection()
    publisher.serve(own)
    assert answering.asked == [own]


def test_greenlets_are_not_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where other functions start threads, as with gevent, it does not sleep outside of Python."""
    names = [
        name for name in ("_start_joinable_thread", "_start_new_thread") if hasattr(threading, name)
    ]
    for name in names:
        monkeypatch.setattr(threading, name, partial(getattr(threading, name)))
    monkeypatch.delattr("otel_shm.answers.wait_for_collection")
    buffer, answering = Buffer(**SMALL), Answering()
    publisher = Publisher(buffer, answering.answer)
    publisher.start()
    collection = buffer.begin_collection()
    until(lambda: answering.asked)
    publisher.stop()
    assert answering.asked == [collection]


def test_gevent_comes_later(processes: Processes) -> None:
    """Ends without a word when gevent has replaced threads since it was started: it is a thread still."""
    monkey = pytest.importorskip("gevent.monkey")

    def work() -> list[str]:
        errors: list[str] = []
        sys.unraisablehook = lambda error: errors.append(repr(error.exc_value))
        answering = Answering()
        publisher = Publisher(Buffer(**SMALL), answering.answer)
        publisher.start()
        monkey.patch_thread()
        publisher.stop()
        until(lambda: len(sys._current_frames()) == 1)
        return errors

    assert processes.fork(work).result() == []


def test_message_comes_before_all_have_answered() -> None:
    """What one of a process's providers has to tell at the first collection is not lost for another's."""
    buffer, told = Buffer(**SMALL), Told()
    publishers = [Publisher(buffer, told.answer), Publisher(buffer, told.answer)]
    for publisher in publishers:
        publisher._thread = threading.current_thread()  # which does what theirs would
    publishers[0].serve(buffer.begin_collection())
    assert Questions(buffer).messages() == [b"told"]


class Told:
    """Has something to tell."""

    def answer(self, _collection: int) -> bytes:
        """Tells it."""
        return b"told"


class Again:
    """Garbage whose finalizer leaves such garbage again, some times; at last it begins a collection."""

    def __init__(self, times: int, publisher: Publisher) -> None:
        self.me, self.times, self.publisher = self, times, publisher

    def __del__(self) -> None:
        if self.times:
            Again(self.times - 1, self.publisher)
        else:
            gc.set_threshold(1000)
            self.publisher.begin_collection()


def test_finalizer_collects_while_it_answers(processes: Processes) -> None:
    """Wherever in the thread a garbage collection calls it."""

    def work(times: int) -> list[int]:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(5)  # it would wait for itself
        buffer, answering = Buffer(**SMALL), Answering()
        publisher = Publisher(buffer, answering.answer)
        own = [publisher.begin_collection() for _ in range(3)]
        Again(times, publisher)
        gc.set_threshold(1)
        publisher.serve(own[-1])
        gc.set_threshold(1000)
        gc.collect()
        publisher.serve(buffer.last_collection)
        return answering.asked

    for times in range(8):
        assert processes.fork(work, times).result() == []


@pytest.mark.parametrize("deed", ["start", "stop"])
def test_its_thread_may_use_it_before_it_runs(deed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As finalizers do, which a garbage collection calls in a thread that is about to run."""
    publisher = Publisher(Buffer(**SMALL), Answering().answer)
    done: list[bool] = []

    class Collecting(threading.Thread):
        def start(self) -> None:
            finalizer = threading.Thread(target=getattr(publisher, deed), daemon=True)
            finalizer.start()
            finalizer.join(5)
            done.append(not finalizer.is_alive())
            super().start()

    monkeypatch.setattr("otel_shm.publisher._Thread", Collecting)
    publisher.start()
    assert done == [True]
    publisher.stop()


class Asked(InMemoryMetricReader):
    """A reader that answers whoever asks, whether or not its process is the collector."""

    __module__ = "opentelemetry.exporter.prometheus.tests"  # which is how it is known


def test_a_collector_that_stops_in_its_callbacks_keeps_its_last_values(
    make_provider: Make, buffer_path: Path, processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has answered to its own collection only when it has observed: others see what it said last."""
    monkeypatch.setattr(collector, "_MAX_ANSWER_MILLIS", 100)

    def work() -> None:
        reader, calls = InMemoryMetricReader(), count()
        provider = MeterProvider([reader], buffer=buffer_path, shutdown_on_exit=False)

        def callback(_options: CallbackOptions) -> list[Observation]:
            if next(calls) == 1:
                time.sleep(0.1)  # for the thread to go wrong in
                os.kill(os.getpid(), signal.SIGSTOP)
            return [Observation(5)]

        provider.get_meter("m").create_observable_gauge("g", [callback])
        reader.get_metrics_data()
        reader.get_metrics_data()

    child = processes.fork(work)
    until(lambda: os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOHANG))
    reader = Asked()
    make_provider(reader, buffer=buffer_path)
    assert values(reader) == {"{}": 5}


def test_providers_side_by_side_are_all_waited_for(
    make_provider: Make, buffer_path: Path, processes: Processes
) -> None:
    """A process has answered when the last of its providers has, whoever asks; also when one leaves."""
    go_on = Gate()

    def late(_options: CallbackOptions) -> list[Observation]:
        time.sleep(0.05)
        return [Observation(2)]

    def work() -> list[object]:
        readers = [InMemoryMetricReader(), InMemoryMetricReader()]
        providers = [
            MeterProvider([reader], buffer=buffer_path, shutdown_on_exit=False)
            for reader in readers
        ]
        providers[0].get_meter("m").create_observable_gauge("quick", [lambda _: [Observation(1)]])
        providers[1].get_meter("m").create_observable_gauge("late", [late])
        found: list[object] = [named(readers[0]), named(readers[1])]
        for provider in providers:
            provider.buffer.collector_release()
        ready.touch()
        until(seen.exists)
        providers[0].shutdown()
        gone.touch()
        go_on.wait()
        return found

    ready, seen, gone = (buffer_path.with_name(name) for name in ("ready", "seen", "gone"))
    child = processes.fork(work)
    until(ready.exists)
    reader = InMemoryMetricReader()
    make_provider(reader, buffer=buffer_path)
    assert [named(reader), named(reader)] == [{"quick": 1, "late": 2}] * 2
    seen.touch()
    until(gone.exists)
    assert named(reader) == {"late": 2}
    go_on.open()
    assert child.result() == [{"quick": 1, "late": 2}] * 2


def test_callback_that_collects_while_it_answers_times_out(make_provider: Make) -> None:
    """It would wait for itself, and each later collection for it."""
    reader, raised = Asked(), list[bool]()
    provider = make_provider(reader)

    def callback(_options: CallbackOptions) -> list[Observation]:
        if not raised:
            with pytest.raises(MetricsTimeoutError):
                reader._collect(reader, timeout_millis=50)  # type: ignore[misc]
            raised.append(True)
        return [Observation(5)]

    provider.get_meter("m").create_observable_gauge("g", [callback])
    provider.buffer.begin_collection()  # as another process does
    until(lambda: raised)
    assert named(reader) == {"g": 5}


def named(reader: InMemoryMetricReader) -> dict[str, int | float]:
    """What a reader collects now, by name."""
    return {point.name: point.value for point in points_of(reader.get_metrics_data())}
