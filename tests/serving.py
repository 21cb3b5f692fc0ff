# SPDX-License-Identifier: Apache-2.0
"""Real services of a test: started as users start them, given real work, ended by a signal."""

from __future__ import annotations

import collections
import fcntl
import os
import signal
import socket
import struct
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path

from otlp_collector import Collector
from processes import until
from receiver import Receiver  # pytest's `pythonpath` setting points at examples/

from otel_shm._core import lib

APPS = Path(__file__).parent / "apps"
PYTHON = sys.executable
SCRIPTS = Path(sys.executable).parent  # of the environment: of servers that are no modules
PATIENCE = 60.0  # seconds; nothing here takes a tenth of it
HOUR = "3600000"  # milliseconds between exports: only exits export
SHARED_MEMORY = Path("/dev/shm")


class Service:
    """A running program, in a process group of its own.

    Args:
        process: its first process.
        folder: where its log and its temporary files are.
        name: its `service.name`, which nothing else has.
        buffer: the path of its buffer; None if that is anonymous.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], folder: Path, name: str, buffer: Path | None
    ) -> None:
        self.process = process
        self._folder = folder
        self._name = name
        self._buffer = buffer

    def workers(self) -> set[int]:
        """The child processes there are now."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        return {int(child) for child in children.split()}

    def log(self) -> str:
        """What it has printed."""
        return (self._folder / "log").read_text(errors="replace")

    def until_said(self, text: str, times: int = 1) -> None:
        """Waits until its log has a text so many times."""
        until(lambda: self.log().count(text) >= times)

    def stop(self, number: int = signal.SIGTERM, status: int = 0) -> None:
        """Ends it with a signal."""
        self.process.send_signal(number)
        self.ends(status)

    def ends(self, status: int = 0) -> None:
        """Waits for its end: it says that all is well, and leaves nothing but a named buffer."""
        ended = self.process.wait(PATIENCE)
        assert ended == status, self.log()
        self.is_gone()

    def is_gone(self) -> None:
        """Waits until none of its processes runs; it left nothing but a named buffer."""
        until(lambda: not any_running(self.process.pid))
        assert list((self._folder / "temporary").iterdir()) == []
        in_memory = self._buffer is not None and self._buffer.is_relative_to(SHARED_MEMORY)
        assert files_about(self._name) == ([self._buffer] if in_memory else [])
        if self._buffer is not None:
            assert list(self._buffer.parent.glob(f"*{self._buffer.name}*")) == [self._buffer]


class Server(Service):
    """A running server; counts what it answered, by the worker that did."""

    url: str

    def __init__(self, service: Service, port: int) -> None:
        super().__init__(service.process, service._folder, service._name, service._buffer)
        self.url = f"http://127.0.0.1:{port}/"
        self.answered: collections.Counter[int] = collections.Counter()

    def load(self, requests: int) -> None:
        """Sends requests, a few at a time, and returns when all are answered."""
        with ThreadPoolExecutor(4) as threads:
            self.answered.update(threads.map(self._get, range(requests)))

    def load_until(self, condition: Callable[[], object]) -> None:
        """Sends requests, one at a time, of which some may be answered by nobody."""

        def answered_or_not() -> object:
            with suppress(OSError, HTTPException):
                self.answered[self._get(0)] += 1
            return condition()

        until(answered_or_not)

    def _get(self, _number: int) -> int:
        with urllib.request.urlopen(self.url, timeout=PATIENCE) as answer:
            return int(answer.read())


@contextmanager
def run(
    folder: Path,
    endpoint: str,
    *command: str | Path,
    descriptors: tuple[int, ...] = (),
    **environment: str,
) -> Iterator[Service]:
    """A program that exports to an endpoint when it exits, started in the folder of the apps.

    Args:
        folder: takes its log and its temporary files.
        endpoint: of OTLP over HTTP, or what `environment` says.
        command: its arguments, what to run first.
        descriptors: for it to inherit.
        environment: on top of our own.
    """
    temporary = folder / "temporary"
    temporary.mkdir(parents=True)
    name = environment.get("OTEL_SERVICE_NAME", f"test-{uuid.uuid4()}")
    with (folder / "log").open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=APPS,
            env={
                **os.environ,
                "OTEL_PYTHON_METER_PROVIDER": "otel_shm",
                "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
                "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
                "OTEL_METRIC_EXPORT_INTERVAL": HOUR,
                "OTEL_SERVICE_NAME": name,
                "TMPDIR": str(temporary),
                "XDG_RUNTIME_DIR": str(temporary),
                **environment,
            },
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=descriptors,
            start_new_session=True,
        )
    path = environment.get("OTEL_SHM_PATH")
    try:
        yield Service(process, folder, name, Path(path) if path else None)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what a failed test left
        process.wait()


@contextmanager
def serve(
    folder: Path, endpoint: str, *command: str | Path, **environment: str
) -> Iterator[Server]:
    """A server as `run` has it, whose command mentions `{fd}` or `{port}`.

    Behind the descriptor is a socket that listens already: no port is guessed, and early requests wait
    in its queue. The port is held, so that nobody else gets it, until the server listens there.
    """
    words = [str(word) for word in command]
    inherits = any("{fd}" in word for word in words)
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("127.0.0.1", 0))
        if inherits:
            listener.listen()
        fd, port = listener.fileno(), listener.getsockname()[1]
        words = [word.format(fd=fd, port=port) for word in words]
        descriptors = (fd,) if inherits else ()
        with run(folder, endpoint, *words, descriptors=descriptors, **environment) as service:
            if inherits:
                listener.close()
            yield Server(service, port)


def collecting(buffer: Path) -> int:
    """The process that collects a named buffer; 0 if none does. Asked of the kernel."""
    # Struct flock: type, whence, padding, start, length, pid, padding.
    layout = "hhiqqii"
    asked = struct.pack(layout, fcntl.F_WRLCK, 0, 0, lib.OSHM_LOCK_COLLECTOR, 1, 0, 0)
    with buffer.open("r+b") as file:
        kind, *_, pid, _ = struct.unpack(layout, fcntl.fcntl(file, fcntl.F_GETLK, asked))
    return 0 if kind == fcntl.F_UNLCK else pid


def is_running(pid: int) -> bool:
    """Whether there is such a process that has not ended."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def any_running(group: int) -> bool:
    """Whether a process of a group has not ended."""
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with suppress(OSError):
                # Behind the name, which may hold anything: state, parent, group.
                state, _, its_group = (process / "stat").read_text().rpartition(")")[2].split()[:3]
                if int(its_group) == group and state != "Z":
                    return True
    return False


def files_about(name: str) -> list[Path]:
    """The files in shared memory that mention a service: its name is in a buffer's first records."""
    found = []
    for path in SHARED_MEMORY.rglob("*"):
        with suppress(OSError):  # others keep files there too, which may go away meanwhile
            if path.is_file():
                with path.open("rb") as file:
                    if name.encode() in file.read(4 << 20):
                        found.append(path)
    return found


def assert_one_series(receiver: Receiver, total: int, name: str = "requests") -> None:
    """A total that is exact, in one series of one instance that never went back."""
    points = receiver.points(name)
    assert receiver.total(name) == total, points
    assert len(receiver.latest(name)) == 1
    assert len({point.resource_attributes["service.instance.id"] for point in points}) == 1
    assert len({point.start_time_unix_nano for point in points}) == 1
    values = [point.value for point in sorted(points, key=lambda point: point.time_unix_nano)]
    assert values == sorted(values)
    assert receiver.total("in_flight") == 0


def assert_collected(collector: Collector, total: int, name: str = "requests") -> None:
    """The same of what a real collector got."""
    points = [point for point in collector.points(1) if point.name == name]
    assert max(point.value for point in points) == total
    assert len({point.start_unix_nano for point in points}) == 1
    assert len({point.resource["service.instance.id"] for point in points}) == 1
