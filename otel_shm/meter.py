# SPDX-License-Identifier: Apache-2.0
"""The Meter: names and units are checked, and each distinct instrument is made once."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

from opentelemetry.metrics import CallbackT
from opentelemetry.metrics import Meter as ApiMeter
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from otel_shm import buffer as rules
from otel_shm.buffer import Buffer
from otel_shm.description import Description
from otel_shm.errors import BufferFullError
from otel_shm.instruments import Counter, Gauge, UpDownCounter
from otel_shm.metadata import InstrumentIdentity, instrument_key, scope_key
from otel_shm.observable import ObservableGauge

_logger = logging.getLogger(__name__)

# Specification, metrics API, "Instrument name syntax" and "Instrument unit".
_NAME = re.compile(r"[a-zA-Z][-_./a-zA-Z0-9]{0,254}")
_UNIT = re.compile(r"[\x00-\x7F]{0,63}")

_NAMES = {
    rules.COUNTER: "Counter",
    rules.UP_DOWN_COUNTER: "UpDownCounter",
    rules.GAUGE: "Gauge",
    rules.OBSERVABLE_GAUGE: "ObservableGauge",
}

_Instrument = TypeVar("_Instrument", Counter, UpDownCounter, Gauge, ObservableGauge)


def _identity(name: str, unit: str | None, description: str | None) -> InstrumentIdentity:
    """The checked identity of an instrument, its name in lower case as the SDK has it."""
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        raise Exception(  # the SDK's type and text
            f"Expected ASCII string of maximum length 255 characters but got {name}"
        )
    if unit is None:
        unit = ""
    if not isinstance(unit, str) or _UNIT.fullmatch(unit) is None:
        raise Exception(  # the SDK's type and text
            f"Expected ASCII string of maximum length 63 characters but got {unit}"
        )
    return InstrumentIdentity(name.lower(), unit, description or "")


class Meter(ApiMeter):
    """Makes the instruments of one scope. Got from `MeterProvider.get_meter`.

    An instrument is identified by kind, name (case-insensitive), unit and description: asked for
    again it is the same object, and in all processes the same record of the buffer.
    """

    def __init__(
        self,
        buffer: Buffer,
        scope: InstrumentationScope,
        register_observable: Callable[[ObservableGauge], None],
    ) -> None:
        super().__init__(scope.name, version=scope.version, schema_url=scope.schema_url)
        self._buffer = buffer
        self._scope = scope
        self._register_observable = register_observable
        self._instruments: dict[tuple[int, InstrumentIdentity], Any] = {}
        self._lock = threading.RLock()
        try:
            self.record = buffer.claim_scope(scope_key(scope))
        except BufferFullError as error:
            self.record = 0
            _logger.warning("Meter %s: its measurements are dropped: %s", scope.name, error)

    def _create(
        self,
        kind: int,
        fold: int,
        identity: InstrumentIdentity,
        make: Callable[[int, Description], _Instrument],
    ) -> _Instrument:
        """The instrument of an identity; make(record, described) builds it the first time."""
        with self._lock:
            known: _Instrument | None = self._instruments.get((kind, identity))
            if known is not None:
                return known
            record = 0
            if self.record:
                try:
                    record = self._buffer.claim_instrument(
                        self.record, kind, fold, instrument_key(identity)
                    )
                except BufferFullError as error:
                    _logger.warning(
                        "Instrument %s: its measurements are dropped: %s", identity.name, error
                    )
            instrument = make(record, Description(_NAMES[kind], identity, self._scope))
            self._instruments[kind, identity] = instrument
            return instrument

    def after_fork(self) -> None:
        """In a forked child: another thread may have held the lock in the parent."""
        self._lock = threading.RLock()

    def create_counter(self, name: str, unit: str = "", description: str = "") -> Counter:
        """Makes a Counter: non-negative amounts, summed over all processes, dead ones included.

        Raises:
            Exception: the name or the unit is not legal.
        """
        identity = _identity(name, unit, description)
        return self._create(
            rules.COUNTER,
            rules.SUM,
            identity,
            lambda record, described: Counter(
                self._buffer, self._buffer.address, record, described
            ),
        )

    def create_up_down_counter(
        self, name: str, unit: str = "", description: str = ""
    ) -> UpDownCounter:
        """Makes an UpDownCounter: amounts of either sign, summed over the live processes.

        Raises:
            Exception: the name or the unit is not legal.
        """
        identity = _identity(name, unit, description)
        return self._create(
            rules.UP_DOWN_COUNTER,
            rules.LIVE_SUM,
            identity,
            lambda record, described: UpDownCounter(
                self._buffer, self._buffer.address, record, described
            ),
        )

    def create_gauge(self, name: str, unit: str = "", description: str = "") -> Gauge:
        """Makes a Gauge: the last amount that any process set.

        Raises:
            Exception: the name or the unit is not legal.
        """
        identity = _identity(name, unit, description)
        return self._create(
            rules.GAUGE,
            rules.LAST,
            identity,
            lambda record, described: Gauge(self._buffer, self._buffer.address, record, described),
        )

    def create_observable_gauge(
        self,
        name: str,
        callbacks: Sequence[CallbackT] | None = None,
        unit: str = "",
        description: str = "",
    ) -> ObservableGauge:
        """Makes an ObservableGauge: what the callbacks of one live process observe.

        Raises:
            Exception: the name or the unit is not legal.
        """
        identity = _identity(name, unit, description)

        def make(record: int, described: Description) -> ObservableGauge:
            instrument = ObservableGauge(self._buffer, record, described, callbacks)
            self._register_observable(instrument)
            return instrument

        return self._create(rules.OBSERVABLE_GAUGE, rules.ONE, identity, make)

    def create_histogram(
        self,
        name: str,
        unit: str = "",
        description: str = "",
        *,
        explicit_bucket_boundaries_advisory: Sequence[float] | None = None,
    ) -> NoReturn:
        """Not there yet: raises NotImplementedError."""
        _not_yet("Histogram", name)

    def create_observable_counter(
        self,
        name: str,
        callbacks: Sequence[CallbackT] | None = None,
        unit: str = "",
        description: str = "",
    ) -> NoReturn:
        """Not there yet: raises NotImplementedError."""
        _not_yet("ObservableCounter", name)

    def create_observable_up_down_counter(
        self,
        name: str,
        callbacks: Sequence[CallbackT] | None = None,
        unit: str = "",
        description: str = "",
    ) -> NoReturn:
        """Not there yet: raises NotImplementedError."""
        _not_yet("ObservableUpDownCounter", name)


def _not_yet(kind: str, name: str) -> NoReturn:
    raise NotImplementedError(
        f"{kind} {name!r}: this version of otel_shm has Counter, UpDownCounter, Gauge and "
        f"ObservableGauge; {kind} is not there yet. Use another MeterProvider for it."
    )
