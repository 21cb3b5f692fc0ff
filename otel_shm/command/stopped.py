# SPDX-License-Identifier: Apache-2.0
"""Processes that are stopped (SIGSTOP, a debugger): they hold what they hold, and do nothing."""

from __future__ import annotations

from pathlib import Path


def is_stopped(pid: int) -> bool:
    """True for a process that is stopped, as far as can be seen from here (proc(5), `stat`)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[:1] in (["T"], ["t"])
