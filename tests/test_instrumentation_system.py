# SPDX-License-Identifier: Apache-2.0
"""The system metrics on our provider are what they are on the SDK's, each of them once."""

from __future__ import annotations

import gc
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest
from instrumented import Look, named, on_both
from opentelemetry.instrumentation import system_metrics
from opentelemetry.instrumentation.system_metrics import SystemMetricsInstrumentor
from opentelemetry.metrics import MeterProvider

NAMES = {
    *("system.cpu.time", "system.cpu.utilization", "system.memory.usage"),
    *("system.memory.utilization", "system.swap.usage", "system.swap.utilization"),
    *("system.disk.io", "system.disk.operations", "system.disk.time", "system.network.io"),
    *("system.network.dropped_packets", "system.network.packets", "system.network.errors"),
    *("system.network.connections", "system.thread_count"),
    *("process.cpu.time", "process.cpu.utilization", "process.context_switches"),
    *("process.memory.usage", "process.memory.virtual", "process.open_file_descriptor.count"),
    *("process.thread.count", "process.disk.io", "process.runtime.cpython.memory"),
    *("process.runtime.cpython.cpu_time", "process.runtime.cpython.gc_count"),
    *("process.runtime.cpython.thread_count", "process.runtime.cpython.cpu.utilization"),
    *("process.runtime.cpython.context_switches", "cpython.gc.collections"),
    *("cpython.gc.collected_objects", "cpython.gc.uncollectable_objects"),
}
DISKS = {"system.disk.io", "system.disk.operations", "system.disk.time"}


class Machine:
    """What the machine says, which stays the same until time goes on."""

    def __init__(self) -> None:
        self._said: list[dict[Any, Any]] = []
        self._now = 0

    def set_time(self, now: int) -> None:
        """A time that was before gives what was said then."""
        self._now = now

    def still(self, asked: Any) -> Any:
        """Something whose functions are asked once a time."""
        return _Still(self, asked)

    def answer(self, asked: Any, name: str, arguments: tuple[Any, ...], named: Any) -> Any:
        """What a function answers at this time."""
        while len(self._said) <= self._now:
            self._said.append({})
        key = (id(asked), name, arguments, tuple(named.items()))
        if key not in self._said[self._now]:
            self._said[self._now][key] = getattr(asked, name)(*arguments, **named)
        return self._said[self._now][key]


class _Still:
    def __init__(self, machine: Machine, asked: Any) -> None:
        self._machine, self._asked = machine, asked

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *arguments, **named: self._machine.answer(self._asked, name, arguments, named)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """The machine as the instrumentation asks it; there is a socket for it to find."""
    made = Machine()
    for module in (psutil, gc, threading):
        monkeypatch.setattr(system_metrics, module.__name__, made.still(module))
    with socket.create_server(("127.0.0.1", 0)):
        yield made


def looking_thrice(machine: Machine) -> Callable[[MeterProvider, Look], None]:
    """Looks at times 1, 2 and 3, at which everything may have changed."""
    process = machine.still(psutil.Process())

    def scenario(provider: MeterProvider, look: Look) -> None:
        machine.set_time(0)
        instrumentor = SystemMetricsInstrumentor()
        instrumentor._proc = process
        instrumentor.instrument(meter_provider=provider)
        try:
            for now in (1, 2, 3):
                machine.set_time(now)
                look()
        finally:
            instrumentor.uninstrument()

    return scenario


def test_like_the_sdk(machine: Machine) -> None:
    """The same metrics, series and values at each collection."""
    ours, stock = on_both(looking_thrice(machine))
    assert ours == stock
    for look in map(named, ours):
        assert set(look) == NAMES - (set() if psutil.disk_io_counters(perdisk=True) else DISKS)
        assert "{'cpu': 1, 'state': 'user'}" in look["system.cpu.time"].points


def test_deltas_like_the_sdk(machine: Machine) -> None:
    """The same, but for the counter that goes back: it begins anew, where the SDK sends less than 0."""
    ours, stock = (list(map(named, looks)) for looks in on_both(looking_thrice(machine), "delta"))
    went_back = "process.runtime.cpython.gc_count"
    told = [look.pop(went_back) for look in ours]
    for look, metric in zip(stock, told, strict=True):
        assert look.pop(went_back)._replace(points={}) == metric._replace(points={})
    assert ours == stock

    before: tuple[int, ...] = (0, 0, 0)
    for now, metric in enumerate(told[:3], 1):
        machine.set_time(now)
        counts = machine.answer(gc, "get_count", (), {})
        assert metric.points == {
            f"{{'count': '{generation}'}}": repr(new - old if new >= old else new)
            for generation, (old, new) in enumerate(zip(before, counts, strict=True))
        }
        before = counts
    assert set(told[3].points.values()) == {"0"}  # nothing changed since
