# SPDX-License-Identifier: Apache-2.0
"""The last export, which may take its time; a signal ends it."""

from __future__ import annotations

import threading

from otel_shm.command.child import is_told_to_end
from otel_shm.command.texts import say
from otel_shm.outside import OutsideExporter

_POLL_SECONDS = 0.02


def export_a_last_time(exporter: OutsideExporter, command: str) -> None:
    """Closes an exporter, but no longer than until it is told to end.

    Args:
        exporter: whose readers export.
        command: that says so.
    """
    thread = threading.Thread(target=exporter.close, name="otel-shm: last export", daemon=True)
    thread.start()
    while thread.is_alive():
        if is_told_to_end(_POLL_SECONDS):
            say(command, "told to end before the last export was made")
            return
