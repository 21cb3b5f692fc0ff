# SPDX-License-Identifier: Apache-2.0
"""An ASGI service that counts its requests, with the global provider that the environment asks for.

With GOODBYE=lifespan it shuts the provider down itself. The file LEDGER gets a byte for each request.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any

from opentelemetry import metrics

meter = metrics.get_meter("web")
served = meter.create_counter("requests", "{request}")
in_flight = meter.create_up_down_counter("in_flight")

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Counts the request before the answer leaves, so whoever has an answer finds it counted."""
    if scope["type"] == "lifespan":
        await live(receive, send)
        return
    in_flight.add(1)
    served.add(1, {"route": "/"})
    in_flight.add(-1)
    with open(os.environ.get("LEDGER", os.devnull), "ab") as ledger:
        ledger.write(b".")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(os.getpid()).encode()})


async def live(receive: Receive, send: Send) -> None:
    """What a framework's lifespan hooks do: after the last request the server waits for this."""
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    if os.environ.get("GOODBYE") == "lifespan":
        metrics.get_meter_provider().shutdown()  # type: ignore[attr-defined]
    await send({"type": "lifespan.shutdown.complete"})
