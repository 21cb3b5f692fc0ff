# SPDX-License-Identifier: Apache-2.0
"""Exemplars as messages from process to process: they read back, and what is no message hurts nobody."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from buffers import SMALL
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common._internal.metrics_encoder import _encode_exemplars
from opentelemetry.proto.metrics.v1.metrics_pb2 import Exemplar as ExemplarMessage
from opentelemetry.sdk.metrics import Exemplar
from processes import Processes, processes

from otel_shm import answers
from otel_shm.buffer import Buffer
from otel_shm.exemplar_message import carriable, from_message, to_message

__all__ = ["processes"]

ROOM = answers.MAILBOX_ROOM
TRACE, SPAN = 2**128 - 1, 2**63 + 5


def exemplar(value: Any = 1.5, **attributes: Any) -> Exemplar:
    """One that was sampled in a span."""
    return Exemplar(attributes, value, 10**18, SPAN, TRACE)


exemplars = st.builds(
    Exemplar,
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5),
        st.one_of(st.integers(-(2**63), 2**63 - 1), st.booleans(), st.text(max_size=5)),
        max_size=3,
    ),
    st.one_of(st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False)),
    st.integers(0, 2**64 - 1),
    st.integers(1, 2**64 - 1),
    st.integers(1, TRACE),
)
outside_spans = st.builds(Exemplar, st.just({}), st.just(1), st.just(5), st.none(), st.none())


some = st.lists(exemplars | outside_spans, min_size=1, max_size=3)


@given(st.dictionaries(st.integers(1, 2**64 - 1), some))
def test_message_reads_back(sampled: dict[int, list[Exemplar]]) -> None:
    """Value with its type, time, span and attributes, by series and in order."""
    message, left_out = to_message(sampled, ROOM)
    assert left_out == 0
    again = from_message(message)
    assert again == sampled
    values = [[each.value for each in series] for series in sampled.values()]
    assert repr([[each.value for each in series] for series in again.values()]) == repr(values)


def test_what_has_no_room_is_left_out() -> None:
    """As many as fit; larger ones go before smaller ones do not stop those."""
    sampled = {n: [exemplar(text="x" * (1000 if n == 2 else 10))] for n in range(1, 6)}
    one = len(to_message({1: sampled[1]}, ROOM)[0])
    for fitting in range(5):
        message, left_out = to_message(sampled, one * fitting + 5)
        assert left_out == 5 - fitting
        assert list(from_message(message)) == [1, 3, 4, 5][:fitting]


def test_amounts_are_made_carriable() -> None:
    """An int past 64 bits is sent as a double."""
    value = carriable(exemplar(2**64)).value
    assert (type(value), value) == (float, 2.0**64)


@pytest.mark.parametrize("value", [object(), None, "x"], ids=repr)
def test_what_is_no_amount_is_refused(value: Any) -> None:
    """By an error where it was sampled, before it is part of a message."""
    with pytest.raises((TypeError, ValueError)):
        carriable(exemplar(value))


@given(st.binary(max_size=200))
def test_any_bytes_are_read(message: bytes) -> None:
    """Up to where they are no message."""
    from_message(message)


@given(st.binary(max_size=40), st.binary(max_size=40), st.binary(max_size=20))
def test_what_is_read_can_be_exported(span: bytes, trace: bytes, rest: bytes) -> None:
    """Identifiers of another length would make a whole export fail."""
    odd = ExemplarMessage(as_int=1, span_id=span, trace_id=trace).SerializeToString()
    good = ExemplarMessage(as_int=2, span_id=b"s" * 8, trace_id=b"t" * 16).SerializeToString()
    entries = (good, odd, good)
    message = b"".join(struct.pack("<QI", 7, len(entry)) + entry for entry in entries) + rest
    found = from_message(message)
    assert found[7][0].value == 2
    for each in found.values():
        _encode_exemplars(each)


# Mailboxes.


def test_message_is_for_one_collection(processes: Processes) -> None:
    """What a process left in its mailbox is read by the collector of that collection, and only then."""
    buffer = Buffer(**SMALL)
    questions = answers.Questions(buffer)
    collection = buffer.begin_collection()
    message, _ = to_message({5: [exemplar()]}, ROOM)

    def answer() -> bool:
        return answers.answer(buffer, collection, message)

    assert processes.fork(answer).result() is True
    assert questions.messages(collection) == [message]
    assert questions.messages(collection + 1) == questions.messages(collection - 1) == []
    assert questions.messages(0) == []


@pytest.mark.parametrize(
    ("length", "fits"), [(0, True), (1, True), (ROOM, True), (ROOM + 1, False)]
)
def test_length_of_a_message(processes: Processes, length: int, fits: bool) -> None:
    """One that is too long is not left there; the process has answered all the same."""
    buffer = Buffer(**SMALL)
    questions = answers.Questions(buffer)
    collection = buffer.begin_collection()

    def answer() -> bool:
        answers.announce(buffer, answers=True)
        return answers.answer(buffer, collection, b"x" * length)

    assert processes.fork(answer).result() is fits
    assert questions.messages(collection) == ([b"x" * length] if fits and length else [])
    assert questions.wait(collection, 0) == 0
