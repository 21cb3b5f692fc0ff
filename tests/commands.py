# SPDX-License-Identifier: Apache-2.0
"""The command `otel-shm` in a process of its own, with its output to be read."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from processes import PATIENCE, until

from otel_shm.command import main

OTEL_SHM = str(Path(sys.executable).with_name("otel-shm"))
APPS = Path(__file__).parent / "apps"
SILENT = {"OTEL_METRICS_EXPORTER": "none"}


class Command:
    """A command that runs in a forked child, which spares it the start of an interpreter.

    Args:
        arguments: of the command line.
        environment: variables on top of this process's.
    """

    def __init__(self, *arguments: object, environment: dict[str, str] | None = None) -> None:
        its_input, self._input = os.pipe()
        output, its_output = os.pipe()
        errors, its_errors = os.pipe()
        its_ends = (its_input, its_output, its_errors)
        self.pid = os.fork()
        if self.pid == 0:
            _become_the_command(its_ends, arguments, environment or {})
        for end in its_ends:
            os.close(end)
        self._has_input = True
        self._output = os.fdopen(output)
        self._errors = os.fdopen(errors)
        self._status: int | None = None

    def line(self) -> str:
        """The next line it prints."""
        return self._output.readline().rstrip("\n")

    def said(self) -> str:
        """The next line of what it says beside its output."""
        return self._errors.readline().rstrip("\n")

    def close_input(self) -> None:
        """Lets it read the end of its input."""
        if self._has_input:
            os.close(self._input)
            self._has_input = False

    def send(self, number: int) -> None:
        """Sends it a signal."""
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Waits for its end. Returns: its exit status, or minus the signal that killed it."""

        def ended() -> bool:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
            return pid != 0

        if self._status is None:
            until(ended)
        assert self._status is not None
        return self._status

    def end(self, number: int | None = signal.SIGTERM) -> tuple[int, str, str]:
        """Ends it with a signal, or waits. Returns: its status, the rest of its output and errors."""
        if number is not None:
            self.send(number)
        status = self.wait()
        return status, self._output.read(), self._errors.read()

    def close(self) -> None:
        """Ends it, and forgets what it printed."""
        if self._status is None:
            self.send(signal.SIGKILL)
            self.wait()
        self.close_input()
        self._output.close()
        self._errors.close()


def _become_the_command(
    ends: tuple[int, ...], arguments: tuple[object, ...], environment: dict[str, str]
) -> NoReturn:
    status = 70  # for whatever is raised
    try:
        for number, end in enumerate(ends):
            os.dup2(end, number)
        os.closerange(3, 4096)  # what a test waits for the end of is none of its business
        sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run without a terminal
        os.chdir(APPS)
        os.environ.update(environment)
        status = main(list(map(str, arguments)))
    except SystemExit as ended:
        status = int(ended.code or 0)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def told(*arguments: object, environment: dict[str, str] | None = None) -> tuple[int, str, str]:
    """The command in this very process, which ends soon: its status, output and errors."""
    os.environ.update(environment or {})
    before, readers = [os.dup(1), os.dup(2)], []
    for number in (1, 2):
        reader, writer = os.pipe()
        os.dup2(writer, number)
        os.close(writer)
        readers.append(reader)
    sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
    status = main(list(map(str, arguments)))
    sys.stdout.flush()
    sys.stderr.flush()
    for number, kept in enumerate(before, start=1):
        os.dup2(kept, number)
    output, errors = map(os.fdopen, readers)
    return status, output.read(), errors.read()


class Commands:
    """Starts commands; those that are still there at its end are killed."""

    def __init__(self) -> None:
        self._started: list[Command] = []

    def start(self, *arguments: object, **options: Any) -> Command:
        """A command that runs. environment: variables on top of this process's."""
        self._started.append(Command(*arguments, **options))
        return self._started[-1]

    def run(self, *arguments: object, **options: Any) -> tuple[int, str, str]:
        """A command that ends by itself: its status, output and errors."""
        return self.start(*arguments, **options).end(None)

    def close(self) -> None:
        """Ends all."""
        for command in self._started:
            command.close()


@pytest.fixture
def commands() -> Iterator[Commands]:
    """Starts commands for one test."""
    started = Commands()
    yield started
    started.close()


def otel_shm(
    *arguments: object, environment: dict[str, str] | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """The installed command, as people run it."""
    return subprocess.run(
        [OTEL_SHM, *map(str, arguments)],
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        **options,
    )


def children(pid: int) -> set[int]:
    """The child processes there are now."""
    return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
