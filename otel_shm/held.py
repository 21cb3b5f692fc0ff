# SPDX-License-Identifier: Apache-2.0
"""Letting go of what the core has allocated, when nothing can use it any more.

The finalizers of what is garbage together run in any order, and those of `ffi.gc` are among them: a
`__del__` that measures, collects or shuts down would use what is gone already. So what is allocated is
held by an object that no garbage collection looks into: it goes after all finalizers have run, with the
last reference to it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from otel_shm._core import ffi

#: While there is a reference to it, what it holds stays.
Held = Any

_for_ever: list[Held] = []


def hold(close: Callable[..., object], *arguments: Any) -> Held:
    """Calls close(*arguments) when the last reference to what is returned goes.

    That may be in the middle of anything, in any thread. The arguments must not lead to who has the
    reference, or neither ever goes.
    """
    held = ffi.new("char *")  # no container, so no business of a garbage collection
    weakref.finalize(held, close, *arguments).atexit = False
    return held


def hold_for_ever(held: Held) -> None:
    """Has it never closed."""
    _for_ever.append(held)
