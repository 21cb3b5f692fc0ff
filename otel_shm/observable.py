# SPDX-License-Identifier: Apache-2.0
"""The asynchronous instruments: callbacks whose observations go to the buffer at a collection."""

from __future__ import annotations

import logging
import math
import operator
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any

from opentelemetry import metrics as api
from opentelemetry.metrics import CallbackOptions, CallbackT, Observation
from opentelemetry.sdk import metrics as sdk
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from otel_shm.attributes import encode_attributes
from otel_shm.buffer import Buffer
from otel_shm.instruments import _FIELDS, _Described
from otel_shm.metadata import InstrumentIdentity

_sdk_logger = logging.getLogger("opentelemetry.sdk.metrics._internal.instrument")


def _as_function(callback: CallbackT) -> Callable[[CallbackOptions], Iterable[Observation]]:
    """A callback as a function: a generator is advanced to its first yield, then sent options."""
    if not isinstance(callback, Generator):
        return callback
    generator = callback
    next(generator)

    def send(options: CallbackOptions) -> Iterable[Observation]:
        try:
            return generator.send(options)
        except StopIteration:
            return []

    return send


class _Place:
    """An asynchronous instrument's place in the buffer."""

    __slots__ = ("__weakref__", "_owner", "_record")

    def __init__(self, owner: Buffer, _address: int, record: int) -> None:
        self._owner = owner
        self._record = record


class ObservableGauge(_Described, _Place):
    """Asks its callbacks for values when metrics are collected."""

    __slots__ = (*_FIELDS, "_callbacks")

    def __init__(
        self,
        buffer: Buffer,
        record: int,
        identity: InstrumentIdentity,
        scope: InstrumentationScope,
        callbacks: Sequence[CallbackT] | None = None,
    ) -> None:
        super().__init__(buffer, record, identity, scope)
        self._callbacks = [_as_function(callback) for callback in callbacks or ()]

    def observe(self, options: CallbackOptions, collection: int) -> None:
        """Runs the callbacks and publishes what they observe, stamped with the collection.

        An exception costs what its callback had not yet yielded, and is logged.
        """
        for callback in self._callbacks:
            try:
                for observation in callback(options):
                    self._publish(observation, collection)
            except Exception:
                _sdk_logger.exception("Callback failed for instrument %s.", self.name)

    def _publish(self, observation: Observation, collection: int) -> None:
        value: Any = observation.value
        if not math.isfinite(value):
            _sdk_logger.warning(
                "Callback returned a non-finite value %s for instrument %s, ignoring measurement.",
                value,
                self.name,
            )
            return
        if not isinstance(value, float):
            value = operator.index(value) if hasattr(value, "__index__") else float(value)
        attributes = observation.attributes
        clean = {} if attributes is None else self._attributes_cleaned(attributes)
        series, status = self._owner.claim_series(
            self._record, encode_attributes(clean, self._attribute_dropped), measured=True
        )
        series.observe(value, collection)
        if status != 0:
            self._overflowed(status)


api.ObservableGauge.register(ObservableGauge)
sdk.ObservableGauge.register(ObservableGauge)
