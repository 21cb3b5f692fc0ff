# SPDX-License-Identifier: Apache-2.0
"""A WSGI service that counts its requests with the global provider that the environment asks for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from opentelemetry import metrics

meter = metrics.get_meter("web")
served = meter.create_counter("requests", "{request}")
in_flight = meter.create_up_down_counter("in_flight")


def app(
    environ: dict[str, Any], start_response: Callable[[str, list[tuple[str, str]]], object]
) -> Iterable[bytes]:
    """Counts the request before the answer leaves, so whoever has an answer finds it counted."""
    in_flight.add(1)
    served.add(1, {"route": "/"})
    in_flight.add(-1)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
