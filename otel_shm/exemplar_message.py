# SPDX-License-Identifier: Apache-2.0
"""Exemplars on their way from the process that sampled them to the one that collects.

A message is a row of entries: position of the series (8 bytes), length (4 bytes), an OTLP Exemplar. What
comes out of the buffer is not trusted: an entry that cannot be read ends the message.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf.message import DecodeError
from opentelemetry.proto.metrics.v1.metrics_pb2 import Exemplar as ExemplarMessage
from opentelemetry.sdk.metrics import Exemplar

from otel_shm.attributes import clean_attributes, from_entries, to_entries

_ENTRY = struct.Struct("<QI")


def _ignore(_key: str, _error: Exception) -> None:
    """What OTLP cannot carry would not be exported either."""


def to_message(exemplars: Mapping[int, Iterable[Exemplar]], room: int) -> tuple[bytes, int]:
    """As many exemplars, by series, as there is room for.

    Returns: the message, and how many were left out.
    """
    parts: list[bytes] = []
    used = left_out = 0
    for record, sampled in exemplars.items():
        for exemplar in sampled:
            encoded = _encode(exemplar)
            if encoded is None or used + _ENTRY.size + len(encoded) > room:
                left_out += 1
                continue
            parts += [_ENTRY.pack(record, len(encoded)), encoded]
            used += _ENTRY.size + len(encoded)
    return b"".join(parts), left_out


def _encode(exemplar: Exemplar) -> bytes | None:
    attributes = to_entries(clean_attributes(exemplar.filtered_attributes or {}), _ignore)
    message = ExemplarMessage(
        filtered_attributes=attributes.values, time_unix_nano=exemplar.time_unix_nano
    )
    if exemplar.span_id is not None and exemplar.trace_id is not None:
        message.span_id = exemplar.span_id.to_bytes(8, "big")
        message.trace_id = exemplar.trace_id.to_bytes(16, "big")
    try:
        if isinstance(exemplar.value, int):
            message.as_int = int(exemplar.value)
        else:
            message.as_double = float(exemplar.value)
    except (ValueError, TypeError, OverflowError):
        return None
    return message.SerializeToString()


def from_message(message: bytes) -> dict[int, list[Exemplar]]:
    """The exemplars of a message, by series."""
    found: dict[int, list[Exemplar]] = {}
    at = 0
    while at + _ENTRY.size <= len(message):
        record, length = _ENTRY.unpack_from(message, at)
        at += _ENTRY.size
        if length > len(message) - at:
            break
        try:
            exemplar = _decode(ExemplarMessage.FromString(message[at : at + length]))
        except DecodeError:
            break
        found.setdefault(record, []).append(exemplar)
        at += length
    return found


def _decode(message: ExemplarMessage) -> Exemplar:
    if len(message.span_id) not in (0, 8) or len(message.trace_id) not in (0, 16):
        raise DecodeError("an identifier of another length")  # with it the whole export would fail
    value: Any = message.as_int if message.WhichOneof("value") == "as_int" else message.as_double
    return Exemplar(
        from_entries(message.filtered_attributes),
        value,
        message.time_unix_nano,
        int.from_bytes(message.span_id, "big") if message.span_id else None,
        int.from_bytes(message.trace_id, "big") if message.trace_id else None,
    )
