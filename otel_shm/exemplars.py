# SPDX-License-Identifier: Apache-2.0
"""Exemplars: which measurements may become one, and the reservoirs that choose.

The hot path asks the filter (csrc/sampled.h for the usual one) and hands over what passes. A process
keeps a reservoir of the SDK's, or of a view's, for each of its series that a measurement was offered to.
With a collection the reservoirs are emptied, here and in the other processes (publisher.py), and every
reader gets what was in them since its own last collection.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from time import time_ns
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError
from opentelemetry.context import get_current
from opentelemetry.sdk import metrics as sdk
from opentelemetry.sdk.environment_variables import OTEL_METRICS_EXEMPLAR_FILTER
from opentelemetry.sdk.metrics import Exemplar
from opentelemetry.sdk.metrics._internal import aggregation as sdk_aggregation

from otel_shm import buffer as rules
from otel_shm.attributes import decode_attributes
from otel_shm.buffer import Buffer, position_of
from otel_shm.description import MODE_ASK, MODE_PLAIN, MODE_TRACE_BASED
from otel_shm.errors import OtelShmError
from otel_shm.exemplar_message import carriable, carriable_number
from otel_shm.streams import StreamIdentity

_logger = logging.getLogger(__name__)
_FILTERS: dict[str, type[sdk.ExemplarFilter]] = {
    "always_on": sdk.AlwaysOnExemplarFilter,
    "always_off": sdk.AlwaysOffExemplarFilter,
    "trace_based": sdk.TraceBasedExemplarFilter,
}
# What a view's factory is given: the SDK's own class of an aggregation.
_AGGREGATIONS: dict[int, type] = {
    rules.AGGREGATION_SUM: sdk_aggregation._SumAggregation,
    rules.AGGREGATION_LAST: sdk_aggregation._LastValueAggregation,
    rules.AGGREGATION_EXPLICIT: sdk_aggregation._ExplicitBucketHistogramAggregation,
    rules.AGGREGATION_EXPONENTIAL: sdk_aggregation._ExponentialBucketHistogramAggregation,
}
_KEPT = 64  # exemplars of a series that wait for a reader that collects seldom


def filter_of(given: sdk.ExemplarFilter | None) -> sdk.ExemplarFilter:
    """The filter that is given, else the one that `OTEL_METRICS_EXEMPLAR_FILTER` names.

    Raises:
        ValueError: the variable names none.
    """
    if given is not None:
        return given
    name = os.environ.get(OTEL_METRICS_EXEMPLAR_FILTER, "trace_based")
    if name not in _FILTERS:
        raise ValueError(f"Unknown exemplar filter '{name}'.")  # the SDK's text
    return _FILTERS[name]()


def mode_of(exemplar_filter: sdk.ExemplarFilter) -> int:
    """How an instrument asks a filter: see MODE_PLAIN and the others."""
    if type(exemplar_filter) is sdk.AlwaysOffExemplarFilter:
        return MODE_PLAIN
    if type(exemplar_filter) is sdk.TraceBasedExemplarFilter:
        return MODE_TRACE_BASED
    return MODE_ASK


def _reservoir(view: Any, stream: StreamIdentity) -> Any:
    """A new reservoir as the SDK makes it for an aggregation."""
    how = stream.aggregated
    builder = view._exemplar_reservoir_factory(_AGGREGATIONS[how.aggregation])
    if how.aggregation == rules.AGGREGATION_EXPLICIT:
        return builder(boundaries=how.boundaries)
    if how.aggregation == rules.AGGREGATION_EXPONENTIAL:
        return builder(size=min(20, how.max_size))
    return builder()


class _Sampling(NamedTuple):
    """What samples the measurements of one series."""

    reservoir: Any
    attributes: dict[str, Any]  # of its point


class Exemplars:
    """The exemplars of one provider in one process.

    Args:
        buffer: whose series they are of.
        exemplar_filter: which measurements may become one.
    """

    def __init__(self, buffer: Buffer, exemplar_filter: sdk.ExemplarFilter) -> None:
        self._buffer = buffer
        self._filter = exemplar_filter
        #: Called when the first one is offered, from within that measurement.
        self.offered: Callable[[], None] = lambda: None
        #: How instruments ask the filter.
        self.mode = mode_of(exemplar_filter)
        self._asks = type(exemplar_filter) not in _FILTERS.values()
        self._said_lost = False
        self._start_afresh()

    def _start_afresh(self) -> None:
        # Reentrant: a measurement in a finalizer may come in the middle of another's.
        self._lock = threading.RLock()
        # By the identity of a series, as all that is by series here.
        self._samplings: dict[int, _Sampling] = {}
        self._waiting: weakref.WeakKeyDictionary[Any, dict[int, list[Exemplar]]]
        self._waiting = weakref.WeakKeyDictionary()  # by reader
        self._is_offered = False
        # True in a thread that is in a reservoir or filter, which may hold locks of their own.
        self._inside = threading.local()

    def after_fork(self) -> None:
        """In a forked child: what the parent was offered is the parent's."""
        self._start_afresh()

    def attach(self, instrument: Any, streams: Sequence[tuple[Any, StreamIdentity]]) -> None:
        """Makes an instrument hand over what the filter passes.

        Args:
            instrument: any of ours.
            streams: the view and identity of each, in the order in which it measures in them.
        """
        if self.mode == MODE_PLAIN:
            return

        def offer(
            amount: Any, attributes: dict[str, Any] | None, context: Any, series: tuple[int, ...]
        ) -> None:
            self._offer(streams, series, amount, attributes, context)

        instrument._described.offer = offer

    def _offer(
        self,
        streams: Sequence[tuple[Any, StreamIdentity]],
        series: tuple[int, ...],
        amount: Any,
        attributes: dict[str, Any] | None,
        context: Any,
    ) -> None:
        if getattr(self._inside, "now", False):
            return  # a finalizer or signal handler that measures in the middle of it
        self._inside.now = True
        try:
            now = time_ns()
            context = context or get_current()
            if self._asks and not self._filter.should_sample(amount, now, attributes, context):
                return
            for (view, stream), identity in zip(streams, series, strict=False):
                sampling = self._samplings.get(identity) or self._sample(identity, view, stream)
                if sampling is not None:
                    number = carriable_number(amount)
                    sampling.reservoir.offer(number, now, attributes, context)
        finally:
            self._inside.now = False
        if not self._is_offered:
            self._is_offered = True
            self.offered()

    def _sample(self, identity: int, view: Any, stream: StreamIdentity) -> _Sampling | None:
        """Begins to sample a series. None: the buffer had no room for it, or is damaged."""
        if identity == 0:
            return None
        try:
            attributes = decode_attributes(self._buffer.record_key(position_of(identity)))
        except (OtelShmError, DecodeError):
            return None
        made = _Sampling(_reservoir(view, stream), attributes)
        with self._lock:
            return self._samplings.setdefault(identity, made)

    def empty(self) -> dict[int, list[Exemplar]]:
        """Takes what is in the reservoirs, by series. What fails there is logged, once, and lost."""
        taken = {}
        with self._lock:
            samplings = list(self._samplings.items())
        self._inside.now = True
        try:
            for identity, (reservoir, attributes) in samplings:
                if not self._is_there(identity):
                    self._samplings.pop(identity, None)
                elif exemplars := self._take(reservoir, attributes):
                    taken[identity] = exemplars
        finally:
            self._inside.now = False
        return taken

    def _is_there(self, identity: int) -> bool:
        """False for a series that was retired, and whose record is another one's by now."""
        return self._buffer.series_identity(position_of(identity)) == identity

    def _take(self, reservoir: Any, attributes: dict[str, Any]) -> list[Exemplar]:
        taken = []
        try:
            for exemplar in reservoir.collect(attributes):
                taken.append(carriable(exemplar))
        except Exception:
            if not self._said_lost:
                self._said_lost = True
                _logger.warning("Exemplars of a reservoir were lost.", exc_info=True)
        return taken

    def add(self, readers: Iterable[Any], taken: dict[int, list[Exemplar]]) -> None:
        """Lets exemplars, by series, wait for each reader's next collection."""
        with self._lock:
            for reader in readers:
                waiting = self._waiting.setdefault(reader, {})
                for identity, exemplars in taken.items():
                    waiting[identity] = [*waiting.get(identity, ()), *exemplars][-_KEPT:]

    def take(self, reader: Any) -> dict[int, list[Exemplar]]:
        """What has waited for a reader, by series."""
        with self._lock:
            return self._waiting.pop(reader, {})

    def put_back(self, reader: Any, unused: dict[int, list[Exemplar]]) -> None:
        """Lets what was taken wait on: its series had no point. A measurement may be in a point a little
        before its exemplar is."""
        self.add([reader], {i: taken for i, taken in unused.items() if self._is_there(i)})
