# SPDX-License-Identifier: Apache-2.0
"""The asynchronous instruments: callbacks whose observations go to the buffer at a collection."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any

from opentelemetry import metrics as api
from opentelemetry.metrics import CallbackOptions, CallbackT, Observation
from opentelemetry.sdk import metrics as sdk

from otel_shm.amount import to_number
from otel_shm.attributes import encode_attributes
from otel_shm.buffer import Buffer
from otel_shm.description import Description

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


class ObservableGauge(api.ObservableGauge):
    """Asks its callbacks for values when metrics are collected."""

    def __init__(
        self,
        buffer: Buffer,
        record: int,
        described: Description,
        callbacks: Sequence[CallbackT] | None = None,
    ) -> None:
        super().__init__(described.name, None, described.unit, described.description)
        self._buffer = buffer
        self._record = record
        self._described = described
        self._callbacks = [_as_function(callback) for callback in callbacks or ()]
        self.name = described.name
        self.unit = described.unit
        self.description = described.description
        self.instrumentation_scope = described.instrumentation_scope

    def __repr__(self) -> str:
        return f"<otel_shm.{type(self).__name__} {self.name!r}>"

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
        attributes = observation.attributes
        clean = {} if attributes is None else self._described.clean_attributes(attributes)
        series, status = self._buffer.claim_series(
            self._record, encode_attributes(clean, self._described.attribute_dropped), measured=True
        )
        series.observe(to_number(value), collection)
        if status != 0:
            self._described.overflowed(status)


sdk.ObservableGauge.register(ObservableGauge)  # Views match by it
