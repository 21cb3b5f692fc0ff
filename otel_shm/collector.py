# SPDX-License-Identifier: Apache-2.0
"""Collecting: what a stock MetricReader calls, from the lock to MetricsData.

Of all processes that share a buffer one collects at a time. A process that is not the one answers
None, upon which stock readers export nothing; so a forked child never sends its parent's totals again
and no reader has to know that there are other processes.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import weakref
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from time import monotonic, time_ns
from typing import NamedTuple

from opentelemetry.metrics import CallbackOptions
from opentelemetry.sdk.metrics import Exemplar, MetricsTimeoutError
from opentelemetry.sdk.metrics.export import (
    Metric,
    MetricReader,
    MetricsData,
    ResourceMetrics,
    ScopeMetrics,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from otel_shm import inherited_reader, uwsgi
from otel_shm.answers import MAILBOX_ROOM, Questions
from otel_shm.buffer import Buffer, identity_of
from otel_shm.catalog import Catalog
from otel_shm.exemplar_message import from_message, to_message
from otel_shm.exemplars import Exemplars
from otel_shm.instruments import Histogram
from otel_shm.observable import Observable
from otel_shm.points import Reading, data, within_limit
from otel_shm.producers import MetricProducer, join, produced
from otel_shm.publisher import Publisher
from otel_shm.reader_settings import ReaderSettings
from otel_shm.readings import Found
from otel_shm.scanner import Scanner

_logger = logging.getLogger(__name__)
_MAX_CALLBACK_MILLIS = 10_000.0  # the SDK's own bound
_MAX_ANSWER_MILLIS = 1_000.0  # a process that is stopped or stuck keeps its last values


class _Registered(NamedTuple):
    """A reader of this provider."""

    settings: ReaderSettings
    number: int  # of a delta reader in the buffer; -1: it wants no deltas


def _pulls(reader: MetricReader) -> bool:
    """True for a reader that answers whoever asks, instead of sending.

    A scrape of cumulative totals may be answered by any process: all see the same slots, and only the
    one that was asked answers. So a /metrics page works whichever worker serves it.
    """
    return any(
        kind.__module__.startswith("opentelemetry.exporter.prometheus")
        for kind in type(reader).__mro__
    )


def _patience(deadline: float) -> float:
    """Seconds to wait for a lock at most."""
    return min(max(0.0, deadline - monotonic()), threading.TIMEOUT_MAX)


class Collector:
    """Collects one buffer for the readers of one provider.

    Args:
        buffer: whose series are collected.
        resource: of the service.
        exemplars: of this process.
        producers: of other metrics, to be joined in.
    """

    def __init__(
        self,
        buffer: Buffer,
        resource: Resource,
        exemplars: Exemplars,
        producers: Sequence[MetricProducer] = (),
    ) -> None:
        self._buffer = buffer
        #: Of the service.
        self.resource = resource
        self._exemplars = exemplars
        self._producers = producers
        self._observables: list[Observable] = []
        self._readers: weakref.WeakKeyDictionary[MetricReader, _Registered]
        self._readers = weakref.WeakKeyDictionary()
        self.catalog = Catalog(buffer)
        #: Gets the duration of each collection in seconds.
        self.duration: Histogram | None = None
        self._publisher = Publisher(buffer, self.answer)
        exemplars.offered = self._publisher.start
        self._is_leaving = False
        self._has_failed = False  # a collection, since it began to leave
        self._is_retired = False
        self._rests = False
        self._said_lost = False
        self._said_left_out = False
        self._inherited: set[int] = set()  # ids of readers that were made before a fork
        self._start_afresh()

    def _start_afresh(self) -> None:
        # One collection at a time: the scanner is for one thread.
        self._lock = threading.Lock()
        self._observing = threading.Lock()
        self._last_observed = 0  # collection
        self._questions = Questions(self._buffer)
        self._adoption = threading.Lock()
        self._scanner = Scanner(self._buffer)
        self.catalog.forget()

    def after_fork(self, readers: Iterable[MetricReader]) -> None:
        """In a forked child: another thread may have been collecting in the parent."""
        self._inherited = {id(reader) for reader in readers}
        self._scanner.abandon()
        self._start_afresh()
        self._publisher.after_fork()

    def register_reader(
        self, reader: MetricReader, settings: ReaderSettings, number: int, *, is_late: bool
    ) -> None:
        """From now on the reader may collect.

        Args:
            reader: who is registered.
            settings: what it asks for.
            number: of a delta reader in the buffer; -1: it wants no deltas.
            is_late: there are measurements already, which a delta reader does not get.
        """
        self._readers[reader] = _Registered(settings, number)
        if is_late and number >= 0 and self.acquire():
            with self._lock:
                if self._scanner.interval_start(number) == 0:
                    now, collection = time_ns(), self._publisher.begin_collection()
                    self._scanner.scan(collection, number, settings.delta_kinds)
                    self._scanner.commit(number, collection, now)

    def forget_reader(self, reader: MetricReader) -> None:
        """The reader collects no more."""
        self._readers.pop(reader, None)

    def may_use(self, reader: MetricReader) -> bool:
        """False for a reader copied by fork whose parent still collects: its exporter is the parent's.

        A process that takes over collecting makes the copy its own first.
        """
        if id(reader) not in self._inherited:
            return True
        if not self.acquire():
            return False
        self._adopt(reader)
        return True

    def _adopt(self, reader: MetricReader) -> None:
        if id(reader) not in self._inherited:
            return
        with self._adoption:  # a second thread waits until the reader can be used
            if id(reader) in self._inherited:
                inherited_reader.renew(reader)
                self._inherited.discard(id(reader))

    def register_observable(self, observable: Observable) -> None:
        """From the next collection on its callbacks are run."""
        self._observables.append(observable)
        self._publisher.start()

    def collect(self, reader: MetricReader, timeout_millis: float = 10_000) -> MetricsData | None:
        """What a reader gets: everything, or None where there is nothing or another collects.

        Args:
            reader: who asks.
            timeout_millis: milliseconds until MetricsTimeoutError.

        Raises:
            MetricsTimeoutError: another collection of this process, or the callbacks, took too long.
        """
        if self._rests:
            return None
        try:
            registered = self._readers.get(reader)
            if registered is None:
                return None  # removed meanwhile
            if not (_pulls(reader) and registered.number < 0) and not self.acquire():
                self._complain_if_lost()
                return None
            try:
                self._adopt(reader)
                return self._collect(reader, registered, monotonic() + timeout_millis / 1e3)
            finally:
                if self._is_retired:
                    self._buffer.collector_release()
        except MetricsTimeoutError:
            self._has_failed = True
            raise
        except Exception:
            self._has_failed = True
            # Anything else would end a periodic reader's thread for good.
            _logger.exception("A collection failed; the next one tries again.")
            return None

    def acquire(self) -> bool:
        """True if this process is the one that collects. Never blocks."""
        if not uwsgi.may_collect() and not self._is_leaving:
            return False
        return self._buffer.collector_acquire(leaving=self._is_leaving)

    def leave(self) -> None:
        """From now on each collection may be the last: who leaves too waits for its end."""
        self._has_failed = False
        self._is_leaving = True

    def rest(self) -> None:
        """Until `retire` there is nothing to collect: another process has exported it."""
        self._rests = True

    def retire(self, *, exported: bool) -> None:
        """After the provider's shutdown: collects when asked, but keeps no other process from it.

        Args:
            exported: no reader failed, as far as they say.
        """
        exported = exported and not self._rests and not self._has_failed
        self._is_retired = True
        self._publisher.stop()
        self._rests = False
        self._buffer.collector_release(exported=exported)

    def _complain_if_lost(self) -> None:
        if not self._said_lost and self._buffer.is_lost:
            self._said_lost = True
            _logger.error(
                "The program closed the descriptor of the anonymous buffer, as daemons do, so this "
                "process cannot export. Make the MeterProvider after that, or name a buffer by path."
            )

    def _collect(
        self, reader: MetricReader, registered: _Registered, deadline: float
    ) -> MetricsData | None:
        patience = _patience(deadline)
        if self._is_leaving and not self._is_retired:
            # A periodic reader gives its last collection its interval as timeout. That one is not lost
            # because another reader's waits for callbacks or answers for longer.
            patience = max(patience, (_MAX_CALLBACK_MILLIS + _MAX_ANSWER_MILLIS) / 1e3)
        if not self._lock.acquire(timeout=patience):
            raise MetricsTimeoutError("Timed out while waiting for another collection")
        begun = monotonic()
        try:
            collection = self._publisher.begin_collection()
            try:
                self._observe(collection, deadline)
                self._publisher.has_observed(collection)
            except MetricsTimeoutError:
                if not self._is_leaving:
                    raise
                # The last collection is not lost because of a late callback.
            self._exemplars.add(list(self._readers), self._exemplars.empty())
            self._ask_others(collection, deadline)
            settings, number = registered
            now = time_ns()
            found = self._scanner.collect(collection, number, settings.delta_kinds)
            self._complain_if_left_out()
            exemplars = self._exemplars.take(reader)
            readings = self._readings(found, exemplars)
            self._exemplars.put_back(reader, exemplars)
            scopes = self._scope_metrics(readings, settings, now)
            ours = ResourceMetrics(self.resource, scopes, self.resource.schema_url)
            remaining = max(0.0, (deadline - monotonic()) * 1e3)
            metrics_data = join([ours, *produced(self._producers, self.resource, remaining)])
            if number >= 0:
                # A series that started since `now` was read has an interval that ends later.
                starts = (reading[1] for of_one in readings.values() for reading in of_one)
                self._scanner.commit(number, collection, max(now, max(starts, default=now)))
                self._scanner.retire(collection, now)
            return metrics_data
        finally:
            self._lock.release()
            if self.duration is not None:
                self.duration.record(monotonic() - begun)

    def _observe(self, collection: int, deadline: float) -> None:
        # Not for ever: a callback may collect in the middle of an answer.
        if not self._observing.acquire(timeout=_patience(deadline)):
            raise MetricsTimeoutError("Timed out while waiting for other callbacks")
        try:
            # Another thread may have come first with a later one, of which this is as true.
            self._last_observed = collection = max(collection, self._last_observed)
            for observable in list(self._observables):
                remaining = (deadline - monotonic()) * 1e3
                if remaining <= 0:
                    raise MetricsTimeoutError("Timed out while executing callback")
                options = CallbackOptions(timeout_millis=min(_MAX_CALLBACK_MILLIS, remaining))
                observable.observe(options, collection)
        finally:
            self._observing.release()

    def answer(self, collection: int) -> bytes:
        """What this process has to tell the one that collects; its observations it publishes."""
        with contextlib.suppress(MetricsTimeoutError):
            self._observe(collection, monotonic() + _MAX_CALLBACK_MILLIS / 1e3)
        message, _ = to_message(self._exemplars.empty(), MAILBOX_ROOM)
        return message

    def _ask_others(self, collection: int, deadline: float) -> None:
        """Waits for the other processes' observations, and takes their exemplars."""
        patience = min(_MAX_ANSWER_MILLIS, max(0.0, (deadline - monotonic()) * 1e3 / 2))
        self._questions.wait(collection, int(patience))
        for message in self._questions.messages():
            self._exemplars.add(list(self._readers), from_message(message))

    def _complain_if_left_out(self) -> None:
        if self._scanner.left_out and not self._said_left_out:
            self._said_left_out = True
            _logger.error(
                "The file system or memory that holds the buffer is full, so deltas of %d series wait "
                "until there is room for what their readers have had.",
                self._scanner.left_out,
            )

    def _readings(
        self, found: Iterable[Found], exemplars: dict[int, list[Exemplar]]
    ) -> dict[int, list[Reading]]:
        """By stream, in the order of first use: streams by their first series. Uses exemplars up."""
        streams: defaultdict[int, list[Reading]] = defaultdict(list)
        attributes_of = self.catalog.attributes

        def exemplars_of(series: int, generation: int) -> Sequence[Exemplar]:
            return exemplars.pop(identity_of(series, generation), ()) if exemplars else ()

        for series, stream, generation, start, value, row in found:
            attributes = attributes_of(series, generation)
            if attributes is not None:
                sampled = exemplars_of(series, generation)
                streams[stream].append((attributes, start, value, row, sampled))
        for row in self._scanner.each():
            attributes = self.catalog.attributes_of_lane(row)
            if attributes is not None and row.value is not None:
                streams[row.stream].append(
                    (
                        attributes,
                        row.start_time_unix_nano,
                        row.value,
                        row,
                        exemplars_of(row.series, row.generation),
                    )
                )
        return streams

    def _scope_metrics(
        self, streams: Mapping[int, list[Reading]], settings: ReaderSettings, now: int
    ) -> list[ScopeMetrics]:
        scopes: dict[InstrumentationScope, list[Metric]] = {}
        for record, stream in self.catalog.wanted(streams, settings):
            readings = streams[record]
            identity, kind = stream.identity, stream.kind
            limit = identity.limit or settings.limit[kind]
            points = within_limit(readings, limit, identity.aggregated)
            name, unit, description = identity.metric
            scopes.setdefault(stream.scope, []).append(
                Metric(
                    name=name,
                    description=description,
                    unit=unit,
                    data=data(
                        identity, stream.is_monotonic, points, settings.temporality[kind], now
                    ),
                )
            )
        return [
            ScopeMetrics(scope=scope, metrics=metrics, schema_url=scope.schema_url or "")
            for scope, metrics in scopes.items()
        ]
