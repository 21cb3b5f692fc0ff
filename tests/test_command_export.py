# SPDX-License-Identifier: Apache-2.0
"""`otel-shm export`: it exports beside the service, for processes that do not or when they are gone."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from commands import APPS, SILENT, Command, Commands, commands
from processes import PATIENCE, Gate, Processes, processes, until
from receiver import Receiver  # pytest's `pythonpath` setting points at examples/
from test_servers import assert_one_series, gunicorn

import otel_shm
from otel_shm.inspection import Inspection

__all__ = ["commands", "processes"]  # fixtures: found by their names in this module


def sidecar(commands: Commands, receiver: Receiver, path: Path, *options: str) -> Command:
    """An exporter that is running."""
    return commands.start(
        *("export", path, "--interval=0.02", *options),
        environment={
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_SERVICE_NAME": "sidecar",
        },
    )


def test_workers_that_export_nothing(commands: Commands, tmp_path: Path) -> None:
    """The exporter sends their total, as theirs; the last time when it is told to end."""
    path = tmp_path / "buffer"
    with Receiver() as receiver:
        with gunicorn(
            tmp_path,
            receiver.endpoint,
            workers=2,
            OTEL_SHM_PATH=str(path),
            **SILENT,
        ) as server:
            server.load(40)
            exporter = sidecar(commands, receiver, path)
            assert (
                exporter.said() == f"otel-shm export: buffer '{path}' is collected by this process"
            )
            assert receiver.wait_for(lambda: receiver.total("requests") == 40, PATIENCE)
            inspection = Inspection(path)
            assert inspection.collector_pid == exporter.pid
            assert {lane.pid for lane in inspection.lanes if lane.is_live} == server.workers()
            server.load(20)
            assert exporter.end() == (0, "", "")
            assert_one_series(receiver, 60)
            (point,) = receiver.latest("requests")
            assert point.resource_attributes["service.name"].startswith("test-")  # the service's
            server.stop()
    assert path.exists()


def test_it_takes_over_from_a_killed_collector(commands: Commands, tmp_path: Path) -> None:
    """It waits while another process collects, and then goes on with that one's totals."""
    path = tmp_path / "buffer"
    with Receiver() as receiver:
        worker = subprocess.Popen(
            [sys.executable, "counting.py"],
            cwd=APPS,
            env={
                **os.environ,
                "OTEL_PYTHON_METER_PROVIDER": "otel_shm",
                "OTEL_SHM_PATH": str(path),
                "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
                "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
                "OTEL_METRIC_EXPORT_INTERVAL": "20",
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        )
        with worker:
            assert receiver.wait_for(lambda: receiver.total("hits") == 1, PATIENCE)
            exporter = sidecar(commands, receiver, path)
            assert f"is collected by process {worker.pid}" in exporter.said()
            worker.kill()
        assert "is collected by this process" in exporter.said()
        before = len(receiver.requests)
        assert receiver.wait_for(lambda: len(receiver.requests) > before, PATIENCE)
        assert exporter.end() == (0, "", "")
        assert receiver.total("hits") == 1
        assert len(receiver.latest("hits")) == 1


def counts(path: Path, gate: Gate) -> None:
    """A process of the service, without readers, until the gate opens."""
    provider = otel_shm.MeterProvider(buffer=path, shutdown_on_exit=False)
    provider.get_meter("m").create_counter("c").add(1)
    gate.wait()


def test_it_waits_for_the_buffer(
    commands: Commands, processes: Processes, buffer_path: Path
) -> None:
    """For the first one, and for the next one when that was removed and its processes are gone."""
    with Receiver() as receiver:
        exporter = sidecar(commands, receiver, buffer_path, "--wait")
        for services in (1, 2):
            assert "is waited for" in exporter.said()
            gate = Gate()
            worker = processes.fork(counts, buffer_path, gate)
            assert "is collected by this process" in exporter.said()
            assert receiver.wait_for(lambda n=services: receiver.total("c") == n, PATIENCE)
            os.unlink(buffer_path)
            gate.open()
            worker.result()
        assert "is waited for" in exporter.said()
        assert exporter.end() == (0, "", "")


def test_it_ends_with_the_buffer(
    commands: Commands, processes: Processes, buffer_path: Path
) -> None:
    """Without --wait; but not while a process still measures in it."""
    gate = Gate()
    with Receiver() as receiver:
        worker = processes.fork(counts, buffer_path, gate)
        until(buffer_path.exists)
        exporter = sidecar(commands, receiver, buffer_path)
        assert "is collected by this process" in exporter.said()
        os.unlink(buffer_path)
        before = len(receiver.requests)
        assert receiver.wait_for(lambda: len(receiver.requests) > before + 2, PATIENCE)
        gate.open()
        worker.result()
        assert exporter.end(None) == (0, "", "")
        assert receiver.total("c") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_it_can_be_ended_while_it_waits(number: int, commands: Commands, buffer_path: Path) -> None:
    """There is nothing to export then."""
    exporter = commands.start("export", buffer_path, "--wait", environment=SILENT)
    assert exporter.said() == f"otel-shm export: buffer '{buffer_path}' is waited for"
    assert exporter.end(number) == (0, "", "")


def test_an_ignored_signal_does_not_end_it(commands: Commands, buffer_path: Path) -> None:
    """A shell has `command &` ignore Ctrl-C, which is for the service: its exporter stays."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Receiver() as receiver:
        try:
            exporter = sidecar(commands, receiver, buffer_path, "--wait")
        finally:
            signal.signal(signal.SIGINT, before)
        assert exporter.said() == f"otel-shm export: buffer '{buffer_path}' is waited for"
        exporter.send(signal.SIGINT)
        _kept = otel_shm.Buffer(buffer_path)
        assert "is collected by this process" in exporter.said()
        assert exporter.end() == (0, "", "")


@pytest.mark.parametrize("command", ["run", "export"])
def test_a_last_export_that_hangs_can_be_ended(
    command: str, commands: Commands, processes: Processes, buffer_path: Path
) -> None:
    """A second signal is for whoever exports to a collector that does not answer."""
    gate = Gate()
    processes.fork(counts, buffer_path, gate)
    until(buffer_path.exists)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        arguments = {
            "run": ["run", "--path", buffer_path, "sleep", "60"],
            "export": ["export", buffer_path],
        }
        started = commands.start(
            *arguments[command],
            environment={
                "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{mute.getsockname()[1]}",
                "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            },
        )
        until(lambda: Inspection(buffer_path).collector_pid == started.pid)
        gate.open()
        started.send(signal.SIGTERM)
        with mute.accept()[0]:  # it exports
            status, _, errors = started.end(signal.SIGTERM)
        assert status == {"run": 128 + signal.SIGTERM, "export": 0}[command]
        assert "told to end before the last export was made" in errors


def test_errors(commands: Commands, buffer_path: Path) -> None:
    """No buffer, and nowhere to export to."""
    missing = f"otel-shm export: buffer '{buffer_path}': No such file or directory\n"
    assert commands.run("export", buffer_path) == (2, "", missing)
    otel_shm.Buffer(buffer_path)
    assert commands.run("export", buffer_path, environment=SILENT) == (
        2,
        "",
        "otel-shm export: the environment asks for no exporter\n",
    )
