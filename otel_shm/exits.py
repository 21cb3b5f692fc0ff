# SPDX-License-Identifier: Apache-2.0
"""The end of a process, where a provider exports for the last time.

Children that `multiprocessing` forks, by its methods fork and forkserver, leave by os._exit: those of its
pools too, and of servers built on it. No exit handler is run there, only finalizers of multiprocessing's
own, and those that a child inherits are forgotten when it starts.
"""

from __future__ import annotations

import atexit
import sys
from collections.abc import Callable
from typing import Any

# After those of multiprocessing itself, the highest number first: what is in the child's queues is
# with its parent by then (-5), and nobody waits for an export to get it.
_PRIORITY = -50


class ExitHandler:
    """Has a function called at the end of this process, and of each process forked from it.

    Args:
        function: called once at most if it cancels this.
    """

    def __init__(self, function: Callable[[], object]) -> None:
        self._function: Callable[[], object] | None = function
        self._finalizer: Any = None
        self._follows_forks = False
        atexit.register(function)
        self.after_fork()
        package = sys.modules.get("multiprocessing")
        if package is not None and package.parent_process() is not None:
            self._add_finalizer()

    def after_fork(self) -> None:
        """In a forked child, which may belong to multiprocessing: it forgets its finalizers later."""
        util = sys.modules.get("multiprocessing.util")  # who never imported it has no such children
        if util is not None and not self._follows_forks:
            self._follows_forks = True
            util.register_after_fork(self, ExitHandler._add_finalizer)

    def _add_finalizer(self) -> None:
        """In a process of multiprocessing, when it has forgotten those of its parent."""
        method = sys.modules["multiprocessing"].get_start_method(allow_none=True)  # of this process
        if self._function is not None and method != "spawn":  # those run exit handlers
            util = sys.modules["multiprocessing.util"]
            self._finalizer = util.Finalize(None, self._function, exitpriority=_PRIORITY)

    def cancel(self) -> None:
        """There is nothing to call any more."""
        if self._function is not None:
            atexit.unregister(self._function)
        if self._finalizer is not None:
            self._finalizer.cancel()
        self._function = self._finalizer = None
