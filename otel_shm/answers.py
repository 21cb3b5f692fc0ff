# SPDX-License-Identifier: Apache-2.0
"""Asking the other processes at a collection, and answering, through cffi: see csrc/answers.c."""

from __future__ import annotations

from otel_shm._core import ffi, lib
from otel_shm.buffer import Buffer

_MAILBOX_BYTES: int = lib.OSHM_MAILBOX_BYTES
#: Bytes that a message may have.
MAILBOX_ROOM: int = _MAILBOX_BYTES - ffi.sizeof("oshm_mailbox")


def announce(buffer: Buffer, *, answers: bool) -> None:
    """Says that this process answers to each collection from now on, or does no more."""
    lib.oshm_answers_announce(buffer._handle, answers)


def wait_for_collection(buffer: Buffer, collection: int, milliseconds: int) -> int:
    """Sleeps until a collection after this one is begun, or the time is over.

    Returns: the number of the last one begun.
    """
    return int(lib.oshm_collection_wait(buffer._handle, collection, milliseconds))


def wake(buffer: Buffer) -> None:
    """Wakes all who sleep in `wait_for_collection`."""
    lib.oshm_collection_wake(buffer._handle)


def answer(buffer: Buffer, collection: int, message: bytes) -> bool:
    """Answers to a collection. Returns False if there was no room for the message."""
    return bool(lib.oshm_answer(buffer._handle, collection, message, len(message)) == lib.OSHM_OK)


class Questions:
    """The collector's side: whom to wait for, and what they said.

    Args:
        buffer: that the processes share.
    """

    def __init__(self, buffer: Buffer) -> None:
        self._buffer = buffer
        self._lanes = lib.oshm_buffer_header(buffer._handle).lanes
        self._late = ffi.new("uint64_t[]", self._lanes)
        self._message = ffi.new("uint8_t[]", _MAILBOX_BYTES)

    def wait(self, collection: int, milliseconds: int) -> int:
        """Waits until the living have answered. Returns how many have not."""
        return int(
            lib.oshm_answers_wait(self._buffer._handle, collection, milliseconds, self._late)
        )

    def messages(self) -> list[bytes]:
        """Takes what the others left in their mailboxes, for this collection or since the last."""
        header = lib.oshm_buffer_header(self._buffer._handle)
        found = []
        for lane in range(1, min(header.lanes_used, self._lanes)):
            length = lib.oshm_mailbox_take(self._buffer._handle, lane, self._message)
            if length:
                found.append(bytes(ffi.buffer(self._message, length)))
        return found
