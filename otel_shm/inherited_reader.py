# SPDX-License-Identifier: Apache-2.0
"""Making a reader that was copied by fork usable: for a child that takes over collecting.

The copy shares connections with the parent's, and its locks are as some parent thread left them. The
attributes below are private to the SDK and its OTLP exporters; tests fail if a supported version
renames one. Other readers and exporters are left as they are.
"""

from __future__ import annotations

import copy
import threading
from typing import Any

from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader


def renew(reader: MetricReader) -> None:
    """Gives a periodic reader its own locks and its exporter its own connections."""
    if not isinstance(reader, PeriodicExportingMetricReader):
        return
    reader._export_lock = threading.Lock()
    exporter: Any = reader._exporter
    if _is_from(exporter, "opentelemetry.exporter.otlp.proto.grpc"):
        if hasattr(exporter, "_export_lock"):  # of the exporter, in older versions
            exporter._export_lock = threading.Lock()
        # The old channel is dropped, not closed: closing waits for the parent's threads. Exporters
        # before 1.40 cannot connect again and keep it.
        if hasattr(exporter, "_initialize_channel_and_stub"):
            exporter._initialize_channel_and_stub()
    elif _is_from(exporter, "opentelemetry.exporter.otlp.proto.http"):
        # Until 1.44 the session is the exporter's own.
        transport = exporter._client._transport if hasattr(exporter, "_client") else exporter
        adapters = transport._session.adapters
        for prefix, adapter in list(adapters.items()):
            adapters[prefix] = copy.copy(adapter)  # a new connection pool with the same settings


def restart(reader: MetricReader) -> None:
    """Starts a periodic reader's thread in a child where its own at-fork hook was not called."""
    if isinstance(reader, PeriodicExportingMetricReader) and reader._daemon_thread is not None:
        reader._at_fork_reinit()  # type: ignore[no-untyped-call]


def _is_from(exporter: object, package: str) -> bool:
    return any(kind.__module__.startswith(package) for kind in type(exporter).__mro__)
