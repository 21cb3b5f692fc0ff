# SPDX-License-Identifier: Apache-2.0
"""The synchronous instruments: names and warnings around a backend's `add` and `set`.

The backend is the C types of `otel_shm._fast`, or `otel_shm.cffi_instruments`, which does the same
through cffi where no such types can be built. `OTEL_SHM_BACKEND` (`fast` or `cffi`, read once, here)
asks for one; on CPython there is no silent fall-back.
"""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from opentelemetry import metrics as api
from opentelemetry.sdk import metrics as sdk
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from otel_shm.attributes import clean_attributes
from otel_shm.buffer import Buffer, reason
from otel_shm.errors import OtelShmError
from otel_shm.metadata import InstrumentIdentity

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

_logger = logging.getLogger(__name__)
# The SDK's own logger and texts: what people filter and search for today.
_sdk_logger = logging.getLogger("opentelemetry.sdk.metrics._internal.instrument")


class _Described:
    """What an instrument is, and what it does with what it cannot measure."""

    __slots__ = ()
    _verb = "Add"

    name: str
    unit: str
    description: str
    instrumentation_scope: InstrumentationScope
    _complained: set[str]

    def __init__(
        self,
        buffer: Buffer,
        record: int,
        identity: InstrumentIdentity,
        scope: InstrumentationScope,
    ) -> None:
        super().__init__(buffer, buffer.address, record)  # type: ignore[call-arg]  # the backend's
        self.name, self.unit, self.description = identity
        self.instrumentation_scope = scope
        self._complained = set()

    def _amount_not_finite(self, amount: object) -> None:
        _sdk_logger.warning(
            "%s amount %s is not finite on %s %s, ignoring measurement.",
            self._verb,
            amount,
            type(self).__name__,
            self.name,
        )

    def _amount_negative(self, _amount: object) -> None:
        _sdk_logger.warning(
            "%s amount must be non-negative on %s %s.", self._verb, type(self).__name__, self.name
        )

    def _attributes_cleaned(self, attributes: object) -> dict[str, Any]:
        if not isinstance(attributes, Mapping):
            logging.getLogger("opentelemetry.sdk.metrics._internal.measurement").warning(
                "Invalid type '%s' for attributes. Expected a Mapping or None.", type(attributes)
            )
            return {}
        return clean_attributes(attributes)

    def _attribute_dropped(self, key: str, error: object) -> None:
        self._complain(
            f"attribute {key!r}",
            "%s %s: attribute %r cannot be sent over OTLP and is left out: %s",
            type(self).__name__,
            self.name,
            key,
            error,
        )

    def _overflowed(self, status: int) -> None:
        self._complain(
            f"overflow {status}",
            "%s %s: no place for a new set of attributes: %s. Its measurements are added to the "
            "series otel.metric.overflow=true, or counted as dropped where there is not even that.",
            type(self).__name__,
            self.name,
            reason(status),
        )

    def _complain(self, about: str, message: str, *arguments: object) -> None:
        """Logs once a process and instrument; a flood of attributes is no flood of log lines."""
        if about in self._complained or len(self._complained) > 100:
            return
        self._complained.add(about)
        _logger.warning(message, *arguments)

    def __repr__(self) -> str:
        return f"<otel_shm {type(self).__name__} {self.name!r}>"


_FIELDS = ("name", "unit", "description", "instrumentation_scope", "_complained")


class Counter(_Described, types.Counter):
    """Adds non-negative amounts; the sum over all processes is exported."""

    __slots__ = _FIELDS


class UpDownCounter(_Described, types.UpDownCounter):
    """Adds amounts of either sign; the sum over all live processes is exported."""

    __slots__ = _FIELDS


class Gauge(_Described, types.Gauge):
    """Sets amounts; the last one set by any process is exported."""

    __slots__ = _FIELDS
    _verb = "Set"


# isinstance() against the API's and the SDK's classes holds (Views match by it), without their
# instance dicts, which would make the C types slower.
for _ours, _names in ((Counter, "Counter"), (UpDownCounter, "UpDownCounter"), (Gauge, "_Gauge")):
    getattr(api, _names).register(_ours)
    getattr(sdk, _names).register(_ours)
