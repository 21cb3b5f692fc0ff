# SPDX-License-Identifier: Apache-2.0
"""What the core has allocated stays as long as anything can use it, be it a `__del__` of its garbage."""

from __future__ import annotations

import gc
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from opentelemetry.sdk import metrics as sdk
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from processes import Processes, processes

import otel_shm
from otel_shm.held import hold, hold_for_ever
from otel_shm.scanner import Scanner
from otel_shm.series import Share

__all__ = ["processes"]


class Last:
    """Does something when it is garbage; it is looked at after what was there when it was made."""

    def __init__(self, do: Callable[[Any], object], whole: Any) -> None:
        self.do, self.whole = do, whole

    def __del__(self) -> None:
        self.do(self.whole)


def test_it_goes_with_the_last_reference() -> None:
    """And once."""
    closed: list[int] = []
    held = [hold(closed.append, 1)] * 2
    held.pop()
    assert closed == []
    held.pop()
    assert closed == [1]


def test_it_goes_after_finalizers() -> None:
    """Of what is garbage together, first all `__del__` are called."""
    order: list[str] = []
    garbage = SimpleNamespace(held=hold(order.append, "closed"))
    garbage.last = Last(lambda _: order.append("deleted"), garbage)
    del garbage
    gc.collect()
    assert order == ["deleted", "closed"]


def test_for_ever() -> None:
    """What another thread may be using is never closed."""
    closed: list[int] = []
    hold_for_ever(hold(closed.append, 1))
    gc.collect()
    assert closed == []


DEEDS: dict[str, Callable[[Any], object]] = {
    "add": lambda app: app.counter.add(1),
    "add to a new series": lambda app: app.counter.add(1, {"new": True}),
    "add, bound": lambda app: app.bound.add(1),
    "record": lambda app: app.histogram.record(1, {"new": True}),
    "make an instrument": lambda app: app.provider.get_meter("n").create_counter("n").add(1),
    "statistics": lambda app: app.provider.buffer.statistics,
    "scan": lambda app: Scanner(app.provider.buffer).scan(0),
    "collect": lambda app: app.reader.get_metrics_data(),
    "flush": lambda app: app.provider.force_flush(),
    "shutdown": lambda app: app.provider.shutdown(),
}
NO_INSTRUMENTS = ("make an instrument", "statistics", "scan", "collect", "flush", "shutdown")


@pytest.mark.parametrize(
    ("deed", "measures"), [*((d, True) for d in DEEDS), *((d, False) for d in NO_INSTRUMENTS)]
)
def test_provider_is_used_by_a_finalizer(
    deed: str, measures: bool, backend: ModuleType, processes: Processes
) -> None:
    """A `__del__` may do anything with a provider that is garbage together with it."""

    def run() -> bool:
        done: list[object] = []
        app = SimpleNamespace(reader=InMemoryMetricReader())
        app.provider = otel_shm.MeterProvider(
            [app.reader], None, sdk.AlwaysOffExemplarFilter(), shutdown_on_exit=False
        )
        if measures:
            meter = app.provider.get_meter("m")
            app.counter, app.histogram = meter.create_counter("c"), meter.create_histogram("h")
            app.bound = app.counter.bind({"a": 1})
            app.bound.add(1)
            app.histogram.record(1)
        app.reader.get_metrics_data()
        gc.collect()
        app.last = Last(lambda app: done.append(DEEDS[deed](app)), app)
        gc.collect()  # so that all of it is of one age
        del app
        gc.collect()
        return len(done) == 1

    assert processes.fork(run).result()


class Again:
    """Garbage whose finalizer leaves such garbage again, some times; at last it uses a structure."""

    def __init__(self, times: int) -> None:
        self.me, self.times = self, times

    def __del__(self) -> None:
        if self.times:
            Again(self.times - 1)
        else:
            gc.set_threshold(1000)
            Share()


def use_a_structure_first(times: int) -> None:
    """While each allocation may be a garbage collection."""
    Again(times)
    gc.set_threshold(1)
    Share()


def use_structures_first() -> None:
    """In processes that have not used any before."""
    with Processes() as children:
        for times in range(8):
            children.fork(use_a_structure_first, times).result()


def test_finalizer_uses_what_is_used_for_the_first_time(processes: Processes) -> None:
    """Whatever is allocated when a garbage collection calls it."""
    processes.spawn(use_structures_first).result()
