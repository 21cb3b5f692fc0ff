# SPDX-License-Identifier: Apache-2.0
"""Measuring inside what interrupts measuring: signal handlers, finalizers and garbage collections."""

from __future__ import annotations

import collections
import gc
import signal

import pytest
from buffers import meter_of, totals
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from points import values
from processes import Processes, processes

import otel_shm
from otel_shm.attributes import decode_attributes
from otel_shm.buffer import Buffer
from otel_shm.scanner import Scanner

__all__ = ["processes"]


@pytest.mark.usefixtures("backend")
def test_concurrent_safe_add_in_a_signal_handler() -> None:
    """A signal handler that measures, in new series too, interrupts the same instrument at will."""
    buffer = Buffer(series=4096, lanes=2, record_bytes=2**20)
    counter = meter_of(buffer).create_counter("requests")
    handled = 0

    def handler(_number: int, _frame: object) -> None:
        nonlocal handled
        handled += 1
        counter.add(1, {"in": "handler"})
        counter.add(1, {"in": "handler", "n": handled})

    before = signal.signal(signal.SIGALRM, handler)
    added = 0
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        while handled < 100:
            added += 1
            counter.add(1, {"in": "program"})
            counter.add(1, {"in": "program", "n": added % 1000})
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    found = {attributes: value for (_, attributes), value in totals(buffer).items()}
    assert found["{'in': 'handler'}"] == handled
    assert found["{'in': 'program'}"] == added
    assert sum(found.values()) == 2 * (handled + added)


@pytest.mark.usefixtures("backend")
def test_concurrent_safe_add_in_a_finalizer_and_a_gc_callback() -> None:
    """A __del__ and a callback of the garbage collector measure while a collection makes garbage."""
    reader = InMemoryMetricReader()
    provider = otel_shm.MeterProvider([reader], shutdown_on_exit=False)
    counter = provider.get_meter("tests").create_counter("requests")
    seen = {"del": 0, "gc": 0}

    class Cyclic:
        def __init__(self) -> None:
            self.myself = self

        def __del__(self) -> None:
            seen["del"] += 1
            counter.add(1, {"from": "del"})
            counter.add(1, {"from": "del", "n": seen["del"] % 50})

    def callback(phase: str, _info: dict[str, int]) -> None:
        seen["gc"] += 1
        counter.add(1, {"from": "gc"})
        counter.add(1, {"from": phase, "n": seen["gc"] % 50})

    before = gc.get_threshold()
    gc.collect()
    gc.freeze()  # what other tests left makes collections long, and nothing else
    gc.callbacks.append(callback)
    gc.set_threshold(10, 2, 2)
    try:
        for _ in range(30):
            Cyclic()
            assert reader.get_metrics_data() is not None
            gc.collect()
    finally:
        gc.callbacks.remove(callback)
        gc.set_threshold(*before)
        gc.collect()
    assert seen["del"] == 30
    found = values(reader)
    assert found["{'from': 'del'}"] == 30
    assert found["{'from': 'gc'}"] == seen["gc"] > 30
    provider.shutdown()


def test_concurrent_safe_instrument_made_in_a_signal_handler(processes: Processes) -> None:
    """A handler that asks for a meter and an instrument interrupts a program that does the same."""

    def run() -> tuple[int, int, dict[str, int]]:
        provider = otel_shm.MeterProvider(shutdown_on_exit=False)
        handled = added = 0

        def measure(where: str, n: int) -> None:
            meter = provider.get_meter(f"meter {n % 100}")
            meter.create_counter(f"counter{n % 70}").add(1, {"in": where})

        def handler(_number: int, _frame: object) -> None:
            nonlocal handled
            handled += 1
            measure("handler", handled)
            signal.setitimer(signal.ITIMER_REAL, 0.0003)

        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.0003)
        while handled < 1_000:
            added += 1
            measure("program", added)
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        counted = collections.Counter[str]()
        for row in Scanner(provider.buffer).scan(0):
            if row.value is not None:
                counted[decode_attributes(provider.buffer.record_key(row.series))["in"]] += (
                    row.value
                )
        return handled, added, dict(counted)

    handled, added, counted = processes.fork(run).result()
    assert counted == {"handler": handled, "program": added}
