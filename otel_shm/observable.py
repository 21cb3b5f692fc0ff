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

from otel_shm import shares
from otel_shm.amount import to_number
from otel_shm.attributes import encode_attributes
from otel_shm.buffer import AGGREGATION_LAST, Buffer
from otel_shm.description import MODE_ASK, MODE_DISABLED, MODE_PLAIN, Description
from otel_shm.sampled import is_sampled
from otel_shm.series import Series, Share, Stream

_sdk_logger = logging.getLogger("opentelemetry.sdk.metrics._internal.instrument")

_Function = Callable[[CallbackOptions], Iterable[Observation]]


def _as_function(callback: CallbackT) -> _Function:
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


class _Use:
    """One stream of an observable, and what this process has put into it."""

    def __init__(self, buffer: Buffer, record: int, keep: Any) -> None:
        self._buffer = buffer
        self._stream = Stream(buffer, record)
        self._keep = keep
        self._is_last = self._stream.aggregation == AGGREGATION_LAST
        # By series; bounded by the stream's cardinality limit.
        self._series: dict[int, tuple[Series, Share]] = {}
        self._observed: dict[int, int | float] = {}

    def take(self, value: int | float, attributes: dict[str, Any], described: Description) -> int:
        """Notes a value; of one series the last counts, or their sum. Returns its identity."""
        kept = self._keep(attributes) if self._keep else attributes
        key = encode_attributes(kept, described.attribute_dropped)
        series, status = self._stream.claim(key, measured=True)
        if series.record not in self._series:
            self._series[series.record] = (series, shares.share_in(self._buffer, series.identity))
        before = 0 if self._is_last else self._observed.get(series.record, 0)
        self._observed[series.record] = before + value
        if status != 0:
            described.overflowed(status)
        return series.identity

    def publish(self, collection: int) -> None:
        """Puts what was noted into the buffer, as seen in one collection."""
        with shares.lock:
            for record, value in self._observed.items():
                series, share = self._series[record]
                series.observe(value, collection, share)
        self._observed.clear()


class Observable:
    """What the observables share: callbacks, and what is done with what they say."""

    def __init__(
        self,
        buffer: Buffer,
        described: Description,
        callbacks: Sequence[CallbackT] | None = None,
    ) -> None:
        self._buffer = buffer
        self._described = described
        self._callbacks: list[tuple[CallbackT, _Function]] = []
        self._uses: list[_Use] = []
        # All there ever were: what this process has put into a stream must not be taken for another's.
        self._used: dict[int, _Use] = {}
        self._mode = MODE_PLAIN
        self.name = described.name
        self.unit = described.unit
        self.description = described.description
        self.instrumentation_scope = described.instrumentation_scope
        for callback in callbacks or ():
            self.register_callback(callback)

    def _measure_in(self, streams: tuple[tuple[int, Any], ...]) -> None:
        """The streams that are measured in from now on."""
        for record, keep in streams:
            if record not in self._used or record == 0:
                self._used[record] = _Use(self._buffer, record, keep)
        self._uses = [self._used[record] for record, _ in streams]

    def register_callback(self, callback: CallbackT) -> None:
        """From the next collection on the callback is run too.

        Specification, metrics API, "Asynchronous instrument API": callbacks can be registered after
        the instrument was made.
        """
        self._callbacks = [*self._callbacks, (callback, _as_function(callback))]

    def unregister_callback(self, callback: CallbackT) -> None:
        """From the next collection on the callback is not run any more.

        Raises:
            ValueError: it is not registered.
        """
        kept = [known for known in self._callbacks if known[0] is not callback]
        if len(kept) == len(self._callbacks):
            # Methods are made anew each time they are asked for, and equal.
            kept = [known for known in self._callbacks if known[0] != callback]
        if len(kept) == len(self._callbacks):
            raise ValueError(f"{callback!r} is no callback of {self.name!r}")
        self._callbacks = kept

    def enabled(self) -> bool:
        """False if what is observed goes nowhere: a disabled meter, or views that drop it."""
        return self._mode != MODE_DISABLED and bool(self._uses)

    def __repr__(self) -> str:
        return f"<otel_shm.{type(self).__name__} {self.name!r}>"

    def observe(self, options: CallbackOptions, collection: int) -> None:
        """Runs the callbacks and publishes what they observe, stamped with the collection.

        An exception costs what its callback had not yet yielded, and is logged.
        """
        if self._mode == MODE_DISABLED:
            return
        uses = self._uses
        for _, callback in self._callbacks:
            try:
                for observation in callback(options):
                    self._take(observation, uses)
            except Exception:
                _sdk_logger.exception("Callback failed for instrument %s.", self.name)
        for use in uses:
            use.publish(collection)

    def _take(self, observation: Observation, uses: list[_Use]) -> None:
        value: Any = observation.value
        if not math.isfinite(value):
            _sdk_logger.warning(
                "Callback returned a non-finite value %s for instrument %s, ignoring measurement.",
                value,
                self.name,
            )
            return
        given = observation.attributes
        attributes = {} if given is None else self._described.clean_attributes(given)
        number = to_number(value)
        series = tuple(use.take(number, attributes, self._described) for use in uses)
        context = getattr(observation, "context", None)
        if self._mode and (self._mode == MODE_ASK or is_sampled(context)):
            self._described.sampled(value, attributes or None, context, series)


class ObservableCounter(Observable, api.ObservableCounter):
    """Asks its callbacks for sums that only grow when metrics are collected."""


class ObservableUpDownCounter(Observable, api.ObservableUpDownCounter):
    """Asks its callbacks for sums when metrics are collected."""


class ObservableGauge(Observable, api.ObservableGauge):
    """Asks its callbacks for values when metrics are collected."""


# Views match by these.
sdk.ObservableCounter.register(ObservableCounter)
sdk.ObservableUpDownCounter.register(ObservableUpDownCounter)
sdk.ObservableGauge.register(ObservableGauge)
