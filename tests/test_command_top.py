# SPDX-License-Identifier: Apache-2.0
"""`otel-shm top`: totals and rates, live."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from commands import Commands, commands
from inspected import Capture, service, stale
from processes import Process, processes, until

import otel_shm
from otel_shm.command import main, top
from otel_shm.inspection import Inspection

__all__ = [
    "commands",
    "processes",
    "service",
    "stale",
]  # fixtures: found by their names in this module


def test_top_once(service: tuple[Path, Process], capsys: Capture) -> None:
    """One frame with totals, processes and what overflowed."""
    path, process = service
    assert main(["top", "--once", str(path)]) == 0
    text = capsys.readouterr().out
    assert f"1 live: {process.pid}" in text
    assert "overflowed  0 measurements" in text
    lines = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line}
    assert lines["orders"] == ["Counter", "1", "3", "-"]
    assert lines["latency"] == ["Histogram", "1", "1", "0.25", "-"]
    assert lines["new.name"] == ["Counter", "1", "1", "-"]


def test_rates_of_top(buffer_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are of the time between two frames: of sums what was added, of histograms how often."""
    clock = [100.0]
    monkeypatch.setattr(top, "monotonic", lambda: clock[0])
    provider = otel_shm.MeterProvider(buffer=buffer_path, shutdown_on_exit=False)
    meter = provider.get_meter("m")
    counter, histogram = meter.create_counter("counter"), meter.create_histogram("histogram")
    gauge = meter.create_gauge("gauge")
    view = top.View(Inspection(buffer_path))

    def rates() -> dict[str, float | None]:
        counter.add(30)
        for _ in range(10):
            histogram.record(7)
        gauge.set(clock[0])
        clock[0] += 2.0
        return {line.name: line.rate for line in view.lines()}

    assert rates() == {"counter": None, "histogram": None, "gauge": None}
    assert rates() == {"counter": 15, "histogram": 5, "gauge": None}
    assert list(rates()) == ["counter", "histogram", "gauge"]  # busiest first


def test_top_ends_with_the_buffer(stale: Path, commands: Commands) -> None:
    """It says why, and Ctrl-C is no error."""
    live = commands.start("top", "--interval=0.05", stale)
    until(lambda: is_mapped(live.pid, stale))
    stale.unlink()
    status, _, errors = live.end(None)
    assert (status, errors) == (2, f"otel-shm top: buffer '{stale}' was removed\n")


def is_mapped(pid: int, path: Path) -> bool:
    """Whether a process has a file in its memory."""
    return str(path) in Path(f"/proc/{pid}/maps").read_text()


def test_top_without_rich(stale: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what to install; the other commands do without."""
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert main(["top", "--once", str(stale)]) == 2
    assert capsys.readouterr().err == (
        "otel-shm top: it needs rich, which comes with: pip install 'otel_shm[cli]'\n"
    )
    assert main(["dump", str(stale)]) == 0
