# SPDX-License-Identifier: Apache-2.0
"""`otel-shm ls`, `rm`, `dump` and `top`: what they say of foreign and damaged files."""

from __future__ import annotations

import os
import random
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import Commands, commands
from inspected import Capture, stale
from processes import Processes, processes

from otel_shm.command import main

__all__ = ["commands", "processes", "stale"]  # fixtures: found by their names in this module


def truncate(path: Path) -> None:
    """Cuts it off behind the header."""
    os.truncate(path, 8192)


def other_version(path: Path) -> None:
    """Makes it one of a layout to come."""
    with path.open("r+b") as file:
        file.seek(8)
        file.write(b"\x63")


def scribble(path: Path) -> None:
    """Makes it something else."""
    path.write_bytes(b"x" * 100_000)


def shorten(path: Path) -> None:
    """Leaves less than a header."""
    os.truncate(path, 100)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (truncate, "does not have the length its header says: it is truncated or damaged"),
        (other_version, "has another version than this package's (2)"),
        (scribble, "is not an otel_shm buffer"),
        (shorten, "is shorter than a buffer's header: it is truncated, or not a buffer"),
    ],
)
def test_files_that_cannot_be_read(damage: Any, said: str, stale: Path, capsys: Capture) -> None:
    """Each is told in one line, without the advice to remove what was only looked at."""
    damage(stale)
    for command in ("dump", "top"):
        assert main([command, str(stale)]) == 2
        assert capsys.readouterr().err == f"otel-shm {command}: buffer '{stale}' {said}\n"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/no/such/file", "No such file or directory"),
        ("/dev", "is not a regular file"),
        ("/dev/zero", "is not a regular file"),
        ("/proc/self/exe", "is a symbolic link"),
        ("", "must be a non-empty str"),
    ],
)
def test_paths_that_cannot_be_read(path: str, said: str, capsys: Capture) -> None:
    """Wrong paths have their own words, in each command."""
    for command in (["dump", path], ["top", "--once", path]):
        assert main(command) == 2
        assert said in capsys.readouterr().err
    assert main(["ls", "--dir", "/no/such/directory"]) == 2
    assert capsys.readouterr().err == (
        "otel-shm ls: directory '/no/such/directory': No such file or directory\n"
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="another user's file needs another user")
def test_files_of_other_users(stale: Path, processes: Processes, commands: Commands) -> None:
    """They are not to be read, listed or removed; the superuser may look at anybody's."""
    for directory in (stale.parent, *stale.parent.parents[:-1]):
        if directory.is_relative_to("/tmp") and directory != Path("/tmp"):
            directory.chmod(0o755)

    def stranger() -> list[int]:
        os.setuid(65534)
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
        return [
            main(["dump", str(stale)]),
            main(["rm", str(stale)]),
            main(["ls", "--dir", str(stale.parent)]),
            main(["rm", "--stale", "--dir", str(stale.parent)]),
        ]

    assert processes.fork(stranger).result() == [2, 2, 0, 0]
    assert stale.exists()
    os.chown(stale, 65534, -1)
    status, output, _ = commands.run("dump", stale)
    assert (status, "orders" in output) == (0, True)


def test_a_buffer_whose_records_are_damaged(stale: Path, capsys: Capture) -> None:
    """What can be read of it is printed."""
    content = stale.read_bytes()
    places = [found.start() for found in re.finditer(b"in_flight", content)]
    assert len(places) == 2  # of the instrument and of its stream
    with stale.open("r+b") as file:
        for at in places:
            file.seek(at - 2)
            file.write(b"\xff" * 11)
    assert main(["dump", str(stale)]) == 0
    text = capsys.readouterr().out
    assert "Counter orders" in text
    assert "UpDownCounter (unreadable)" in text
    assert main(["top", "--once", str(stale)]) == 0


def test_whatever_a_file_holds(stale: Path, processes: Processes) -> None:
    """No command is killed by it or ends with a traceback."""
    content = stale.read_bytes()
    filled = [at for at in range(16, len(content)) if content[at]]  # behind magic and version

    def look(seed: int) -> set[int]:
        chance = random.Random(seed)
        file = os.open(stale, os.O_RDWR)
        for _ in range(chance.choice([1, 5, 50])):
            os.pwrite(file, bytes([chance.randrange(256)]), chance.choice(filled))
        os.close(file)
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
        return {
            main(["dump", "--json", str(stale)]),
            main(["top", "--once", "--series", str(stale)]),
            main(["ls", "--dir", str(stale.parent)]),
        }

    for seed in range(30):
        assert processes.fork(look, seed).result() <= {0, 2}
        stale.write_bytes(content)


def test_usage(capsys: Capture) -> None:
    """Without a command, or with nonsense, it says how it is used."""
    for arguments in (
        [],
        ["nonsense"],
        ["dump"],
        ["top", "x", "--interval=0"],
        ["export", "x", "--interval=nan"],
        ["run", "--grace=-1", "true"],
    ):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
        assert "usage: otel-shm" in capsys.readouterr().err
    assert main(["rm"]) == 2
    assert "give the PATH" in capsys.readouterr().err
