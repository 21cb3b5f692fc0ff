# SPDX-License-Identifier: Apache-2.0
"""What the records behind the rows of a scan say, decoded once, whichever process wrote them."""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from otel_shm.attributes import decode_attributes
from otel_shm.buffer import (
    AGGREGATION_EXPLICIT,
    COUNTER,
    HISTOGRAM,
    LIVE_SUM,
    OBSERVABLE_COUNTER,
    Buffer,
)
from otel_shm.errors import OtelShmError
from otel_shm.folds import WORKER
from otel_shm.metadata import scope_from_key
from otel_shm.reader_settings import ReaderSettings
from otel_shm.readings import Row
from otel_shm.streams import StreamIdentity, aggregated, stream_from_key

_logger = logging.getLogger(__name__)
_MONOTONIC = frozenset({COUNTER, OBSERVABLE_COUNTER})
_UNREADABLE = (OtelShmError, DecodeError, struct.error, ValueError)


class Stream(NamedTuple):
    """A stream as its record says."""

    instrument: int  # its record
    scope: InstrumentationScope
    kind: int
    fold: int
    identity: StreamIdentity
    advised: tuple[float, ...] | None  # boundaries, by its instrument

    @property
    def is_monotonic(self) -> bool:
        """True if its sums never fall: not even when a process dies."""
        return self.kind in _MONOTONIC and self.fold != LIVE_SUM

    def suits(self, settings: ReaderSettings) -> bool:
        """True if a reader with these settings gets it: others have another default aggregation."""
        if not self.identity.is_default:
            return True
        wanted = aggregated(settings.aggregation[self.kind], self.kind, self.advised)
        return wanted == self.identity.aggregated


class Catalog:
    """The streams of a buffer, and the attributes of its series.

    Args:
        buffer: whose records are read.
    """

    def __init__(self, buffer: Buffer) -> None:
        self._buffer = buffer
        self._scopes: dict[int, InstrumentationScope] = {}  # this process's own, by record
        self.forget()

    def forget(self) -> None:
        """Reads everything anew from now on; for a scanner that is new."""
        self._streams: dict[int, Stream | None] = {}
        # By record; the record of a series that was retired may become another one's.
        self._attributes: dict[int, tuple[int, dict[str, Any] | None]] = {}
        self._of_lanes: dict[tuple[int, int, int], dict[str, Any] | None] = {}

    def register_scope(self, record: int, scope: InstrumentationScope) -> None:
        """Data of the scope behind a record is given out under this very object."""
        self._scopes.setdefault(record, scope)

    def attributes(self, series: int, generation: int) -> dict[str, Any] | None:
        """The attributes of a series of this generation; None if they cannot be read."""
        known = self._attributes.get(series)
        if known is None or known[0] != generation:
            known = (generation, self._read_attributes(series))
            self._attributes[series] = known
        return known[1]

    def attributes_of_lane(self, row: Row) -> dict[str, Any] | None:
        """The attributes of the row of a single lane: the series' and the lane's number."""
        key = (row.series, row.generation, row.lane)
        if key not in self._of_lanes:
            attributes = self._read_attributes(row.series)
            self._of_lanes[key] = None if attributes is None else {**attributes, WORKER: row.lane}
        return self._of_lanes[key]

    def _read_attributes(self, series: int) -> dict[str, Any] | None:
        try:
            return decode_attributes(self._buffer.record_key(series))
        except _UNREADABLE as error:
            _logger.error("A series is left out: its record cannot be read: %s", error)
            return None

    def stream(self, record: int) -> Stream | None:
        """The stream behind a record; None if it cannot be read."""
        if record not in self._streams:
            try:
                self._streams[record] = self._read_stream(record)
            except _UNREADABLE as error:
                _logger.error("A metric is left out: its record cannot be read: %s", error)
                self._streams[record] = None
        return self._streams[record]

    def wanted(
        self, records: Iterable[int], settings: ReaderSettings
    ) -> Iterator[tuple[int, Stream]]:
        """Those streams that a reader with these settings gets."""
        found = [(record, self.stream(record)) for record in records]
        streams = [(record, stream) for record, stream in found if stream is not None]
        suited = {stream.instrument for _, stream in streams if stream.suits(settings)}
        for record, stream in streams:
            if stream.suits(settings):
                yield record, stream
            elif settings.takes_any and stream.instrument not in suited:
                suited.add(stream.instrument)
                yield record, stream

    def _read_stream(self, record: int) -> Stream:
        buffer = self._buffer
        instrument = buffer.record_parent(record)
        scope = buffer.record_parent(instrument)
        kind = buffer.record_kind(record)
        identity = stream_from_key(buffer.record_key(record), buffer.record_aggregation(record))
        advised = tuple(buffer.boundaries(instrument)) if kind == HISTOGRAM else None
        if (
            not advised
            and identity.is_default
            and identity.aggregated.aggregation == AGGREGATION_EXPLICIT
            and not identity.aggregated.boundaries
        ):
            advised = ()  # a histogram that advises no boundaries at all: one bucket
        elif not advised:
            advised = None
        return Stream(
            instrument,
            self._scopes.get(scope) or scope_from_key(buffer.record_key(scope)),
            kind,
            buffer.record_fold(record),
            identity,
            advised,
        )
