# SPDX-License-Identifier: Apache-2.0
"""The command that `otel-shm run` starts: its exit status, its signals, and what it inherits."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from commands import APPS, OTEL_SHM, SILENT, Commands, children, commands, otel_shm
from processes import PATIENCE

from otel_shm.command import child as child_module

__all__ = ["commands"]  # fixtures: found by their names in this module

PYTHON = sys.executable


@pytest.mark.parametrize(
    ("command", "status", "errors"),
    [
        (["sh", "-c", "exit 7"], 7, ""),
        (["--", "sh", "-c", "kill -KILL $$"], 137, ""),
        (["/no/such/program"], 127, "otel-shm run: /no/such/program: No such file or directory\n"),
        ([__file__], 126, f"otel-shm run: {__file__}: Permission denied\n"),
        ([], 2, "otel-shm run: give the COMMAND to run\n"),
    ],
)
def test_exit_status(
    command: list[str], status: int, errors: str, commands: Commands, tmp_path: Path
) -> None:
    """It is the command's, as a shell would have it; and the buffer is gone each time."""
    done = commands.run("run", f"--path={tmp_path / 'b'}", *command, environment=SILENT)
    assert done == (status, "", errors)
    assert list(tmp_path.iterdir()) == []


def test_signals_are_passed_on(commands: Commands) -> None:
    """Each of them, once; then the command decides when and how it ends."""
    run = commands.start("run", PYTHON, "signalled.py", environment=SILENT)
    assert int(run.line()) in children(run.pid)
    for name in ("HUP", "INT", "QUIT", "USR1", "USR2", "WINCH", "TTIN", "TTOU"):
        run.send(getattr(signal, f"SIG{name}"))
        assert run.line() == f"SIG{name}"
    assert run.end(signal.SIGTERM) == (3, "", "")


def test_the_terminal_tells_the_command_itself() -> None:
    """Ctrl-C reaches all in the foreground, so the supervisor does not pass it on a second time."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(APPS)
        os.execve(OTEL_SHM, [OTEL_SHM, "run", PYTHON, "signalled.py"], {**os.environ, **SILENT})
    with os.fdopen(terminal, "rb", buffering=0) as screen:

        def line() -> bytes:
            read = b""
            while not read.endswith(b"\n"):
                read += screen.read(1)
            return read.strip()

        line()
        os.kill(pid, signal.SIGSTOP)  # so that it is later than the command
        os.waitpid(pid, os.WUNTRACED)
        os.write(terminal, b"\x03")
        assert line().endswith(b"SIGINT")
        os.kill(pid, signal.SIGUSR1)  # behind the one that must not come
        os.kill(pid, signal.SIGCONT)
        assert line() == b"SIGUSR1"
        os.kill(pid, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3


def test_the_command_starts_as_without_the_supervisor() -> None:
    """No signal is blocked or ignored, and it has the descriptors that were left to it."""
    reader, writer = os.pipe()
    with os.fdopen(reader), os.fdopen(writer):
        show = ["sh", "-c", f"grep -E 'Sig(Blk|Ign)' /proc/self/status; ls /proc/self/fd/{reader}"]
        done = otel_shm("run", *show, pass_fds=[reader], environment=SILENT)
    blocked, ignored = (int(mask, 16) for mask in re.findall(r"Sig...:\t(\w+)", done.stdout))
    # 32 and 33 are the C library's own, which it ignores in what posix_spawn() starts. What is ignored
    # where the tests run is so in the command too.
    known = {32, 33} | {n for n in signal.valid_signals() if signal.getsignal(n) == signal.SIG_IGN}
    known -= {
        signal.SIGPIPE,
        signal.SIGXFSZ,
    }  # which the interpreter ignores, and no command should
    assert (blocked, ignored & ~sum(1 << (n - 1) for n in known)) == (0, 0)
    assert done.stdout.endswith(f"/proc/self/fd/{reader}\n")


def test_sockets_that_systemd_hands_over() -> None:
    """They are for the process that LISTEN_PID names, which is the command."""
    inner = 'test $LISTEN_PID = $$ && echo "$0 $1"'
    outer = f"LISTEN_PID=$$ exec {OTEL_SHM} run -- sh -c '{inner}' 'it has' them"
    done = subprocess.run(
        ["sh", "-c", outer],
        env={**os.environ, **SILENT},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert done.stdout == "it has them\n"


def test_the_first_process_of_a_container_buries_orphans() -> None:
    """Processes that outlive their parents become children of the supervisor there."""
    unshare = ["unshare", "--user", "--map-root-user", "--pid", "--kill-child", "--mount-proc"]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no pid namespace can be made here")
    done = subprocess.run(
        [*unshare, OTEL_SHM, "run", PYTHON, "orphans.py"],
        cwd=APPS,
        env={**os.environ, **SILENT},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert done.stdout == "0\n"


def test_an_end_that_another_thread_was_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without SIGCHLD it is noticed all the same."""
    waits = []

    def nothing(seconds: float | None = None) -> None:
        waits.append(seconds)

    monkeypatch.setattr(child_module, "next_signal", nothing)
    assert child_module.Child(["sh", "-c", "exit 7"], dict(os.environ), set()).wait() == 7
    assert None not in waits
