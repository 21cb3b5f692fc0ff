# SPDX-License-Identifier: Apache-2.0
"""Streams and their series through cffi: for observables, and for instruments that are no C types."""

from __future__ import annotations

from typing import Any

from otel_shm._core import ffi, lib
from otel_shm.buffer import AGGREGATION_LAST, AGGREGATION_SUM, Buffer
from otel_shm.errors import BufferFormatError
from otel_shm.held import Held, hold

_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1


def _is_int64(amount: int | float) -> bool:
    return isinstance(amount, int) and _INT64_MIN <= amount <= _INT64_MAX


def _close(handle: Any, _mapping: Held) -> None:
    lib.oshm_stream_close(handle)


def _release(target: Any, _mapping: Held) -> None:
    lib.oshm_target_release(target)


class Stream:
    """What this process keeps of a stream, to measure in it.

    Args:
        buffer: where its record is.
        record: position of that; 0 for a stream that had no room, in which everything is dropped.

    Raises:
        BufferFormatError: the record is damaged.
    """

    __slots__ = ("_buffer", "_handle", "_held", "aggregation", "record")

    def __init__(self, buffer: Buffer, record: int) -> None:
        out = ffi.new("struct oshm_stream **")
        if lib.oshm_stream_open(buffer._handle, record, out) != lib.OSHM_OK:
            raise BufferFormatError(f"the buffer is damaged: no stream at {record}")
        self._handle = out[0]
        self._held = hold(_close, out[0], buffer._held)
        self._buffer = buffer
        self.record = record
        self.aggregation = buffer.record_aggregation(record) if record else AGGREGATION_SUM

    def claim(self, key: bytes, *, measured: bool) -> tuple[Series, int]:
        """Where the series of encoded attributes adds, and 0 or why it has no slots of its own."""
        target = ffi.new("oshm_target *")
        status = lib.oshm_series_claim(self._handle, key, len(key), measured, target)
        return Series(self, target), int(status)


class Series:
    """Where one series adds: its run of slots. Held until it goes."""

    __slots__ = ("_held", "_stream", "_target", "record")

    def __init__(self, stream: Stream, target: Any) -> None:
        self._stream = stream
        self._target = target
        self._held = hold(_release, target, stream._buffer._held)
        #: Position of the series' record; 0 if the buffer had no room for anything.
        self.record: int = target.series

    @property
    def identity(self) -> int:
        """Tells the series, while it is held, from others that have or had its record; 0 as `record`."""
        return self._stream._buffer.series_identity(self.record) if self.record else 0

    def start(self) -> None:
        """Notes the first measurement; further calls change nothing."""
        lib.oshm_series_start(self._target)

    @property
    def retires(self) -> bool:
        """True if it is to be let go: no reader needs it any more."""
        return bool(lib.oshm_target_retires(self._target))

    def measure(self, amount: int | float) -> int:
        """Adds, sets or records, as the stream aggregates. Returns 0 or why it went elsewhere."""
        if _is_int64(amount):
            return int(lib.oshm_aggregate_int(self._target, amount))
        return int(lib.oshm_aggregate_float(self._target, amount))

    def observe(self, amount: int | float, collection: int, share: Share) -> None:
        """Publishes what an observable's callbacks said in one collection.

        Args:
            amount: absolute, as they said it.
            collection: its number.
            share: of this process in this series.
        """
        whole, real = (amount, 0.0) if _is_int64(amount) else (0, float(amount))
        is_float = whole == 0 and not _is_int64(amount)
        if self._stream.aggregation == AGGREGATION_LAST:
            lib.oshm_observe_last(self._target, collection, whole, real, is_float)
        else:
            lib.oshm_observe_sum(self._target, share.remembered, collection, whole, real, is_float)


class Share:
    """What one process remembers of its share in a sum that it observes."""

    __slots__ = ("remembered",)

    def __init__(self) -> None:
        self.remembered = ffi.new("oshm_share *")
