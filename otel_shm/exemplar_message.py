# SPDX-License-Identifier: Apache-2.0
"""Exemplars on their way to an exporter, from the process that sampled them to the one that collects.

They come out of reservoirs, which need not be the SDK's, and hold what instruments were given. What OTLP
cannot carry is left out here: an exporter would lose all the metrics with it.

A message is a row of entries: identity of the series (8 bytes), length (4 bytes), an OTLP Exemplar. What
comes out of the buffer is not trusted: an entry that cannot be read ends the message.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf.message import DecodeError
from opentelemetry.proto.metrics.v1.metrics_pb2 import Exemplar as ExemplarMessage
from opentelemetry.sdk.metrics import Exemplar

from otel_shm.amount import to_number
from otel_shm.attributes import clean_attributes, from_entries, to_entries

_ENTRY = struct.Struct("<QI")
_INT64 = range(-(2**63), 2**63)


def _ignore(_key: str, _error: Exception) -> None:
    """What OTLP cannot carry would not be exported either."""


def carriable_number(amount: Any) -> int | float:
    """An amount as OTLP carries it: an int of 64 bits, or a float."""
    number = to_number(amount)
    return number if isinstance(number, float) or number in _INT64 else float(number)


def _is_plain(value: object) -> bool:
    """True for what OTLP carries as it is; of the rest it has to be found out."""
    kind = type(value)
    if kind is int:
        return value in _INT64
    return kind in (bool, float, type(None)) or (kind is str and value.isascii())  # type: ignore[attr-defined]


def carriable(exemplar: Any) -> Exemplar:
    """An exemplar as OTLP can carry it.

    Raises:
        Exception: it is none, or has ids or a time that are none.
    """
    attributes = exemplar.filtered_attributes
    if attributes and not all(_is_plain(key) and _is_plain(attributes[key]) for key in attributes):
        attributes = from_entries(to_entries(clean_attributes(attributes), _ignore).values)
    for number, size in (
        (exemplar.time_unix_nano, 8),
        (exemplar.span_id or 0, 8),
        (exemplar.trace_id or 0, 16),
    ):
        number.to_bytes(size, "big")
    return Exemplar(
        attributes,
        carriable_number(exemplar.value),
        exemplar.time_unix_nano,
        exemplar.span_id,
        exemplar.trace_id,
    )


def to_message(exemplars: Mapping[int, Iterable[Exemplar]], room: int) -> tuple[bytes, int]:
    """As many exemplars that OTLP can carry, by series, as there is room for.

    Returns: the message, and how many were left out.
    """
    parts: list[bytes] = []
    used = left_out = 0
    for record, sampled in exemplars.items():
        for exemplar in sampled:
            encoded = _encode(exemplar)
            if used + _ENTRY.size + len(encoded) > room:
                left_out += 1
                continue
            parts += [_ENTRY.pack(record, len(encoded)), encoded]
            used += _ENTRY.size + len(encoded)
    return b"".join(parts), left_out


def _encode(exemplar: Exemplar) -> bytes:
    attributes = to_entries(exemplar.filtered_attributes or {})
    message = ExemplarMessage(
        filtered_attributes=attributes.values, time_unix_nano=exemplar.time_unix_nano
    )
    if exemplar.span_id is not None and exemplar.trace_id is not None:
        message.span_id = exemplar.span_id.to_bytes(8, "big")
        message.trace_id = exemplar.trace_id.to_bytes(16, "big")
    if isinstance(exemplar.value, int):
        message.as_int = exemplar.value
    else:
        message.as_double = exemplar.value
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
    value: Any = message.as_int if message.WhichOneof("value") == "as_int" else message.as_double
    # With an identifier of another length a whole export would fail.
    in_span = len(message.span_id) == 8 and len(message.trace_id) == 16
    return Exemplar(
        from_entries(message.filtered_attributes),
        value,
        message.time_unix_nano,
        int.from_bytes(message.span_id, "big") if in_span else None,
        int.from_bytes(message.trace_id, "big") if in_span else None,
    )
