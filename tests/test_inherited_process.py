# SPDX-License-Identifier: Apache-2.0
"""System metrics instrumented before a fork are the child's own in the child."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from opentelemetry.instrumentation import system_metrics
from opentelemetry.instrumentation.system_metrics import SystemMetricsInstrumentor
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from processes import Gate, Processes, processes

import otel_shm
from otel_shm.inherited_process import renew

__all__ = ["processes"]


@pytest.fixture
def instrumentor() -> Iterator[Any]:
    """The one of this process, made anew."""
    before = SystemMetricsInstrumentor._instance
    SystemMetricsInstrumentor._instance = None
    yield SystemMetricsInstrumentor(config={"process.open_file_descriptor.count": None})
    SystemMetricsInstrumentor._instance = before


def value_of(reader: InMemoryMetricReader) -> Any:
    """The one there is."""
    data: Any = reader.get_metrics_data()
    return data.resource_metrics[0].scope_metrics[0].metrics[0].data.data_points[0].value


def test_private_names_are_there(instrumentor: Any) -> None:
    """A version of the instrumentation that renames one of them must not go unnoticed."""
    assert SystemMetricsInstrumentor._instance is instrumentor
    assert instrumentor._proc == system_metrics.psutil.Process()


def test_child_observes_itself(
    instrumentor: Any,
    provider: otel_shm.MeterProvider,
    reader: InMemoryMetricReader,
    processes: Processes,
) -> None:
    """A service's total is that of its processes, not so many times what their parent has."""
    instrumentor.instrument(meter_provider=provider)
    gate = Gate()
    done, tell = os.pipe()

    def open_many() -> None:
        opened = [os.dup(0) for _ in range(500)]
        os.write(tell, b".")
        gate.wait()
        assert opened

    child = processes.fork(open_many)
    os.read(done, 1)
    try:
        both = psutil.Process().num_fds() + psutil.Process(child.pid).num_fds()
        # Looking opens a few.
        assert both - 10 <= value_of(reader) <= both + 10
    finally:
        gate.open()
        os.close(done)
        os.close(tell)
        instrumentor.uninstrument()
    child.result()


def test_nothing_is_instrumented(instrumentor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the instrumentation, or one of it, nothing is done and nothing is imported."""
    SystemMetricsInstrumentor._instance = None
    renew()
    monkeypatch.delitem(sys.modules, system_metrics.__name__)
    renew()
    assert system_metrics.__name__ not in sys.modules


def test_process_cannot_be_told(
    instrumentor: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What goes wrong is logged, and everything else goes on."""
    before = instrumentor._proc

    def refuse() -> None:
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil, "Process", refuse)
    renew()
    assert instrumentor._proc is before
    assert "are its parent's" in caplog.text
