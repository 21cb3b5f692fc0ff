# SPDX-License-Identifier: Apache-2.0
"""The instruments' second backend: the types of `otel_shm._fast` through cffi, for PyPy and for tests.

Rules about bytes and slots are the core's; here are only arguments and the process-local table.
"""

from __future__ import annotations

import math
from typing import Any

from otel_shm.amount import to_number
from otel_shm.attributes import encode_attributes
from otel_shm.buffer import Buffer
from otel_shm.description import MODE_ASK, MODE_DISABLED, MODE_PLAIN, Description
from otel_shm.sampled import is_sampled
from otel_shm.series import Series, Stream

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
    """What all instruments share: streams, and a table of attributes."""

    __slots__ = (
        "__weakref__",
        "_described",
        "_mode",
        "_owner",
        "_swept",
        "_targets",
        "_uses",
        "description",
        "instrumentation_scope",
        "name",
        "unit",
    )
    _monotonic = False

    def __init__(
        self,
        owner: Buffer,
        _address: int,
        described: Description,
        streams: tuple[tuple[int, Any], ...],
        /,
    ) -> None:
        self._owner = owner
        self._described = described
        self._mode = MODE_PLAIN
        self._swept = 0
        self.name = described.name
        self.unit = described.unit
        self.description = described.description
        self.instrumentation_scope = described.instrumentation_scope
        self._measure_in(streams)

    def _measure_in(self, streams: tuple[tuple[int, Any], ...]) -> None:
        """The streams that are measured in from now on."""
        self._uses = [(Stream(self._owner, record), keep) for record, keep in streams]
        self._targets: dict[frozenset[Any], list[Series]] = {}

    def enabled(self) -> bool:
        """False if what is measured goes nowhere: a disabled meter, or views that drop it."""
        return self._mode != MODE_DISABLED and bool(self._uses)

    def _clean(self, attributes: Any) -> dict[str, Any]:
        simple = {} if attributes is None else attributes
        if type(simple) is dict and _set_key(simple) is not None:
            return dict(simple)
        return self._described.clean_attributes(simple)

    def _claim(self, clean: dict[str, Any], *, measured: bool) -> list[Series]:
        """Where the series of clean attributes adds, in each stream."""
        found, refused = [], 0
        for stream, keep in self._uses:
            encoded = encode_attributes(
                keep(clean) if keep else clean, self._described.attribute_dropped
            )
            series, status = stream.claim(encoded, measured=measured)
            found.append(series)
            refused = status or refused
        if refused != 0:
            self._described.overflowed(refused)
        return found

    def _resolve(self, attributes: Any) -> list[Series]:
        """Where the attributes are measured."""
        simple = {} if attributes is None else attributes
        key = _set_key(simple) if type(simple) is dict else None
        known = None if key is None else self._targets.get(key)
        if known is not None:
            return known
        self._sweep()
        found = self._claim(self._clean(attributes), measured=True)
        if key is not None:
            if len(self._targets) >= _TABLE_ENTRIES:
                self._targets.clear()
            self._targets[key] = found
        return found

    def _sweep(self) -> None:
        """Lets go of the series that are to retire."""
        number = self._owner.sweep_number
        if number != self._swept:
            self._swept = number
            for key, found in list(self._targets.items()):
                if any(series.retires for series in found):
                    self._targets.pop(key, None)

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

    def _measure(self, amount: Any, attributes: Any, context: Any) -> None:
        if self._mode == MODE_DISABLED:
            return
        accepted = self._accept(amount)
        if accepted is None or not self._uses:
            return
        found = self._resolve(attributes)
        self._put(found, accepted)
        if self._mode and self._is_eligible(context):
            self._offer(found, amount, self._clean(attributes), context)

    def _put(self, found: list[Series], amount: int | float) -> None:
        for series in found:
            status = series.measure(amount)
            if status != 0:
                self._described.overflowed(status)

    def _is_eligible(self, context: Any) -> bool:
        """Whether a measurement may become an exemplar."""
        return self._mode == MODE_ASK or is_sampled(context)

    def _offer(
        self, found: list[Series], amount: Any, attributes: dict[str, Any], context: Any
    ) -> None:
        self._described.sampled(
            amount, attributes or None, context, tuple(series.identity for series in found)
        )

    def __repr__(self) -> str:
        return f"<otel_shm.{type(self).__name__} {self.name!r}>"


class Counter(Instrument):
    """Adds non-negative amounts."""

    __slots__ = ()
    _monotonic = True

    def add(self, amount: Any, attributes: Any = None, context: Any = None) -> None:
        """Adds amount to the series of the attributes."""
        self._measure(amount, attributes, context)

    def bind(self, attributes: Any = None) -> BoundCounter:
        """Resolves the attributes now. Returns an object that measures without them."""
        return BoundCounter(self, attributes)


class UpDownCounter(Instrument):
    """Adds amounts of either sign."""

    __slots__ = ()

    def add(self, amount: Any, attributes: Any = None, context: Any = None) -> None:
        """Adds amount to the series of the attributes."""
        self._measure(amount, attributes, context)

    def bind(self, attributes: Any = None) -> BoundUpDownCounter:
        """Resolves the attributes now. Returns an object that measures without them."""
        return BoundUpDownCounter(self, attributes)


class Gauge(Instrument):
    """Sets amounts."""

    __slots__ = ()

    def set(self, amount: Any, attributes: Any = None, context: Any = None) -> None:
        """Sets the series of the attributes to amount."""
        self._measure(amount, attributes, context)

    def bind(self, attributes: Any = None) -> BoundGauge:
        """Resolves the attributes now. Returns an object that measures without them."""
        return BoundGauge(self, attributes)


class Histogram(Instrument):
    """Records non-negative amounts."""

    __slots__ = ()
    _monotonic = True

    def record(self, amount: Any, attributes: Any = None, context: Any = None) -> None:
        """Records amount in the series of the attributes."""
        self._measure(amount, attributes, context)

    def bind(self, attributes: Any = None) -> BoundHistogram:
        """Resolves the attributes now. Returns an object that measures without them."""
        return BoundHistogram(self, attributes)


class _Bound:
    """An instrument with its attributes resolved."""

    __slots__ = ("_attributes", "_found", "_started", "instrument")

    def __init__(self, instrument: Instrument, attributes: Any) -> None:
        self.instrument = instrument
        self._attributes = instrument._clean(attributes)
        self._found = instrument._claim(self._attributes, measured=False)
        self._started = False

    def _measure(self, amount: Any, context: Any) -> None:
        instrument = self.instrument
        if instrument._mode == MODE_DISABLED:
            return
        accepted = instrument._accept(amount)
        if accepted is None:
            return
        if not self._started:
            for series in self._found:
                series.start()
            self._started = True
        instrument._put(self._found, accepted)
        if instrument._mode and instrument._is_eligible(context):
            instrument._offer(self._found, amount, self._attributes, context)

    @property
    def _series(self) -> int:
        return self._found[0].record if self._found else 0


class BoundCounter(_Bound):
    """A Counter with its attributes resolved."""

    __slots__ = ()

    def add(self, amount: Any, context: Any = None) -> None:
        """Adds amount to the bound series."""
        self._measure(amount, context)


class BoundUpDownCounter(_Bound):
    """An UpDownCounter with its attributes resolved."""

    __slots__ = ()

    def add(self, amount: Any, context: Any = None) -> None:
        """Adds amount to the bound series."""
        self._measure(amount, context)


class BoundGauge(_Bound):
    """A Gauge with its attributes resolved."""

    __slots__ = ()

    def set(self, amount: Any, context: Any = None) -> None:
        """Sets the bound series to amount."""
        self._measure(amount, context)


class BoundHistogram(_Bound):
    """A Histogram with its attributes resolved."""

    __slots__ = ()

    def record(self, amount: Any, context: Any = None) -> None:
        """Records amount in the bound series."""
        self._measure(amount, context)
