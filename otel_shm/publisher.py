# SPDX-License-Identifier: Apache-2.0
"""The thread that answers when another process collects: callbacks and exemplars belong to their process.

It is started when there is something to answer with, and sleeps in between (csrc/answers.c). It keeps
nothing alive: it ends with what it answers for.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from types import BuiltinFunctionType

from otel_shm import answers, forks
from otel_shm.buffer import Buffer

_logger = logging.getLogger(__name__)
_OWN_REMEMBERED = 256
_SLEEP_MILLIS = 1000  # and then it looks whether it is still wanted
_WAKES = 50  # within that time, by who wants it to end
_GREEN_POLL_SECONDS = 0.02

# Reentrant: a finalizer or signal handler may come in the middle of anything.
_lock = threading.RLock()
# Those of one buffer have one lane, and so one entry: what that says is true of all of them.
_of_buffer: weakref.WeakKeyDictionary[Buffer, weakref.WeakSet[Publisher]]
_of_buffer = weakref.WeakKeyDictionary()

#: answer(collection) -> message for the collector process.
Answer = Callable[[int], bytes]


class Publisher:
    """Answers to the collections of other processes.

    Args:
        buffer: that they share.
        answer: a method that is called with the number of each collection that this process has not
            begun itself, in the thread.
    """

    def __init__(self, buffer: Buffer, answer: Answer) -> None:
        self._buffer = buffer
        self._answer = weakref.WeakMethod(answer)
        self._wanted = False
        self._has_ended = False
        self._start_afresh()
        with _lock:
            _of_buffer.setdefault(buffer, weakref.WeakSet()).add(self)

    def _start_afresh(self) -> None:
        # Reentrant, as the lock.
        self._turn = threading.RLock()
        self._thread: threading.Thread | None = None
        # Which thread is meant. It cannot tell by itself: gevent may put greenlets in the place of
        # threads while it runs, and then knows it by another name.
        self._term: object = None
        # The last collections that this process has begun: the thread may be behind.
        self._own: deque[int] = deque(maxlen=_OWN_REMEMBERED)
        self._served = 0  # the last collection that the thread has come to
        self._answered = 0

    def after_fork(self) -> None:
        """In a forked child: the thread stayed with the parent."""
        self._start_afresh()
        if self._wanted:
            self.start()

    def start(self) -> None:
        """There is something to answer with. May be called again and again."""
        if self._has_ended:
            return
        self._wanted = True
        with _lock:
            if self._thread is not None:
                return
            # What began before now is not for this process to answer.
            self._served = self._answered = last = self._buffer.last_collection
            self._term = object()
            thread = _Thread(
                target=_run,
                args=(weakref.ref(self), self._buffer, last, self._term),
                name="otel_shm publisher",
                daemon=True,
            )
            self._thread = thread
            self._tell()
        # Without the lock: before the new thread says that it runs, a garbage collection in it may call
        # finalizers, which measure, or stop this.
        is_started = True
        try:
            thread.start()
        except RuntimeError:  # the interpreter ends, or there are no more threads
            is_started = False
        with _lock:
            if not is_started and self._thread is thread:
                self._thread = None
            if self._thread is None:
                self._tell()

    def stop(self) -> None:
        """This process leaves for good: nobody is to wait for it. Gives the thread a moment to end."""
        self._wanted = False
        self._has_ended = True
        with _lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            if thread is not threading.current_thread():
                self._end(thread)
            with _lock:
                self._tell()

    def _end(self, thread: threading.Thread) -> None:
        # Again and again: one that is about to sleep hears nothing.
        for _ in range(_WAKES):
            answers.wake(self._buffer)
            if not thread.is_alive():
                break
            thread.join(_SLEEP_MILLIS / 1e3 / _WAKES)

    def begin_collection(self) -> int:
        """Begins a collection in this process, which has nothing to tell itself."""
        with self._turn:
            collection = self._buffer.begin_collection()
            self._own.append(collection)
            return collection

    def is_in(self, term: object) -> bool:
        """True while the thread that was started for this term is to answer."""
        return self._thread is not None and self._term is term

    def serve(self, collection: int) -> None:
        """Answers to a collection, unless this process has begun it and all since it came to one."""
        answer = self._answer()
        if answer is None:
            return  # it goes just now
        with self._turn:
            # Of a copy: a finalizer may begin one more meanwhile.
            own = sum(self._served < number <= collection for number in list(self._own))
            is_own = own >= collection - self._served
            self._served = collection
        if is_own:
            return
        message = b""
        try:
            message = answer(collection)
        except Exception:
            _logger.exception("A process could not answer to a collection.")
        self._note(collection, message)

    def has_observed(self, collection: int) -> None:
        """This process has observed for a collection of its own. In others' collections that it is late
        for, what it observed then still counts."""
        self._note(collection, b"")

    def _note(self, collection: int, message: bytes) -> None:
        with _lock:
            if self._thread is None:
                return  # nobody is to wait for it
            if collection > self._answered or message:
                self._answered = max(self._answered, collection)
                self._tell(message)

    def _tell(self, message: bytes = b"") -> None:
        """Says what all of this process have answered to. Called with the lock held."""
        # A buffer that is garbage has no entry any more.
        fellows = _of_buffer.get(self._buffer, ())
        running = [one for one in fellows if one._thread is not None]
        if running:
            answers.answer(self._buffer, min(one._answered for one in running), message)
        else:
            answers.announce(self._buffer, answers=False)


class _Thread(threading.Thread):
    def _delete(self) -> None:
        # If gevent has patched the module since the thread was started, it is in the list of all threads
        # by a name that it is not asked for now.
        with suppress(KeyError):
            super()._delete()  # type: ignore[misc]  # no public name, and none that matters if it goes


def _threads_are_green() -> bool:
    """True where gevent or eventlet has put greenlets in the place of threads: one that sleeps in C would
    stop all others of its process."""
    name = "_start_joinable_thread"  # since Python 3.13
    start = getattr(threading, name, None) or getattr(threading, "_start_new_thread", None)
    return not isinstance(start, BuiltinFunctionType)


def _run(reference: weakref.ref[Publisher], buffer: Buffer, last: int, term: object) -> None:
    pause = threading.Event() if _threads_are_green() else None
    while True:
        if pause is None:
            collection = answers.wait_for_collection(buffer, last, _SLEEP_MILLIS)
        else:
            pause.wait(_GREEN_POLL_SECONDS)
            collection = buffer.last_collection
        publisher = reference()
        if publisher is None or not publisher.is_in(term):
            return
        if collection != last:
            publisher.serve(collection)
            last = collection
        del publisher


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.RLock()


forks.call_in_child(_after_fork_in_child)
