# SPDX-License-Identifier: Apache-2.0
"""The synchronous instruments: which backend they are from.

The backend is the C types of `otel_shm._fast`, or `otel_shm.cffi_instruments`, which does the same
through cffi where no such types can be built. `OTEL_SHM_BACKEND` (`fast` or `cffi`, read once, here)
asks for one; on CPython there is no silent fall-back.
"""

from __future__ import annotations

import os
import platform
from typing import TYPE_CHECKING

from opentelemetry import metrics as api
from opentelemetry.sdk import metrics as sdk

from otel_shm.errors import OtelShmError

if TYPE_CHECKING:
    from otel_shm import _fast as types

    backend: str
else:
    backend = os.environ.get("OTEL_SHM_BACKEND") or (
        "cffi" if platform.python_implementation() == "PyPy" else "fast"
    )
    if backend == "fast":
        from otel_shm import _fast as types
    elif backend == "cffi":
        from otel_shm import cffi_instruments as types
    else:
        raise OtelShmError(f"OTEL_SHM_BACKEND must be 'fast' or 'cffi', not {backend!r}")

Counter = types.Counter
UpDownCounter = types.UpDownCounter
Gauge = types.Gauge
Histogram = types.Histogram

# isinstance() against the API's and the SDK's classes holds (Views match by it) though the types do
# not derive from them: C types that can be called the shortest way have no Python base.
for _ours, _name in (
    (Counter, "Counter"),
    (UpDownCounter, "UpDownCounter"),
    (Gauge, "_Gauge"),
    (Histogram, "Histogram"),
):
    getattr(api, _name).register(_ours)
    getattr(sdk, _name).register(_ours)
