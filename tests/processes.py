# SPDX-License-Identifier: Apache-2.0
"""Other processes of a test: forked ones and fresh interpreters, what they answered or how they died."""

from __future__ import annotations

import gc
import importlib
import os
import pickle
import select
import signal
import struct
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest

PATIENCE = 60.0  # seconds until a process counts as stuck; nothing here takes a tenth of it


class Process:
    """A process that runs one function and answers with what that returned."""

    def __init__(self, pid: int, answer: int) -> None:
        self.pid = pid
        self._answer = answer
        self._status: int | None = None

    def result(self) -> Any:
        """What the function returned. AssertionError: it raised, was killed or is stuck."""
        data = self._read(8)
        if len(data) == 8:
            data = self._read(struct.unpack("<Q", data)[0])
        ended = self.wait()
        assert ended == 0, f"the process ended with {ended}"
        assert data, "the process ended without an answer"
        good, answer = pickle.loads(data)
        assert good, f"in the other process:\n{answer}"
        return answer

    @property
    def is_answered(self) -> bool:
        """True if `result` need not wait for the function any more."""
        ready, _, _ = select.select([self._answer], [], [], 0)
        return bool(ready)

    def wait(self) -> int:
        """Waits for its end: the exit code, or minus the signal that killed it."""
        deadline = time.monotonic() + PATIENCE
        while self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
            else:
                assert time.monotonic() < deadline, "the other process does not end"
                time.sleep(0.001)
        return self._status

    def kill(self) -> None:
        """Ends it at whatever instruction it is, and waits until it is gone."""
        if self._status is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()

    def close(self) -> None:
        """Forgets it: nothing may be asked any more."""
        self.kill()
        os.close(self._answer)

    def _read(self, count: int) -> bytes:
        """Bytes of the answer; fewer if the process ended before."""
        data = b""
        while len(data) < count:
            ready, _, _ = select.select([self._answer], [], [], PATIENCE)
            assert ready, "the other process is stuck"
            more = os.read(self._answer, count - len(data))
            if not more:
                break
            data += more
        return data


class Processes:
    """Starts processes; those that are still there at its end are killed."""

    def __init__(self) -> None:
        self._started: list[Process] = []

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_exception: object) -> None:
        for process in self._started:
            process.close()

    def fork(self, work: Callable[..., Any], *arguments: Any) -> Process:
        """A forked child that calls work(*arguments) and ends without exit handlers."""
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.close(reader)
                gc.freeze()  # what the parent has is none of the child's garbage
                _answer(writer, work, *arguments)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        return self._add(pid, reader, writer)

    def spawn(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        environment: dict[str, str] | None = None,
    ) -> Process:
        """A fresh interpreter that calls a function of a test module and exits as programs do."""
        reader, writer = os.pipe()
        os.set_inheritable(writer, True)
        task = pickle.dumps((function.__module__, function.__qualname__, arguments)).hex()
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, __file__, str(writer), task],
            {**os.environ, **(environment or {})},
        )
        return self._add(pid, reader, writer)

    def _add(self, pid: int, reader: int, writer: int) -> Process:
        os.close(writer)
        process = Process(pid, reader)
        self._started.append(process)
        return process


@pytest.fixture
def processes() -> Iterator[Processes]:
    """Starts processes for one test."""
    with Processes() as started:
        yield started


class Gate:
    """Where processes wait until it opens, all at once; made before they are forked."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()

    def wait(self) -> None:
        """Waits for the gate to open."""
        os.close(self._writer)
        ready, _, _ = select.select([self._reader], [], [], PATIENCE)
        assert ready, "the gate did not open"

    def open(self) -> None:
        """Lets everybody through."""
        os.close(self._writer)
        os.close(self._reader)


def until(condition: Callable[[], Any]) -> Any:
    """Waits for a condition. Returns: what it is then."""
    deadline = time.monotonic() + PATIENCE
    while not (now := condition()):
        assert time.monotonic() < deadline, "the condition does not come true"
        time.sleep(0.001)
    return now


def _answer(pipe: int, work: Callable[..., Any], *arguments: Any) -> None:
    try:
        answer = (True, work(*arguments))
    except BaseException:
        answer = (False, traceback.format_exc())
    data = pickle.dumps(answer)
    with os.fdopen(pipe, "wb") as stream:
        stream.write(struct.pack("<Q", len(data)) + data)


if __name__ == "__main__":
    _module, _name, _arguments = pickle.loads(bytes.fromhex(sys.argv[2]))
    _answer(int(sys.argv[1]), getattr(importlib.import_module(_module), _name), *_arguments)
