# SPDX-License-Identifier: Apache-2.0
"""`otel-shm run`: it exports for a service from outside, whatever happens to the processes of either."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from buffers import shm
from commands import OTEL_SHM, SILENT, Commands, children, commands, otel_shm
from processes import PATIENCE, until
from receiver import Receiver  # pytest's `pythonpath` setting points at examples/
from serving import assert_one_series, is_running
from test_servers import gunicorn

from otel_shm.command import places
from otel_shm.command import run as run_command
from otel_shm.errors import BufferPathError

__all__ = ["commands", "shm"]  # fixtures: found by their names in this module

PYTHON = sys.executable
HOUR = "3600000"  # milliseconds between exports: only exits export
SHOW = "echo $OTEL_SHM_PATH; read line"


def environment_of(receiver: Receiver, **more: str) -> dict[str, str]:
    """Exports go to a receiver, at the end only."""
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_METRIC_EXPORT_INTERVAL": HOUR,
        **more,
    }


def ls(directory: Path) -> list[dict[str, Any]]:
    """What `otel-shm ls` says of a directory."""
    found: list[dict[str, Any]] = json.loads(otel_shm("ls", "--json", "--dir", directory).stdout)
    return found


def supervised(path: Path) -> list[str]:
    """What starts a service under the supervisor."""
    return [OTEL_SHM, "run", f"--path={path}", "--"]


def test_total_is_exact_and_nothing_is_left(shm: Path, tmp_path: Path) -> None:
    """The supervisor alone collects, a killed worker's counts stay, and the end has everything."""
    with Receiver() as receiver:
        with gunicorn(
            tmp_path,
            receiver.endpoint,
            launcher=supervised(shm / "buffer"),
            workers=2,
            OTEL_METRIC_EXPORT_INTERVAL="50",
        ) as server:
            server.load(60)
            assert receiver.wait_for(lambda: receiver.total("requests") == 60, PATIENCE)
            (found,) = ls(shm)
            assert found["collector"] == server.process.pid
            assert set(found["processes"]) >= set(server.answered)
            victim = max(server.answered)
            os.kill(victim, signal.SIGKILL)
            server.load(60)
            server.stop()
        assert_one_series(receiver, 120)
    assert list(shm.iterdir()) == []


def test_workers_take_over_from_a_killed_supervisor(tmp_path: Path) -> None:
    """The service lives on, and so do total, start time and identity; its last process exports."""
    path = tmp_path / "buffer"
    with Receiver() as receiver:
        with gunicorn(
            tmp_path,
            receiver.endpoint,
            launcher=supervised(path),
            workers=2,
            OTEL_METRIC_EXPORT_INTERVAL="50",
        ) as server:
            server.load(60)
            assert receiver.wait_for(lambda: receiver.total("requests") == 60, PATIENCE)
            (master,) = children(server.process.pid)
            server.process.kill()
            server.process.wait()
            server.load(60)
            assert receiver.wait_for(lambda: receiver.total("requests") == 120, PATIENCE)
            server.load(60)
            workers = children(master)
            os.kill(master, signal.SIGTERM)
            until(lambda: not any(map(is_running, {master, *workers})))
        assert_one_series(receiver, 180)
    (found,) = ls(tmp_path)
    assert (found["state"], found["processes"], found["collector"]) == ("stale", [], 0)


def test_workers_that_outlive_a_killed_master(tmp_path: Path) -> None:
    """They are waited for, and what they still counted is exported; the status says what happened."""
    with Receiver() as receiver:
        with gunicorn(
            tmp_path,
            receiver.endpoint,
            "--timeout=2",  # a worker looks for its master twice in that time
            launcher=supervised(tmp_path / "buffer"),
            workers=1,
            OTEL_METRIC_EXPORT_INTERVAL=HOUR,
        ) as server:
            server.load(60)
            (master,) = children(server.process.pid)
            os.kill(master, signal.SIGKILL)
            assert server.process.wait(PATIENCE) == 128 + signal.SIGKILL
        assert_one_series(receiver, 60)
    assert not (tmp_path / "buffer").exists()


def test_processes_that_outlive_the_grace(commands: Commands, tmp_path: Path) -> None:
    """The buffer stays theirs, and their own readers export from then on."""
    ready = tmp_path / "ready"
    os.mkfifo(ready)
    daemon = f"exec 3<&0; {PYTHON} counting.py <&3 & read line < {ready}"
    with Receiver() as receiver:
        run = commands.start(
            *("run", f"--path={tmp_path / 'buffer'}", "--grace=0", "sh", "-c", daemon),
            environment=environment_of(receiver),
        )
        assert run.line() == "otel_shm.provider"
        ready.write_text("\n")
        assert run.wait() == 0
        assert "live on" in run.said()
        assert receiver.wait_for(lambda: receiver.total("hits") == 1, PATIENCE)
        before = len(receiver.requests)
        run.close_input()  # upon which the process ends
        assert receiver.wait_for(lambda: len(receiver.requests) > before, PATIENCE)
        assert receiver.total("hits") == 1
    assert (tmp_path / "buffer").exists()


def test_a_private_buffer(commands: Commands) -> None:
    """Without a path it is made where only this user may look, and is gone at the end."""
    run = commands.start("run", "sh", "-c", SHOW, environment=SILENT)
    path = Path(run.line())
    assert path.parent == Path(f"/dev/shm/otel_shm-{os.geteuid()}")
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert path.exists()
    assert run.end(signal.SIGTERM) == (128 + signal.SIGTERM, "", "")
    assert not path.exists()


def test_a_directory_that_is_not_ours_is_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Anybody may make directories in /dev/shm: one that others may enter is passed over."""
    shared, runtime, temporary = (tmp_path / name for name in ("shared", "runtime", "temporary"))
    taken = shared / f"otel_shm-{os.geteuid()}"
    for place in (shared, temporary):
        (place / taken.name).mkdir(parents=True, mode=0o755)
    monkeypatch.setattr(places, "SHARED_MEMORY", shared)
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    with pytest.raises(BufferPathError, match=r"alone.*--path"):
        places.private_directory()
    runtime.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    assert places.private_directory() == runtime / taken.name


def test_without_shared_memory_a_buffer_is_in_the_temporary_directory(
    commands: Commands, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is said where, is private whatever the umask, is listed, and is gone at the end."""
    monkeypatch.setattr(places, "SHARED_MEMORY", tmp_path / "none")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    before = os.umask(0o777)
    try:
        run = commands.start("run", "sh", "-c", SHOW, environment=SILENT)
    finally:
        os.umask(before)
    directory = tmp_path / f"otel_shm-{os.geteuid()}"
    assert run.said() == (
        f"otel-shm run: no directory in memory may be written, so the buffer is in '{directory}'"
    )
    path = Path(run.line())
    assert (path.parent, directory.stat().st_mode & 0o777) == (directory, 0o700)
    assert places.buffers(None) == [path]
    assert run.end(signal.SIGTERM) == (128 + signal.SIGTERM, "", "")
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_another_supervisor_takes_away(
    commands: Commands, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The last one out removes it; who is about to use it makes it once more."""
    monkeypatch.setattr(places, "SHARED_MEMORY", tmp_path)
    is_taken_away = iter([True, True, False])

    def private_directory() -> Path:
        directory = places.private_directory()
        if next(is_taken_away):
            directory.rmdir()
        return directory

    monkeypatch.setattr(run_command, "private_directory", private_directory)
    assert commands.run("run", "true", environment=SILENT) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("OTEL_METRICS_EXPORTER", "nonsense", "no installed package offers that exporter"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "pigeon", "must be one of"),
        ("OTEL_SHM_SERIES", "many", "must be a whole number"),
        ("OTEL_SHM_LANES", "1", "OTEL_SHM_LANES) must be a whole number from 2 to 4096, not 1"),
        ("OTEL_SHM_PATH", "/no/such/directory/buffer", "No such file or directory"),
        ("OTEL_SHM_PATH", "/dev/null", "is not a regular file"),
        ("OTEL_CONFIG_FILE", "config.yaml", "is not read here"),
    ],
)
def test_wrong_settings(variable: str, value: str, said: str, commands: Commands) -> None:
    """They are said in one line, and nothing is started."""
    status, output, errors = commands.run("run", "echo", "no", environment={variable: value})
    assert (status, output) == (2, "")
    assert said in errors
    assert errors.count("\n") == 1


def test_the_supervisor_is_no_process_of_the_service(commands: Commands, tmp_path: Path) -> None:
    """Its resource is not the service's, and the command finds a provider without being told to.

    With --keep the next run goes on with the total.
    """
    with Receiver() as receiver:
        for total in (1, 2):
            run = commands.start(
                *("run", "--keep", f"--path={tmp_path / 'buffer'}"),
                *("env", "OTEL_SERVICE_NAME=inner", PYTHON, "counting.py"),
                environment=environment_of(receiver, OTEL_SERVICE_NAME="outer"),
            )
            assert run.line() == "otel_shm.provider"
            run.close_input()
            assert run.end(None) == (0, "", "")
            # Exported once each time, and by one of the two only.
            points = receiver.points("hits")
            assert [point.value for point in points] == [1, 2][:total]
            assert points[-1].resource_attributes["service.name"] == "inner"
        assert len(receiver.latest("hits")) == 1


@pytest.mark.parametrize("inside", [False, True], ids=["outside", "inside"])
def test_with_opentelemetry_instrument(inside: bool, tmp_path: Path) -> None:
    """In front of either: the service is instrumented, and the supervisor is not, and collects."""
    path = tmp_path / "buffer"
    instrument = str(Path(OTEL_SHM).with_name("opentelemetry-instrument"))
    with Receiver() as receiver:
        with gunicorn(
            tmp_path,
            receiver.endpoint,
            launcher=[*supervised(path), instrument] if inside else [instrument, *supervised(path)],
            workers=1,
            OTEL_METRIC_EXPORT_INTERVAL=HOUR,
            OTEL_TRACES_EXPORTER="none",
            OTEL_LOGS_EXPORTER="none",
        ) as server:
            server.load(20)
            (found,) = ls(tmp_path)
            (master,) = children(server.process.pid)
            assert found["collector"] == server.process.pid
            # The configurator has run in gunicorn's master too, and so in front of it.
            assert set(found["processes"]) == {master, *server.answered}
            server.stop()
        assert_one_series(receiver, 20)
    assert not path.exists()


def test_one_supervisor_a_buffer(commands: Commands, tmp_path: Path) -> None:
    """A second one is refused, and takes nothing away."""
    with Receiver() as receiver:
        path, environment = tmp_path / "buffer", environment_of(receiver)
        first = commands.start("run", "--path", path, "sh", "-c", SHOW, environment=environment)
        assert first.line() == str(path)
        status, _, errors = commands.run("run", "--path", path, "true", environment=environment)
        assert status == 2
        assert f"is collected by process {first.pid} already" in errors
        assert path.exists()
        assert first.end()[0] == 128 + signal.SIGTERM


@pytest.mark.parametrize(
    ("names", "left"), [("prometheus", "none"), ("prometheus, console", "console")]
)
def test_pulled_metrics_are_the_supervisors(names: str, left: str, commands: Commands) -> None:
    """There is one port, which the processes of the service do not ask for."""
    environment = {"OTEL_METRICS_EXPORTER": names, "OTEL_EXPORTER_PROMETHEUS_PORT": "0"}
    done = commands.run("run", "sh", "-c", "echo $OTEL_METRICS_EXPORTER", environment=environment)
    assert done == (0, f"{left}\n", "")
