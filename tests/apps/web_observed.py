# SPDX-License-Identifier: Apache-2.0
"""The service of web.py with a callback in each worker, which so answers when another one collects."""

from __future__ import annotations

from opentelemetry.metrics import Observation
from web import app, meter

__all__ = ["app"]

meter.create_observable_up_down_counter("workers", [lambda _options: [Observation(1)]])
