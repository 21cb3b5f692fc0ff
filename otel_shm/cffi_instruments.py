# SPDX-License-Identifier: Apache-2.0
"""The instruments' second backend: the types of `otel_shm._fast` through cffi, for PyPy and for tests.

Rules about bytes and slots are the core's; here are only arguments and the process-local table.
"""

from __future__ import annotations

import math
from typing import Any

from otel_shm.amount import to_number
from otel_shm.attributes import encode_attributes
from otel_shm.buffer import Buffer, Series
from otel_shm.description import Description

_TABLE_ENTRIES = 8192  # as in csrc/attribute_table.h: a full table is emptied
_SIMPLE = frozenset({str, int, bool, float, type(None)})


def _set_key(attributes: dict[str, Any]) -> frozenset[Any] | None:
    """A key that tells attribute sets apart as the buffer does, or None: look there each time."""
    parts = []
    for key, value in attributes.items():
        if type(key) is not str or not key or type(value) not in _SIMPLE:
            return None
        parts.append((key, type(value), value if value == value else "NaN"))
    return frozenset(parts)


class Instrument:
    """What all instruments share: a place in the buffer and a table of attributes."""

    __slots__ = (
        "__weakref__",
        "_described",
        "_owner",
        "_record",
        "_targets",
        "description",
        "instrumentation_scope",
        "name",
        "unit",
    )
    _monotonic = False

    def __init__(
        self, owner: Buffer, _address: int, record: int, described: Description, /
    ) -> None:
        self._owner = owner
        self._record = record
        self._described = described
        self.name = described.name
        self.unit = described.unit
        self.description = described.description
        self.instrumentation_scope = described.instrumentation_scope
        self._targets: dict[frozenset[Any], Series] = {}

    def _resolve(self, attributes: Any, *, measured: bool) -> Series:
        """Where the series of the attributes adds."""
        simple = {} if attributes is None else attributes
        key = _set_key(simple) if type(simple) is dict else None
        if measured and key is not None:
            known = self._targets.get(key)
            if known is not None:
                return known
        clean = self._described.clean_attributes(simple) if key is None else dict(simple)
        encoded = encode_attributes(clean, self._described.attribute_dropped)
        series, status = self._owner.claim_series(self._record, encoded, measured=measured)
        if measured and key is not None:
            if len(self._targets) >= _TABLE_ENTRIES:
                self._targets.clear()
            self._targets[key] = series
        if status != 0:
            self._described.overflowed(status)
        return series

    def _accept(self, amount: Any) -> Any:
        """The amount as int or float, or None: it is ignored. Raises as the SDK does."""
        if type(amount) is int and abs(amount) < 2**63:
            pass
        elif not math.isfinite(amount):
            self._described.amount_not_finite(amount)
            return None
        else:
            amount = to_number(amount)
        if self._monotonic and amount < 0:
            self._described.amount_negative(amount)
            return None
        return amount

    def __repr__(self) -> str:
        return f"<otel_shm.{type(self).__name__} {self.name!r}>"


class _Adding(Instrument):
    __slots__ = ()

    def add(self, amount: Any, attributes: Any = None, context: Any = None) -> None:
        """Adds amount to the series of the attributes."""
        accepted = self._accept(amount)
        if accepted is not None:
            self._resolve(attributes, measured=True).add(accepted)


class Counter(_Adding):
    """Adds non-negative amounts."""

    __slots__ = ()
    _monotonic = True

    def bind(self, attributes: Any = None) -> BoundCounter:
        """Resolves the attributes now. Returns an object that measures without them."""
        return BoundCounter(self, attributes)


class UpDownCounter(_Adding):
    """Adds amounts of either sign."""

    __slots__ = ()

    def bind(self, attributes: Any = None) -> BoundUpDownCounter:
        """Resolves the attributes now. Returns an object that measures without them."""
        return BoundUpDownCounter(self, attributes)


class Gauge(Instrument):
    """Sets amounts."""

    __slots__ = ()

    def set(self, amount: Any, attributes: Any = None, context: Any = None) -> None:
        """Sets the series of the attributes to amount."""
        accepted = self._accept(amount)
        if accepted is not None:
            self._resolve(attributes, measured=True).set(accepted)

    def bind(self, attributes: Any = None) -> BoundGauge:
        """Resolves the attributes now. Returns an object that measures without them."""
        return BoundGauge(self, attributes)


class _Bound:
    """An instrument with its attributes resolved."""

    __slots__ = ("_started", "_target", "instrument")

    def __init__(self, instrument: Instrument, attributes: Any) -> None:
        self.instrument = instrument
        self._target = instrument._resolve(attributes, measured=False)
        self._started = False

    def _start(self) -> Series:
        if not self._started:
            self._target.start()
            self._started = True
        return self._target

    @property
    def _series(self) -> int:
        return self._target.record


class _BoundAdding(_Bound):
    __slots__ = ()

    def add(self, amount: Any, context: Any = None) -> None:
        """Adds amount to the bound series."""
        accepted = self.instrument._accept(amount)
        if accepted is not None:
            self._start().add(accepted)


class BoundCounter(_BoundAdding):
    """A Counter with its attributes resolved."""

    __slots__ = ()


class BoundUpDownCounter(_BoundAdding):
    """An UpDownCounter with its attributes resolved."""

    __slots__ = ()


class BoundGauge(_Bound):
    """A Gauge with its attributes resolved."""

    __slots__ = ()

    def set(self, amount: Any, context: Any = None) -> None:
        """Sets the bound series to amount."""
        accepted = self.instrument._accept(amount)
        if accepted is not None:
            self._start().set(accepted)
