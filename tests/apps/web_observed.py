# SPDX-License-Identifier: Apache-2.0
"""The service of web.py with a callback in each worker, which so answers when another one collects."""

from __future__ import annotations

import os

from opentelemetry.metrics import CallbackOptions, Observation
from web import app, meter

__all__ = ["app"]


def itself(_options: CallbackOptions) -> list[Observation]:
    """The process that observes."""
    return [Observation(1, {"pid": os.getpid()})]


meter.create_observable_up_down_counter("workers", [itself])
