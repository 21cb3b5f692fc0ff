# SPDX-License-Identifier: Apache-2.0
"""Being told of forks, in the child: by the interpreter, or by who forks behind its back."""

from __future__ import annotations

import os
from collections.abc import Callable

from otel_shm import uwsgi

_always: list[Callable[[], None]] = []
_if_untold: list[Callable[[], None]] = []
_process = os.getpid()


def call_in_child(function: Callable[[], None]) -> None:
    """Has a function called in each forked child, after those that were named before."""
    _always.append(function)


def call_if_untold(function: Callable[[], None]) -> None:
    """Has a function called, as the last ones, where the interpreter called no at-fork hooks."""
    _if_untold.append(function)


def notice() -> None:
    """Makes up for hooks that were not called, if this process is a forked child."""
    if os.getpid() != _process:
        _in_child()
        for function in _if_untold:
            function()


def _in_child() -> None:
    global _process
    _process = os.getpid()
    for function in _always:
        function()


os.register_at_fork(after_in_child=_in_child)
uwsgi.call_after_forks(notice)
