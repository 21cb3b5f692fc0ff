# SPDX-License-Identifier: Apache-2.0
"""`otel-shm ls`: buffers, their services and processes, live or stale."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

from buffers import SMALL
from inspected import Capture, service, stale
from processes import Process, processes, until

import otel_shm
from otel_shm.command import main
from otel_shm.command.stopped import is_stopped

__all__ = ["processes", "service", "stale"]  # fixtures: found by their names in this module


def listed(capsys: Capture, directory: Path) -> dict[str, Any]:
    """What `ls` says, by the name of the file."""
    assert main(["ls", "--json", "--dir", str(directory)]) == 0
    return {Path(facts["path"]).name: facts for facts in json.loads(capsys.readouterr().out)}


def test_ls(service: tuple[Path, Process], stale: Path, capsys: Capture) -> None:
    """Live and stale buffers with what there is to say; other files are none."""
    path, process = service
    (path.parent / "other").write_text("no buffer")
    (path.parent / "directory").mkdir()
    (path.parent / "link").symlink_to(path)
    private = path.parent / "otel_shm-0"
    private.mkdir(mode=0o700)
    otel_shm.Buffer(private / "mine", **SMALL)  # held by nobody, so closed at once
    found = listed(capsys, path.parent)
    assert set(found) == {"live", "stale", "mine"}
    live = found["live"]
    assert live["size"] == path.stat().st_size
    assert live["memory"] == path.stat().st_blocks * 512
    assert (live["service"], live["state"]) == ("shop", "live")
    assert (live["processes"], live["collector"]) == ([process.pid], process.pid)
    assert live["series"] == 7
    gone = found["stale"]
    assert (gone["state"], gone["processes"], gone["collector"]) == ("stale", [], 0)
    assert (found["mine"]["service"], found["mine"]["series"]) == (None, 0)

    assert main(["ls", "--dir", str(path.parent)]) == 0
    heading, first, *_ = capsys.readouterr().out.splitlines()
    assert heading.split()[:4] == ["PATH", "SIZE", "MEMORY", "SERVICE"]
    assert str(path) in first
    assert str(process.pid) in first


def test_a_buffer_of_an_earlier_boot(stale: Path, capsys: Capture) -> None:
    """A file that survived a restart of the machine says so."""
    with stale.open("r+b") as file:
        file.seek(64)  # boot_id
        file.write(b"0" * 36)
    assert listed(capsys, stale.parent)["stale"]["why"] == "it is of an earlier boot"


def test_stopped_processes(service: tuple[Path, Process], capsys: Capture) -> None:
    """One that exports and is stopped is why nothing is exported, so it is told."""
    path, process = service
    assert listed(capsys, path.parent)["live"]["stopped"] == []
    os.kill(process.pid, signal.SIGSTOP)
    try:
        until(lambda: is_stopped(process.pid))
        assert listed(capsys, path.parent)["live"]["stopped"] == [process.pid]
        for command in (["ls", "--dir", str(path.parent)], ["dump", str(path)]):
            assert main(command) == 0
            assert f"{process.pid} (stopped)" in capsys.readouterr().out
    finally:
        os.kill(process.pid, signal.SIGCONT)
    assert not is_stopped(2**22 + 1), "there is none with this pid"
