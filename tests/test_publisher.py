# SPDX-License-Identifier: Apache-2.0
"""The thread that answers to the collections of other processes."""

from __future__ import annotations

from buffers import SMALL

from otel_shm.buffer import Buffer
from otel_shm.publisher import Publisher


class Answering:
    """Notes which collections were to be answered."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def answer(self, collection: int) -> bytes:
        """Notes one."""
        self.asked.append(collection)
        return b""


def test_own_collections_are_not_answered() -> None:
    """Nor are those that began before the last own one, when the thread comes to them late."""
    buffer, answering = Buffer(**SMALL), Answering()
    publisher = Publisher(buffer, answering.answer)
    own = [publisher.begin_collection() for _ in range(3)]
    theirs = buffer.begin_collection()
    for collection in (own[0], own[1], theirs, own[2]):
        publisher.serve(collection)
    assert answering.asked == [theirs]
