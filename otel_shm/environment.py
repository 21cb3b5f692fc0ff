# SPDX-License-Identifier: Apache-2.0
"""Which buffer, and how large, where the environment says so.

OTEL_SHM_PATH           the buffer's file; unset: an anonymous buffer
OTEL_SHM_SERIES         sizes of a new buffer, see otel_shm.Buffer
OTEL_SHM_LANES
OTEL_SHM_RECORD_BYTES
OTEL_SHM_RESTART        resume or reset, see otel_shm.Buffer
OTEL_SHM_FOLDS          fold rules by name (read in otel_shm.folds)
OTEL_SHM_BACKEND        fast or cffi (read in otel_shm.instruments)
"""

from __future__ import annotations

import os
from typing import Any

from otel_shm.errors import BufferSizeError
from otel_shm.sizes import RANGES, variable_of

OTEL_SHM_PATH = "OTEL_SHM_PATH"
OTEL_SHM_RESTART = "OTEL_SHM_RESTART"


def buffer_options(
    path: str | os.PathLike[str] | None,
    series: int | None = None,
    lanes: int | None = None,
    record_bytes: int | None = None,
    restart: str | None = None,
) -> tuple[str | os.PathLike[str] | None, dict[str, Any]]:
    """Path and options of the buffer: what is given, else what the environment says.

    Raises:
        BufferSizeError: an environment variable is not a whole number.
    """
    given = {"series": series, "lanes": lanes, "record_bytes": record_bytes}
    sizes: dict[str, Any] = {name: size for name, size in given.items() if size is not None}
    for name in RANGES:
        variable = variable_of(name)
        text = os.environ.get(variable, "").strip()
        if name in sizes or not text:
            continue
        try:
            sizes[name] = int(text)
        except ValueError:
            raise BufferSizeError(f"{variable} must be a whole number, not {text!r}") from None
    policy = restart or os.environ.get(OTEL_SHM_RESTART, "").strip().lower()
    if policy:
        sizes["restart"] = policy
    if path is None:
        path = os.environ.get(OTEL_SHM_PATH) or None
    return path, sizes
