# SPDX-License-Identifier: Apache-2.0
"""`otel-shm rm`: removes what nobody uses, and nothing else."""

from __future__ import annotations

from pathlib import Path

from inspected import Capture, service, stale
from processes import Process, processes

from otel_shm.command import main

__all__ = ["processes", "service", "stale"]  # fixtures: found by their names in this module


def test_rm(service: tuple[Path, Process], stale: Path, capsys: Capture) -> None:
    """What is in use stays, with another status than what is no buffer; force takes it too."""
    live, _ = service
    other = live.parent / "other"
    other.write_text("no buffer")
    assert main(["rm", str(live)]) == 1
    assert capsys.readouterr().err == f"otel-shm rm: buffer '{live}' is in use\n"
    assert main(["rm", str(live), str(other), str(live.parent / "none"), str(stale)]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"otel-shm rm: buffer '{live}' is in use",
        f"otel-shm rm: '{other}' is not an otel_shm buffer",
        f"otel-shm rm: buffer '{live.parent / 'none'}': No such file or directory",
    ]
    assert sorted(live.parent.iterdir()) == [live, other]
    assert main(["rm", "--force", str(live)]) == 0
    assert not live.exists()
    assert capsys.readouterr().err == ""


def test_rm_stale(service: tuple[Path, Process], stale: Path, capsys: Capture) -> None:
    """All that nobody has in use, those of other versions too; an empty private directory goes."""
    live, _ = service
    old = stale.parent / "otel_shm-0" / "old"
    old.parent.mkdir()
    old.write_bytes(b"OTEL_SHM" + (1).to_bytes(8, "little") + bytes(1000))
    assert main(["rm", "--stale", "--dir", str(stale.parent)]) == 0
    assert capsys.readouterr().out.splitlines() == [str(old), str(stale)]
    assert sorted(stale.parent.iterdir()) == [live]
