# SPDX-License-Identifier: Apache-2.0
"""Exemplars as bytes: all of them comes back, as much as there is room for, and garbage harms nobody."""

from __future__ import annotations

import decimal
import fractions
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.metrics.v1.metrics_pb2 import Exemplar as ExemplarMessage
from opentelemetry.sdk.metrics import Exemplar
from points import exact

from otel_shm.exemplar_message import carriable, from_message, to_message

ROOM = 2**20

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
finite = st.floats(allow_nan=False)
plain = st.one_of(
    texts, st.booleans(), st.integers(-(2**63), 2**63 - 1), finite, st.binary(max_size=9), st.none()
)
anything = st.recursive(
    plain,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(texts.filter(bool), inner, max_size=3),
    ),
    max_leaves=6,
)
ids = st.integers(1, 2**64 - 1)
exemplars = st.builds(
    Exemplar,
    st.dictionaries(texts.filter(bool), anything, max_size=3),
    st.one_of(st.integers(-(2**63), 2**63 - 1), finite),
    st.integers(0, 2**64 - 1),
    ids,
    st.integers(1, 2**128 - 1),
)
by_series = st.dictionaries(st.integers(0, 2**64 - 1), st.lists(exemplars, min_size=1, max_size=4))


def same(found: dict[int, list[Exemplar]], expected: dict[int, list[Exemplar]]) -> bool:
    """True if both have the same exemplars, by series and in order; 1 is not 1.0, -0.0 is 0.0."""
    return exact(rounded(found)) == exact(rounded(expected))


def rounded(by_series: dict[int, list[Exemplar]]) -> dict[str, list[Any]]:
    """As `exact` takes it, without negative zeros in attributes."""
    return {
        str(series): [exact(each.__dict__).replace("-0.0", "0.0") for each in listed]
        for series, listed in by_series.items()
    }


@settings(max_examples=50)
@given(by_series)
def test_round_trip(sampled: dict[int, list[Exemplar]]) -> None:
    """All that OTLP can carry comes back as it was, with its type."""
    message, left_out = to_message(sampled, ROOM)
    assert left_out == 0
    assert same(from_message(message), sampled)
    for listed in sampled.values():
        assert same({0: list(map(carriable, listed))}, {0: listed})


@settings(max_examples=50)
@given(by_series, st.integers(0, 600))
def test_as_much_as_there_is_room_for(sampled: dict[int, list[Exemplar]], room: int) -> None:
    """The message never has more bytes, and what is in it is complete."""
    message, left_out = to_message(sampled, room)
    assert len(message) <= room
    found = from_message(message)
    assert sum(map(len, found.values())) + left_out == sum(map(len, sampled.values()))
    for series, listed in found.items():
        assert set(rounded({0: listed})["0"]) <= set(rounded({0: sampled[series]})["0"])


def test_span_may_be_missing() -> None:
    """A measurement outside of a span has no ids; one of them alone is none."""
    none = Exemplar({}, 1, 2, None, None)
    assert same(from_message(to_message({3: [none]}, ROOM)[0]), {3: [none]})
    for half in (Exemplar({}, 1, 2, 5, None), Exemplar({}, 1, 2, None, 5)):
        assert same(from_message(to_message({3: [half]}, ROOM)[0]), {3: [none]})


@given(st.binary(max_size=300))
def test_garbage_never_raises(garbage: bytes) -> None:
    """What cannot be read ends the message."""
    from_message(garbage)
    good = to_message({7: [Exemplar({"a": 1}, 2, 3, 4, 5)]}, ROOM)[0]
    assert same({7: from_message(good + garbage)[7][:1]}, from_message(good))


@settings(max_examples=50)
@given(by_series, st.data())
def test_damaged_message_never_raises(
    sampled: dict[int, list[Exemplar]], data: st.DataObject
) -> None:
    """Bytes that were changed, or cut off, give exemplars of the right types or none."""
    message = bytearray(to_message(sampled, ROOM)[0])
    for _ in range(data.draw(st.integers(0, 4))):
        if message:
            at = data.draw(st.integers(0, len(message) - 1))
            message[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(message)))
    for listed in from_message(bytes(message[:cut])).values():
        for exemplar in listed:
            assert isinstance(exemplar.value, (int, float))
            assert isinstance(exemplar.filtered_attributes, dict)


def test_ids_of_a_wrong_length() -> None:
    """An id that is none in a message of somebody else's making does not get out."""
    for span, trace in ((b"\1" * 9, b"\1" * 16), (b"\1" * 8, b"\1" * 17), (b"\1", b"\1")):
        encoded = ExemplarMessage(as_int=1, span_id=span, trace_id=trace).SerializeToString()
        entry = struct.pack("<QI", 7, len(encoded)) + encoded
        (exemplar,) = from_message(entry)[7]
        assert (exemplar.span_id, exemplar.trace_id) == (None, None)


@pytest.mark.parametrize(
    ("amount", "expected"),
    [
        (True, 1),
        (2**63 - 1, 2**63 - 1),
        (2**63, 2.0**63),
        (-(2**63) - 1, -(2.0**63)),
        (decimal.Decimal("0.5"), 0.5),
        (fractions.Fraction(1, 4), 0.25),
    ],
    ids=str,
)
def test_odd_amounts(amount: Any, expected: Any) -> None:
    """They become what OTLP carries."""
    assert exact(carriable(Exemplar(None, amount, 1, None, None)).value) == exact(expected)


def test_odd_attributes() -> None:
    """What OTLP cannot carry is left out; what can be made legal is."""
    odd: dict[Any, Any] = {"big": 2**64, "text": "ä", "list": ["a", 1], 5: "five", "lone": "\ud800"}
    made = carriable(Exemplar(odd, 1, 1, None, None))
    assert made.filtered_attributes == {"text": "ä", "list": ("a", 1), "5": "five"}
    assert carriable(Exemplar(None, 1, 1, None, None)).filtered_attributes is None


@pytest.mark.parametrize(
    "odd",
    [
        None,
        5,
        Exemplar(5, 1, 1, None, None),
        Exemplar({}, "x", 1, None, None),
        Exemplar({}, None, 1, None, None),
        Exemplar({}, 1, -1, None, None),
        Exemplar({}, 1, 2**64, None, None),
        Exemplar({}, 1, "now", None, None),
        Exemplar({}, 1, 1, 2**64, 1),
        Exemplar({}, 1, 1, 1, 2**128),
        Exemplar({}, 1, 1, -1, 1),
        Exemplar({}, 1, 1, "id", 1),
    ],
    ids=repr,
)
def test_what_is_no_exemplar(odd: Any) -> None:
    """It raises here, before an exporter meets it."""
    with pytest.raises((TypeError, ValueError, OverflowError, AttributeError)):
        carriable(odd)
