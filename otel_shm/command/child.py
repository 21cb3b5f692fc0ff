# SPDX-License-Identifier: Apache-2.0
"""The command that `otel-shm run` starts: it gets the supervisor's signals, and says how it ended.

All signals that are to be passed on are blocked and waited for, so none is lost and none interrupts
anything. Threads that are started later inherit that; the command does not.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from time import monotonic
from typing import NamedTuple

PASSED_ON = frozenset(
    {
        signal.SIGHUP,
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGTERM,
        signal.SIGUSR1,
        signal.SIGUSR2,
        signal.SIGWINCH,
        signal.SIGTTIN,  # gunicorn: one worker more
        signal.SIGTTOU,  # and one less
    }
)
ENDING = frozenset({signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM})
_WAITED_FOR = PASSED_ON | {signal.SIGCHLD}
_FROM_KERNEL = 0x80  # SI_KERNEL
# A thread that was there before signals were blocked, of who started the interpreter, may take SIGCHLD.
_LOOK_SECONDS = 1.0
# What the interpreter ignores would stay ignored in the command.
_IGNORED_HERE = (signal.SIGPIPE, signal.SIGXFSZ)


class Signal(NamedTuple):
    """A signal that came."""

    number: int
    is_from_kernel: bool  # the terminal's: each process of the foreground group gets it


def block_signals() -> set[int]:
    """From now on signals wait until they are asked for. Returns: which were blocked before."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, a child would leave no status
    return set(signal.pthread_sigmask(signal.SIG_BLOCK, _WAITED_FOR))


def next_signal(seconds: float) -> Signal | None:
    """The next signal; None if there is none for so long."""
    info = signal.sigtimedwait(_WAITED_FOR, max(0.0, seconds))
    return Signal(info.si_signo, info.si_code == _FROM_KERNEL) if info else None


def is_told_to_end(seconds: float) -> bool:
    """Waits. Returns: True as soon as a signal that ends programs has come.

    One that was ignored when this program was started does not: a shell starts `command &` so.
    """
    deadline = monotonic() + seconds
    while (came := next_signal(deadline - monotonic())) is not None:
        if came.number in ENDING and signal.getsignal(came.number) != signal.SIG_IGN:
            return True
    return False


class Child:
    """The command.

    Args:
        command: the program and its arguments.
        environment: of it.
        blocked: signals that it has blocked.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(
        self, command: list[str], environment: Mapping[str, str], blocked: set[int]
    ) -> None:
        if environment.get("LISTEN_PID") == str(os.getpid()):
            # Sockets that systemd hands over are for the process that is named, and keep their numbers.
            command = ["/bin/sh", "-c", 'LISTEN_PID=$$ exec "$@"', "sh", *command]
        self.pid = os.posix_spawnp(
            command[0], command, environment, setsigmask=blocked, setsigdef=_IGNORED_HERE
        )
        self._status: int | None = None

    def wait(self) -> int:
        """Passes signals on until it ends. Returns: its exit status, or 128 + what killed it."""
        while self._status is None:
            came = next_signal(_LOOK_SECONDS)
            if came is None or came.number == signal.SIGCHLD:
                self._reap()
            elif not self._has_it_too(came):
                os.kill(self.pid, came.number)
        return self._status

    def _reap(self) -> None:
        # As the first process of a container it inherits orphans.
        whom = -1 if os.getpid() == 1 else self.pid
        while True:
            try:
                pid, status = os.waitpid(whom, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.pid:
                code = os.waitstatus_to_exitcode(status)
                self._status = 128 - code if code < 0 else code
                return

    def _has_it_too(self, came: Signal) -> bool:
        """True for what the terminal sends to all in the foreground."""
        if not came.is_from_kernel or os.getpgid(self.pid) != os.getpgrp():
            return False
        # A terminal that is gone is told to the session's leader only.
        return came.number != signal.SIGHUP or os.getsid(0) != os.getpid()


def start_status(error: OSError) -> int:
    """The exit status for a command that could not be started, as shells have it."""
    return 127 if isinstance(error, FileNotFoundError) else 126
