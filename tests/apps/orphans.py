# SPDX-License-Identifier: Apache-2.0
"""Leaves two orphans that end at once, and prints how many processes there are when they are buried.

For a pid namespace of its own.
"""

from __future__ import annotations

import os
from pathlib import Path
from time import sleep


def states() -> list[str]:
    """Of all processes, but those that go just now."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            found.append((directory / "stat").read_text().rpartition(")")[2].split()[0])
        except OSError:
            continue
    return found


if os.fork() == 0:
    os.fork()
    os.fork()
    os._exit(0)
os.wait()
while len(states()) > 2:
    sleep(0.005)
print(states().count("Z"))
