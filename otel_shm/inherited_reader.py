# SPDX-License-Identifier: Apache-2.0
"""Making a reader that was copied by fork usable: for a child that takes over collecting.

The copy shares connections with the parent's, and its locks are as some parent thread left them. The
attributes below are private to the SDK and its exporters, so each is looked for and left alone if it
is not there; tests fail if a supported version renames one.
"""

from __future__ import annotations

import copy
import threading
from typing import Any

from opentelemetry.sdk.metrics.export import MetricReader


def renew(reader: MetricReader) -> None:
    """Gives a periodic reader its own locks and its exporter its own connections."""
    if hasattr(reader, "_export_lock"):
        reader._export_lock = threading.Lock()
    exporter = getattr(reader, "_exporter", None)
    if exporter is None:
        return
    _renew_grpc(exporter)
    _renew_http(exporter)


def _renew_grpc(exporter: Any) -> None:
    connect = getattr(exporter, "_initialize_channel_and_stub", None)
    if connect is not None:
        connect()  # the old channel is dropped, not closed: closing waits for the parent's threads


def _renew_http(exporter: Any) -> None:
    client = getattr(
        exporter, "_client", None
    )  # since 1.45; before, the session was the exporter's
    session = getattr(getattr(client, "_transport", exporter), "_session", None)
    adapters: Any = getattr(session, "adapters", {})
    for prefix, adapter in list(adapters.items()):
        # Copying makes a new connection pool with the same settings.
        adapters[prefix] = copy.copy(adapter)
