# SPDX-License-Identifier: Apache-2.0
"""Attributes are made legal as the SDK does it, and both encoders write the same bytes."""

from __future__ import annotations

import collections
import enum
import logging
import platform
import struct
import types
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from buffers import claim_stream
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry import attributes as sdk_attributes
from opentelemetry.proto.common.v1.common_pb2 import KeyValueList
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from points import exact
from sdk_version import todays_sdk

import otel_shm
from otel_shm.attributes import clean_attributes, decode_attributes, encode_attributes
from otel_shm.description import Description
from otel_shm.metadata import InstrumentIdentity

Encode = Callable[[Mapping[str, Any]], bytes]


class Shown:
    """A value with a text of its own."""

    def __str__(self) -> str:
        return "shown"


class Represented:
    """A value whose text is its representation."""

    def __repr__(self) -> str:
        return "represented"


class Color(str, enum.Enum):
    """A str that is more than a str."""

    RED = "red"


class Level(enum.IntEnum):
    """An int that is more than an int."""

    ONE = 1


TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
INT64 = st.integers(-(2**63), 2**63 - 1)
SCALARS = st.none() | st.booleans() | INT64 | st.floats() | TEXT | st.binary(max_size=12)
KEYS = TEXT.filter(bool)
CLEAN = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4).map(tuple) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)
CLEAN_ATTRIBUTES = st.dictionaries(KEYS, CLEAN, max_size=20)

ANY_KEYS = st.one_of(TEXT, st.none(), st.integers(-3, 3), st.booleans(), st.just(Color.RED))
ANY = st.recursive(
    st.one_of(
        SCALARS,
        st.integers(),
        st.sampled_from([Shown(), Represented(), object(), Color.RED, Level.ONE, 1j, range(3)]),
        st.builds(bytearray, st.binary(max_size=4)),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.lists(inner, max_size=3).map(collections.deque),
        st.dictionaries(ANY_KEYS, inner, max_size=3),
        st.dictionaries(ANY_KEYS, inner, max_size=3).map(types.MappingProxyType),
        st.dictionaries(ANY_KEYS, inner, max_size=3).map(collections.OrderedDict),
    ),
    max_leaves=8,
)


class Lines(logging.Handler):
    """Keeps what is logged: level and text."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps one line."""
        self.lines.append((record.levelno, record.getMessage()))


def with_log(function: Callable[[], Any]) -> tuple[str, list[tuple[int, str]]]:
    """What a function returns, types and all, and what it logs meanwhile."""
    logger, handler = logging.getLogger("opentelemetry.attributes"), Lines()
    logger.addHandler(handler)
    try:
        return repr(function()), handler.lines
    finally:
        logger.removeHandler(handler)


@todays_sdk
@given(st.dictionaries(ANY_KEYS, ANY, max_size=5))
def test_cleaned_as_the_sdk_does(attributes: dict[Any, Any]) -> None:
    """Whatever comes, result and log lines are those of the SDK's own cleaning."""
    ours = with_log(lambda: clean_attributes(attributes))
    assert ours == with_log(lambda: sdk_attributes._clean_attribute_value(attributes, None))


def test_cleaned_containers_are_new() -> None:
    """What the caller does to its dicts and lists later changes nothing."""
    inner = {"list": [1, 2]}
    cleaned = clean_attributes({"inner": inner})
    inner["list"].append(3)
    inner["more"] = [4]
    assert cleaned == {"inner": {"list": (1, 2)}}


def test_exception_of_a_text_reaches_the_caller() -> None:
    """As with the SDK, `__str__` of a strange value may raise through."""

    class Broken:
        def __str__(self) -> str:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        clean_attributes({"a": Broken()})


@pytest.fixture(scope="module")
def c_encode() -> Encode:
    """The encoder in C: claims a series with an instrument and reads its key from the buffer."""
    if platform.python_implementation() == "PyPy":
        pytest.skip("the C types are for CPython")
    from otel_shm import _fast

    buffer = otel_shm.Buffer(series=100_000)
    identity = InstrumentIdentity("c", "", "")
    described = Description("Counter", identity, InstrumentationScope("s"))
    counter = _fast.Counter(buffer, buffer.address, described, ((claim_stream(buffer), None),))
    return lambda attributes: buffer.record_key(counter.bind(attributes)._series)


@settings(max_examples=300)
@given(attributes=CLEAN_ATTRIBUTES)
def test_c_writes_the_bytes_of_protobuf(c_encode: Encode, attributes: dict[str, Any]) -> None:
    """Nested, mixed, in any script: byte for byte what protobuf serialises, in any order."""
    expected = encode_attributes(attributes)
    assert c_encode(attributes) == expected
    assert c_encode(dict(reversed(attributes.items()))) == expected


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {f"key{n}": n for n in range(17)},  # more than the encoder keeps on its stack
        {f"key{n}": f"value{n}" for n in range(1000)},
        {"long": "x" * 127},  # around the lengths where a varint grows
        {"long": "x" * 128},
        {"long": "ü" * 8192, "after": 1},
        {"bytes": bytes(range(256)) * 80},
        {"nested": {"in": {"in": ("x" * 16384, {"k": "y" * 20000})}}, "z": (1,)},
        {"empty": (), "none": None, "map": {}, "text": "", "bytes": b"", "nones": (None, None)},
        {"a": 1, "ä": 2, "z": 3, "€": 4, "\U0001f600": 5, "Z": 6, "aa": 7},
        {"zero": "a\0b", "\0": 1, "a\0": 2},
        {"min": -(2**63), "max": 2**63 - 1, "minus": -1, "seven": 127, "eight": 128},
        {"nan": float("nan"), "minus": -float("nan"), "in": (float("nan"), -0.0)},
        {"huge": 1.8e308 * 0.99, "tiny": 5e-324, "inf": float("inf"), "-inf": float("-inf")},
        {"true": True, "false": False, "mixed": (1, True, 1.0, "1", b"1", None)},
        {"enum": Color.RED, "level": Level.ONE, "in": (Color.RED, {"k": Level.ONE})},
    ],
    ids=lambda attributes: f"{len(attributes)} {next(iter(attributes), '')!a}"[:20],
)
def test_c_writes_the_bytes_of_protobuf_at_edges(
    c_encode: Encode, attributes: dict[str, Any]
) -> None:
    """Edges of lengths, numbers and sorting, which random inputs rarely hit."""
    assert c_encode(attributes) == encode_attributes(attributes)
    assert exact(decode_attributes(c_encode(attributes))) == exact(plain(attributes))


def plain(value: Any) -> Any:
    """Without subclasses and negative zeros: what comes back out of the bytes."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(plain(item) for item in value)
    if isinstance(value, enum.Enum):
        return value.value
    return value + 0.0 if isinstance(value, float) else value


@pytest.mark.parametrize("encode", ["c", "protobuf"])
def test_equal_values_are_one_key(encode: str, request: pytest.FixtureRequest) -> None:
    """0.0 and -0.0 are one, all NaNs are one, and the order of keys plays no part at any level."""
    key = request.getfixturevalue("c_encode") if encode == "c" else encode_attributes
    other_nan = struct.unpack("<d", struct.pack("<Q", 0xFFF8_0000_0000_0001))[0]
    assert key({"a": 0.0}) == key({"a": -0.0})
    assert key({"a": float("nan")}) == key({"a": other_nan}) == key({"a": -float("nan")})
    assert key({"a": {"x": 1, "y": (0.0,)}}) == key({"a": {"y": (-0.0,), "x": 1}})


@pytest.mark.parametrize("encode", ["c", "protobuf"])
def test_different_values_are_different_keys(encode: str, request: pytest.FixtureRequest) -> None:
    """Types count, and so does every level of nesting."""
    key = request.getfixturevalue("c_encode") if encode == "c" else encode_attributes
    different = [1, True, 1.0, "1", b"1", (1,), (True,), ((1,),), {"1": 1}, {"1": True}]
    different += [None, (), (None,), {}, "", b"", 0, False, 0.0, (1, 1), {"1": (1,)}]
    assert len({key({"a": value}) for value in different} | {key({})}) == len(different) + 1


@given(attributes=CLEAN_ATTRIBUTES)
def test_bytes_come_back_as_attributes(attributes: dict[str, Any]) -> None:
    """Decoding gives the attributes again, types included; the entries are sorted at each level."""
    key = encode_attributes(attributes)
    assert exact(decode_attributes(key)) == exact(plain(attributes))
    names = [entry.key for entry in KeyValueList.FromString(key).values]
    assert names == sorted(attributes)


@pytest.mark.parametrize(
    "value",
    [2**63, -(2**63) - 1, 10**400, "\ud800", (1, 2**63), {"k": "\udfff"}, {"\ud800": 1}],
    ids=ascii,
)
def test_what_otlp_cannot_carry_is_told_and_left_out(value: Any) -> None:
    """An int past 64 bits or a lone surrogate costs its own entry only."""
    dropped: list[str] = []
    key = encode_attributes(
        {"a": 1, "bad": value, "z": 2}, lambda name, _error: dropped.append(name)
    )
    assert decode_attributes(key) == {"a": 1, "z": 2}
    assert dropped == ["bad"]
    with pytest.raises((ValueError, TypeError, OverflowError)):
        encode_attributes({"bad": value})


@pytest.mark.parametrize("depth", [10, *range(44, 54), 200])
def test_what_is_nested_too_deep_is_told_and_left_out(depth: int, c_encode: Encode) -> None:
    """What protobuf would refuse to read again, 100 messages deep, is told and is no part of the key."""
    value: Any = 1
    for _ in range(depth):
        value = (value,)
    attributes = {"a": 1, "deep": value}
    dropped: list[str] = []
    key = encode_attributes(attributes, lambda name, _error: dropped.append(name))
    assert decode_attributes(key) == ({"a": 1} if dropped else attributes)
    assert c_encode(attributes) == key
    assert dropped or depth <= 50
    assert not dropped or depth > 10
