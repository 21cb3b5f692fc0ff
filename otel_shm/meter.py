# SPDX-License-Identifier: Apache-2.0
"""The Meter: names and units are checked, and each distinct instrument is made once."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from opentelemetry.metrics import CallbackT
from opentelemetry.metrics import Meter as ApiMeter
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from otel_shm import buffer as rules
from otel_shm import folds
from otel_shm.description import MODE_DISABLED, Description
from otel_shm.errors import BufferFullError
from otel_shm.instruments import Counter, Gauge, Histogram, UpDownCounter
from otel_shm.metadata import InstrumentIdentity, scope_key
from otel_shm.observable import (
    Observable,
    ObservableCounter,
    ObservableGauge,
    ObservableUpDownCounter,
)
from otel_shm.registration import Registration
from otel_shm.streams import check_boundaries

_logger = logging.getLogger(__name__)
# The API's and the SDK's own loggers and texts: what people filter and search for today.
_api_logger = logging.getLogger("opentelemetry.metrics._internal")
_sdk_logger = logging.getLogger("opentelemetry.sdk.metrics._internal")

# Specification, metrics API, "Instrument name syntax" and "Instrument unit".
_NAME = re.compile(r"[a-zA-Z][-_./a-zA-Z0-9]{0,254}")
_UNIT = re.compile(r"[\x00-\x7F]{0,63}")

_NAMES = {
    rules.COUNTER: "Counter",
    rules.UP_DOWN_COUNTER: "UpDownCounter",
    rules.HISTOGRAM: "Histogram",
    rules.GAUGE: "Gauge",
    rules.OBSERVABLE_COUNTER: "ObservableCounter",
    rules.OBSERVABLE_UP_DOWN_COUNTER: "ObservableUpDownCounter",
    rules.OBSERVABLE_GAUGE: "ObservableGauge",
}

_Instrument = TypeVar("_Instrument")
_Observable = TypeVar("_Observable", ObservableCounter, ObservableUpDownCounter, ObservableGauge)


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


def _advisable(name: str, boundaries: Any) -> tuple[float, ...] | None:
    """Boundaries that a histogram can have, or None: what is wrong is logged, and the default holds.

    Specification, metrics API, "Instrument advisory parameters".
    """
    if boundaries is None:
        return None
    is_sequence = isinstance(boundaries, Sequence) and not isinstance(boundaries, (str, bytes))
    if not is_sequence or not all(isinstance(b, (float, int)) for b in boundaries):
        _sdk_logger.warning("explicit_bucket_boundaries_advisory must be a sequence of numbers")
        return None
    try:
        return check_boundaries(boundaries)
    except (ValueError, OverflowError) as error:
        _logger.warning(
            "Histogram %s: explicit_bucket_boundaries_advisory is ignored: %s", name, error
        )
        return None


class _Made(NamedTuple):
    """An instrument that a meter has made."""

    instrument: Any
    record: int
    advised: tuple[float, ...] | None  # as it was asked for
    agreed: tuple[float, ...] | None  # as it is for all processes


class Meter(ApiMeter):
    """Makes the instruments of one scope. Got from `MeterProvider.get_meter`.

    An instrument is identified by kind, name (case-insensitive), unit and description: asked for
    again it is the same object, and in all processes the same record of the buffer.
    """

    def __init__(
        self,
        registration: Registration,
        scope: InstrumentationScope,
        register_observable: Callable[[Observable], None],
        *,
        is_enabled: bool = True,
    ) -> None:
        super().__init__(scope.name, version=scope.version, schema_url=scope.schema_url)
        self._registration = registration
        self._buffer = registration.buffer
        self._scope = scope
        self._register_observable = register_observable
        self._is_enabled = is_enabled
        self._made: dict[tuple[int, InstrumentIdentity], _Made] = {}
        self._lock = threading.RLock()
        try:
            self.record = self._buffer.claim_scope(scope_key(scope))
        except BufferFullError as error:
            self.record = 0
            _logger.warning("Meter %s: its measurements are dropped: %s", scope.name, error)

    def _create(
        self,
        kind: int,
        identity: InstrumentIdentity,
        make: Callable[[Description], _Instrument],
        advised: tuple[float, ...] | None = None,
        fold: str | None = None,
    ) -> _Instrument:
        """The instrument of an identity; make(described) builds it the first time."""
        if fold is not None:
            folds.check(fold, identity.name, kind, _NAMES[kind])
        with self._lock:
            known = self._made.get((kind, identity))
            if known is not None:
                if known.advised != advised:
                    self._warn_of_advice(identity, known)
                return known.instrument  # type: ignore[no-any-return]
            self._warn_of_duplicate(kind, identity)
            record = self._registration.instrument(self.record, kind, identity, advised, fold)
            agreed = self._registration.advised(identity.name, record, kind, advised)
            instrument: Any = make(Description(_NAMES[kind], identity, self._scope))
            made = _Made(instrument, record, advised, agreed)
            self._measure_in_streams(kind, made)
            instrument._mode = self._mode
            self._made[kind, identity] = made
            return instrument  # type: ignore[no-any-return]

    def _measure_in_streams(self, kind: int, made: _Made) -> None:
        made.instrument._measure_in(
            self._registration.streams(made.instrument, kind, made.record, made.agreed)
        )

    @property
    def _mode(self) -> int:
        return self._registration.exemplars.mode if self._is_enabled else MODE_DISABLED

    def suit_readers(self) -> None:
        """After another reader came or went: the streams of all instruments, as they are now."""
        with self._lock:
            for (kind, _), made in self._made.items():
                self._measure_in_streams(kind, made)

    def enable(self, is_enabled: bool) -> None:
        """Whether the instruments measure and the callbacks are run."""
        with self._lock:
            self._is_enabled = is_enabled
            for made in self._made.values():
                made.instrument._mode = self._mode

    def _warn_of_advice(self, identity: InstrumentIdentity, known: _Made) -> None:
        _api_logger.warning(
            "An instrument with name %s, type %s, unit %s and description %s has been created already "
            "with a different advisory value %s and will be used instead.",
            identity.name,
            "Histogram",
            identity.unit,
            identity.description,
            known.advised,
        )

    def _warn_of_duplicate(self, kind: int, identity: InstrumentIdentity) -> None:
        """Specification, metrics SDK, "Duplicate instrument registration"."""
        for other_kind, other in self._made:
            if other.name == identity.name:
                _logger.warning(
                    "Instrument %s of meter %s was created as %s with unit %r and description %r, "
                    "and now as %s with unit %r and description %r: both are exported, as two "
                    "metrics of one name. Make them equal, or tell them apart by a View's name.",
                    identity.name,
                    self._scope.name,
                    _NAMES[other_kind],
                    other.unit,
                    other.description,
                    _NAMES[kind],
                    identity.unit,
                    identity.description,
                )
                return

    def after_fork(self) -> None:
        """In a forked child: another thread may have held the lock in the parent."""
        self._lock = threading.RLock()

    def create_counter(
        self, name: str, unit: str = "", description: str = "", *, fold: str | None = None
    ) -> Counter:
        """Makes a Counter: non-negative amounts, summed over all processes, dead ones included.

        Args:
            name, unit, description: what it is.
            fold: how many processes become one value, see `otel_shm.folds`; so for all instruments.

        Raises:
            Exception: the name or the unit is not legal.
            ValueError: the fold is not for a Counter.
        """
        return self._create(
            rules.COUNTER,
            _identity(name, unit, description),
            self._synchronous(Counter),
            fold=fold,
        )

    def create_up_down_counter(
        self, name: str, unit: str = "", description: str = "", *, fold: str | None = None
    ) -> UpDownCounter:
        """Makes an UpDownCounter: amounts of either sign, summed over the live processes.

        Raises:
            Exception: the name or the unit is not legal.
        """
        return self._create(
            rules.UP_DOWN_COUNTER,
            _identity(name, unit, description),
            self._synchronous(UpDownCounter),
            fold=fold,
        )

    def create_histogram(
        self,
        name: str,
        unit: str = "",
        description: str = "",
        *,
        explicit_bucket_boundaries_advisory: Sequence[float] | None = None,
    ) -> Histogram:
        """Makes a Histogram: the distribution of what all processes record, dead ones included.

        Args:
            name, unit, description: what it is.
            explicit_bucket_boundaries_advisory: strictly increasing; used where no view has others.

        Raises:
            Exception: the name or the unit is not legal.
        """
        return self._create(
            rules.HISTOGRAM,
            _identity(name, unit, description),
            self._synchronous(Histogram),
            _advisable(name, explicit_bucket_boundaries_advisory),
        )

    def create_gauge(
        self, name: str, unit: str = "", description: str = "", *, fold: str | None = None
    ) -> Gauge:
        """Makes a Gauge: the last amount that any process set.

        Raises:
            Exception: the name or the unit is not legal.
        """
        return self._create(
            rules.GAUGE, _identity(name, unit, description), self._synchronous(Gauge), fold=fold
        )

    def create_observable_counter(
        self,
        name: str,
        callbacks: Sequence[CallbackT] | None = None,
        unit: str = "",
        description: str = "",
        *,
        fold: str | None = None,
    ) -> ObservableCounter:
        """Makes an ObservableCounter: sums that only grow; those of dead processes stay.

        Raises:
            Exception: the name or the unit is not legal.
        """
        return self._create(
            rules.OBSERVABLE_COUNTER,
            _identity(name, unit, description),
            self._asynchronous(ObservableCounter, callbacks),
            fold=fold,
        )

    def create_observable_up_down_counter(
        self,
        name: str,
        callbacks: Sequence[CallbackT] | None = None,
        unit: str = "",
        description: str = "",
        *,
        fold: str | None = None,
    ) -> ObservableUpDownCounter:
        """Makes an ObservableUpDownCounter: sums over the live processes.

        Raises:
            Exception: the name or the unit is not legal.
        """
        return self._create(
            rules.OBSERVABLE_UP_DOWN_COUNTER,
            _identity(name, unit, description),
            self._asynchronous(ObservableUpDownCounter, callbacks),
            fold=fold,
        )

    def create_observable_gauge(
        self,
        name: str,
        callbacks: Sequence[CallbackT] | None = None,
        unit: str = "",
        description: str = "",
        *,
        fold: str | None = None,
    ) -> ObservableGauge:
        """Makes an ObservableGauge: what the callbacks of one live process observe.

        Raises:
            Exception: the name or the unit is not legal.
        """
        return self._create(
            rules.OBSERVABLE_GAUGE,
            _identity(name, unit, description),
            self._asynchronous(ObservableGauge, callbacks),
            fold=fold,
        )

    def _synchronous(
        self, instrument_class: Callable[..., _Instrument]
    ) -> Callable[[Description], _Instrument]:
        return lambda described: instrument_class(self._buffer, self._buffer.address, described, ())

    def _asynchronous(
        self, instrument_class: type[_Observable], callbacks: Sequence[CallbackT] | None
    ) -> Callable[[Description], _Observable]:
        def make(described: Description) -> _Observable:
            instrument = instrument_class(self._buffer, described, callbacks)
            self._register_observable(instrument)
            return instrument

        return make
