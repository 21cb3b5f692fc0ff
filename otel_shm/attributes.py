# SPDX-License-Identifier: Apache-2.0
"""Attributes: made legal as the SDK does it, and to and from the bytes of a series' key.

The bytes are an OTLP `KeyValueList` whose entries are sorted by key at every level. The C types write
the same bytes themselves (csrc/attribute_bytes.h); here protobuf does it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList

# The SDK's own logger and texts: what people filter and search for today.
_logger = logging.getLogger("opentelemetry.attributes")

# Containers in containers: what is deeper would exceed what protobuf libraries agree to read back
# (100 messages, and a container is two or three). As in csrc/attribute_bytes.h.
_DEPTH = 30


def _has_text(value: object) -> bool:
    """True if the type says how to show itself: the default "<X object at 0x...>" is no value."""
    kind = type(value)
    return kind.__str__ is not object.__str__ or kind.__repr__ is not object.__repr__


def clean_attributes(attributes: Mapping[Any, Any]) -> dict[str, Any]:
    """The attributes as the SDK (1.45.2) keeps them, in new containers that nobody else holds.

    Sequences become tuples and mappings dicts, at every level. An empty key is dropped, another key
    becomes its `str`; a value of any other type becomes its `str`, or None where it has none. Each of
    these is logged as a warning.

    Raises:
        Exception: whatever the `__str__` of a key or value raises.
    """
    cleaned: dict[str, Any] = {}
    for key, value in attributes.items():
        if not key:
            _logger.warning(
                "invalid attribute key `%s`. must be non-empty string. Dropping key from attributes.",
                key,
            )
            continue
        if not isinstance(key, str):
            _logger.warning(
                "Invalid type `%s` for attribute key `%s`, must be a str. Key's `__str__/__repr__` "
                "method will be called if it exists, otherwise the key/value pair will be dropped.",
                type(key),
                key,
            )
            if not _has_text(key):
                continue
            key = str(key)
        cleaned[key] = _clean_value(value)
    return cleaned


def _clean_value(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, bytes, str)):
        return value
    if isinstance(value, Sequence):
        return tuple(_clean_value(item) for item in value)
    if isinstance(value, Mapping):
        return clean_attributes(value)
    _logger.warning(
        "Invalid type `%s` for attribute value. Expected one of bool, str, None, bytes, int, float or a "
        "Mapping or Sequence of those types. Value's __str__ method will be called if it exists, "
        "otherwise the value will be replaced with None.",
        type(value),
    )
    return str(value) if _has_text(value) else None


def encode_attributes(
    attributes: Mapping[str, Any], dropped: Callable[[str, Exception], object] | None = None
) -> bytes:
    """The key bytes of clean attributes.

    Args:
        attributes: as `clean_attributes` returns them.
        dropped: is told of each entry that OTLP cannot carry (an int past 64 bits, a lone
            surrogate), which is left out.

    Raises:
        Exception: what protobuf says of such an entry, where `dropped` is not given.
    """
    return to_entries(attributes, dropped).SerializeToString()


def to_entries(
    attributes: Mapping[str, Any],
    dropped: Callable[[str, Exception], object] | None = None,
    depth: int = 0,
) -> KeyValueList:
    """As `encode_attributes`, the message itself. depth: of the containers around it."""
    entries = KeyValueList()
    for key in sorted(attributes):
        try:
            entries.values.append(KeyValue(key=key, value=_encode_value(attributes[key], depth)))
        except Exception as error:
            if dropped is None:
                raise
            dropped(key, error)
    return entries


def _encode_value(value: Any, depth: int) -> AnyValue:
    if value is None:
        return AnyValue()
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, str):
        return AnyValue(string_value=str.__str__(value))
    if isinstance(value, int):
        return AnyValue(int_value=int(value))
    if isinstance(value, float):
        # One NaN, and no negative zero: equal values are one series.
        return AnyValue(double_value=value + 0.0 if value == value else float("nan"))
    if isinstance(value, bytes):
        return AnyValue(bytes_value=value)
    if depth == _DEPTH:
        raise ValueError(f"nested deeper than {_DEPTH}")
    if isinstance(value, tuple):
        items = [_encode_value(item, depth + 1) for item in value]
        return AnyValue(array_value=ArrayValue(values=items))
    return AnyValue(kvlist_value=to_entries(value, depth=depth + 1))


def decode_attributes(key: bytes) -> dict[str, Any]:
    """The attributes behind a series' key bytes.

    Raises:
        google.protobuf.message.DecodeError: if the bytes are no `KeyValueList`.
    """
    return from_entries(KeyValueList.FromString(key).values)


def from_entries(entries: Iterable[KeyValue]) -> dict[str, Any]:
    """The attributes behind OTLP entries."""
    return {entry.key: _decode_value(entry.value) for entry in entries}


def _decode_value(value: AnyValue) -> Any:
    field = value.WhichOneof("value")
    if field is None:
        return None
    if field == "array_value":
        return tuple(_decode_value(item) for item in value.array_value.values)
    if field == "kvlist_value":
        return from_entries(value.kvlist_value.values)
    return getattr(value, field)
