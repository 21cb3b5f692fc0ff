# SPDX-License-Identifier: Apache-2.0
"""What this process has in the sums that it observes, by file and series.

Callbacks say what their process counted since it began, whichever provider asks. So a process has one
share in a series: a provider that is made anew on the same file, or beside another one, goes on from what
is there and does not add it once more.
"""

from __future__ import annotations

import threading
import weakref

from otel_shm import forks
from otel_shm.buffer import Buffer
from otel_shm.series import Share

# By file, and the identity of a series in it. They stay for providers to come, of a file that those can
# open. In a forked child the core sees that they are its parent's.
_shares: dict[tuple[int, int, int], dict[int, Share]] = {}

#: Held while shares change: providers of one process collect at the same time.
lock = threading.RLock()


def share_in(buffer: Buffer, identity: int) -> Share:
    """What this process remembers of its share in a series."""
    file = buffer.file_identity
    if file not in _shares and buffer.path is None:
        weakref.finalize(buffer, _shares.pop, file, None).atexit = False
    return _shares.setdefault(file, {}).setdefault(identity, Share())


def _after_fork_in_child() -> None:
    global lock
    lock = threading.RLock()


forks.call_in_child(_after_fork_in_child)
