# SPDX-License-Identifier: Apache-2.0
"""Collecting: what a stock MetricReader calls, from the lock to MetricsData.

Of all processes that share a buffer one collects at a time. A process that is not the one answers
None, upon which stock readers export nothing; so a forked child never sends its parent's totals again
and no reader has to know that there are other processes.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from time import monotonic, time_ns
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError
from opentelemetry.metrics import CallbackOptions
from opentelemetry.sdk.metrics import MetricsTimeoutError
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Metric,
    MetricReader,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from otel_shm import inherited_reader
from otel_shm.attributes import decode_attributes
from otel_shm.buffer import COUNTER, GAUGE, OBSERVABLE_GAUGE, Buffer, Scanner
from otel_shm.errors import OtelShmError
from otel_shm.metadata import InstrumentIdentity, instrument_from_key, scope_from_key
from otel_shm.observable import ObservableGauge
from otel_shm.readings import Row

_logger = logging.getLogger(__name__)
_MAX_CALLBACK_MILLIS = 10_000.0  # the SDK's own bound


class _Instrument(NamedTuple):
    """An instrument as its record says, whichever process made it."""

    scope: InstrumentationScope
    identity: InstrumentIdentity


def _pulls(reader: MetricReader) -> bool:
    """True for a reader that answers whoever asks, instead of sending.

    A scrape of cumulative totals may be answered by any process: all see the same slots, and only the
    one that was asked answers. So a /metrics page works whichever worker serves it.
    """
    return any(
        kind.__module__.startswith("opentelemetry.exporter.prometheus")
        for kind in type(reader).__mro__
    )


class Collector:
    """Collects one buffer for the readers of one provider.

    Args:
        buffer: whose series are collected.
        resource: of the service.
    """

    def __init__(self, buffer: Buffer, resource: Resource) -> None:
        self._buffer = buffer
        self._resource = resource
        self._observables: list[ObservableGauge] = []
        self._scopes: dict[int, InstrumentationScope] = {}  # this process's own, by record
        self._is_leaving = False
        self._is_retired = False
        self._rests = False
        self._said_lost = False
        self._inherited: set[int] = set()  # ids of readers that were made before a fork
        self._start_afresh()

    def _start_afresh(self) -> None:
        # One collection at a time: the scanner is for one thread.
        self._lock = threading.Lock()
        self._adoption = threading.Lock()
        self._scanner = Scanner(self._buffer)
        # Worked out once a series and instrument: a row keeps its number for the scanner's life.
        self._attributes: list[dict[str, Any] | None] = []
        self._instruments: dict[int, _Instrument | None] = {}

    def after_fork(self, readers: Iterable[MetricReader]) -> None:
        """In a forked child: another thread may have been collecting in the parent."""
        self._inherited = {id(reader) for reader in readers}
        self._scanner.abandon()
        self._start_afresh()

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

    def register_scope(self, record: int, scope: InstrumentationScope) -> None:
        """Data of the scope behind a record is given out under this very object."""
        self._scopes.setdefault(record, scope)

    def register_observable(self, observable: ObservableGauge) -> None:
        """From the next collection on its callbacks are run."""
        self._observables.append(observable)

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
            if not _pulls(reader) and not self.acquire():
                self._complain_if_lost()
                return None
            try:
                self._adopt(reader)
                return self._collect(monotonic() + timeout_millis / 1e3)
            finally:
                if self._is_retired:
                    self._buffer.collector_release()
        except MetricsTimeoutError:
            raise
        except Exception:
            # Anything else would end a periodic reader's thread for good.
            _logger.exception("A collection failed; the next one tries again.")
            return None

    def acquire(self) -> bool:
        """True if this process is the one that collects. Never blocks."""
        return self._buffer.collector_acquire(leaving=self._is_leaving)

    def leave(self) -> None:
        """From now on each collection may be the last: who leaves too waits for its end."""
        self._is_leaving = True

    def rest(self) -> None:
        """Until `retire` there is nothing to collect: another process has exported it."""
        self._rests = True

    def retire(self) -> None:
        """After the provider's shutdown: collects when asked, but keeps no other process from it."""
        self._is_retired = True
        self._rests = False
        self._buffer.collector_release()

    def _complain_if_lost(self) -> None:
        if not self._said_lost and self._buffer.is_lost:
            self._said_lost = True
            _logger.error(
                "The program closed the descriptor of the anonymous buffer, as daemons do, so this "
                "process cannot export. Make the MeterProvider after that, or name a buffer by path."
            )

    def _collect(self, deadline: float) -> MetricsData | None:
        patience = min(max(0.0, deadline - monotonic()), threading.TIMEOUT_MAX)
        if not self._lock.acquire(timeout=patience):
            raise MetricsTimeoutError("Timed out while waiting for another collection")
        try:
            now = time_ns()
            collection = self._buffer.begin_collection()
            for observable in self._observables:
                remaining = (deadline - monotonic()) * 1e3
                if remaining <= 0:
                    raise MetricsTimeoutError("Timed out while executing callback")
                options = CallbackOptions(timeout_millis=min(_MAX_CALLBACK_MILLIS, remaining))
                observable.observe(options, collection)
            return self._to_data(self._scanner.scan(collection), now)
        finally:
            self._lock.release()

    def _to_data(self, rows: Iterable[Row], now: int) -> MetricsData | None:
        # Grouped in the order of first use: instruments by their first series.
        points: dict[int, list[NumberDataPoint]] = {}
        kinds: dict[int, int] = {}
        for number, row in enumerate(rows):
            if number == len(self._attributes):
                self._attributes.append(self._decode_attributes(row.series))
            attributes = self._attributes[number]
            if row.value is None or attributes is None:
                continue
            is_gauge = row.kind in (GAUGE, OBSERVABLE_GAUGE)
            points.setdefault(row.instrument, []).append(
                NumberDataPoint(
                    attributes=attributes,
                    # A gauge has no start; None is what the SDK's own gauges carry.
                    start_time_unix_nano=None if is_gauge else row.start_time_unix_nano,  # type: ignore[arg-type]
                    # A series may have started, or a clock been set back, since `now` was read.
                    time_unix_nano=max(now, row.start_time_unix_nano),
                    value=row.value,
                )
            )
            kinds[row.instrument] = row.kind

        scopes: dict[InstrumentationScope, list[Metric]] = {}
        for position, instrument_points in points.items():
            instrument = self._instrument(position)
            if instrument is None:
                continue
            data: Sum | Gauge
            if kinds[position] in (GAUGE, OBSERVABLE_GAUGE):
                data = Gauge(data_points=instrument_points)
            else:
                data = Sum(
                    data_points=instrument_points,
                    aggregation_temporality=AggregationTemporality.CUMULATIVE,
                    is_monotonic=kinds[position] == COUNTER,
                )
            name, unit, description = instrument.identity
            scopes.setdefault(instrument.scope, []).append(
                Metric(name=name, description=description, unit=unit, data=data)
            )
        if not scopes:
            return None
        return MetricsData(
            resource_metrics=[
                ResourceMetrics(
                    resource=self._resource,
                    scope_metrics=[
                        ScopeMetrics(
                            scope=scope, metrics=metrics, schema_url=scope.schema_url or ""
                        )
                        for scope, metrics in scopes.items()
                    ],
                    schema_url=self._resource.schema_url,
                )
            ]
        )

    def _decode_attributes(self, series: int) -> dict[str, Any] | None:
        try:
            return decode_attributes(self._buffer.record_key(series))
        except (OtelShmError, DecodeError) as error:
            _logger.error("A series is left out: its record cannot be read: %s", error)
            return None

    def _instrument(self, position: int) -> _Instrument | None:
        if position not in self._instruments:
            try:
                scope = self._buffer.record_parent(position)
                self._instruments[position] = _Instrument(
                    self._scopes.get(scope) or scope_from_key(self._buffer.record_key(scope)),
                    instrument_from_key(self._buffer.record_key(position)),
                )
            except (OtelShmError, DecodeError) as error:
                _logger.error("An instrument is left out: its record cannot be read: %s", error)
                self._instruments[position] = None
        return self._instruments[position]
