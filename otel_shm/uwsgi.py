# SPDX-License-Identifier: Apache-2.0
"""What is different under uWSGI: it forks behind the interpreter's back, and only workers say goodbye.

Unless it is told to (--py-call-uwsgi-fork-hooks) its master calls none of the interpreter's at-fork
hooks. Exit handlers are run in workers alone: the master, mules and spoolers end without a last export,
so they must not be who collects.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

# Built into the server's binary: it is there from the start, or never.
_server: Any = sys.modules.get("uwsgi")


def may_collect() -> bool:
    """False in a process of uWSGI that is no worker."""
    return _server is None or bool(_server.worker_id() != 0)


def call_after_forks(function: Callable[[], None]) -> None:
    """Has a function called in all that uWSGI forks, when the interpreter's hooks were called or not."""
    if _server is None:
        return
    try:
        from uwsgidecorators import postfork  # who all that want to be called share
    except Exception:  # it is not installed, or there is no master and so no fork
        _call_too(function)
    else:
        postfork(function)


def _call_too(function: Callable[[], None]) -> None:
    others = getattr(_server, "post_fork_hook", None)

    def hook() -> None:
        if others is not None:
            others()
        function()

    _server.post_fork_hook = hook
