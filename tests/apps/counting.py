# SPDX-License-Identifier: Apache-2.0
"""Counts one hit with the global provider that the environment asks for, and waits to be told to end."""

from __future__ import annotations

import sys

from opentelemetry import metrics

metrics.get_meter("app", "1.0").create_counter("hits", "1").add(1, {"route": "/"})
print(type(metrics.get_meter_provider()).__module__, flush=True)
sys.stdin.read()
