# SPDX-License-Identifier: Apache-2.0
"""A container alone: little shared memory or none, nothing to write to, a user without a name."""

from __future__ import annotations

import ctypes
import errno
import json
import logging
import os
import platform
import signal
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
from buffers import meter_of, shm, totals
from commands import APPS, SILENT, told
from namespaces import READ_ONLY, SHARED_MEMORY, VOLUME, Container, Containers, containers, mount
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource

import otel_shm
from otel_shm.buffer import Buffer
from otel_shm.command import main
from otel_shm.errors import BufferPathError

__all__ = ["containers", "shm"]  # fixtures: found by their names in this module

PATH = SHARED_MEMORY / "buffer"
NOBODY_IN_PARTICULAR = 1_000_670_000  # OpenShift gives each project uids of its own
ECHO = ("run", "sh", "-c", "echo $OTEL_SHM_PATH; exit 7")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="other users need the superuser")


def counted(path: Path | None) -> tuple[int | float, int]:
    """Counts in the two processes of a service. Returns: the total, and bytes in memory."""
    reader = InMemoryMetricReader()
    resource = Resource({"service.name": "test"})
    provider = otel_shm.MeterProvider([reader], resource, buffer=path, shutdown_on_exit=False)
    counter = provider.get_meter("m").create_counter("c")
    counter.add(1)
    child = os.fork()
    if child == 0:
        counter.add(2)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    data: Any = reader.get_metrics_data()
    ((point,),) = [
        metric.data.data_points
        for service in data.resource_metrics
        for scope in service.scope_metrics
        for metric in scope.metrics
    ]
    total, allocated = point.value, provider.buffer.statistics.allocated_bytes
    provider.shutdown()
    return total, allocated


def refused(path: Path | None, **options: int) -> tuple[int | None, str]:
    """The error of a buffer that cannot be had: its number and what it says."""
    with pytest.raises(BufferPathError) as raised:
        Buffer(path, **options)
    return raised.value.errno, str(raised.value.args[-1])


# 64 MB of shared memory, which is what an engine gives where nobody says otherwise.


def test_default_sizes_fit_into_64_megabytes(containers: Containers) -> None:
    """They are limits: a small service takes less than a megabyte of it."""
    total, allocated = containers.run(Container(shm="64m"), counted, PATH)
    assert total == 3
    assert allocated < 2**20


def filled_up() -> tuple[int, int]:
    """Fills records and slots of a buffer. Returns: the bytes of it in memory, and on tmpfs."""
    buffer = Buffer(PATH)
    histogram = meter_of(buffer).create_histogram("size", explicit_bucket_boundaries_advisory=[1])
    for n in range(33_000):
        histogram.record(1, {"n": n, "long": "x" * 450})
    assert buffer.statistics.overflowed > 0
    return buffer.statistics.allocated_bytes, PATH.stat().st_blocks * 512


def test_a_full_buffer_fits_into_64_megabytes(containers: Containers) -> None:
    """Of default sizes it takes 21 MiB, and 4 more for each process."""
    allocated, on_tmpfs = containers.run(Container(shm="64m"), filled_up)
    assert on_tmpfs == allocated
    assert 16 * 2**20 < allocated <= (21 + 4) * 2**20


def flooded() -> tuple[int | float, int, list[str]]:
    """Counts sets of attributes while others fill up the shared memory, to the last page."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("otel_shm").addHandler(handler)
    buffer = Buffer(PATH)
    counter = meter_of(buffer).create_counter("requests")
    counter.add(1, {"n": -1})
    with suppress_no_space(), open(SHARED_MEMORY / "other", "wb", buffering=0) as other:
        while other.write(bytes(2**20)):
            pass
    for n in range(20_000):
        counter.add(1, {"n": n})
    return sum(totals(buffer).values()), buffer.statistics.overflowed, said


def suppress_no_space() -> Any:
    """Lets a file system be full."""
    return pytest.raises(OSError, match=os.strerror(errno.ENOSPC))


def test_shared_memory_that_others_fill_up(containers: Containers) -> None:
    """What finds no place is counted as overflow and said once; no process is killed by SIGBUS."""
    total, overflowed, said = containers.run(Container(shm="64m"), flooded)
    assert total == 20_001
    assert 0 < overflowed < 20_000
    assert len(said) == 1


def refused_when_full() -> tuple[tuple[int | None, str], Any, list[str]]:
    """What is said of a new buffer where nothing is left, by the library and by the command."""
    with suppress_no_space(), open(SHARED_MEMORY / "other", "wb", buffering=0) as other:
        while other.write(bytes(2**16)):
            pass
    library = refused(PATH)
    return library, told("run", f"--path={PATH}", "true"), os.listdir(SHARED_MEMORY)


def test_no_room_for_a_buffer_is_said(containers: Containers) -> None:
    """With its path, what it needs to begin with, and what to set; and nothing is left of it."""
    (number, text), run, left = containers.run(Container(shm="1m"), refused_when_full)
    assert number == errno.ENOSPC
    for part in (str(PATH), "it begins with ", "docker run --shm-size", "another path"):
        assert part in text
    assert run == (2, "", f"otel-shm run: {text}\n")
    assert left == ["other"]


# No shared memory, or none that may be written, and no other place either.


@pytest.mark.parametrize("is_read_only", [False, True], ids=["writable", "read-only"])
@pytest.mark.parametrize("shm", ["64m", READ_ONLY, None], ids=["shm", "read-only-shm", "no-shm"])
@pytest.mark.parametrize("tmp", ["8m", READ_ONLY], ids=["tmp", "read-only-tmp"])
def test_anonymous_buffers_need_no_file_system(
    shm: str | None, tmp: str, is_read_only: bool, containers: Containers
) -> None:
    """Processes that are forked share one, whatever may be written and whatever is there."""
    container = Container(shm=shm, tmp=tmp, is_read_only=is_read_only)
    assert containers.run(container, counted, None)[0] == 3


@pytest.mark.parametrize("shm", [READ_ONLY, None], ids=["read-only-shm", "no-shm"])
def test_a_supervisor_without_shared_memory(shm: str | None, containers: Containers) -> None:
    """It uses the temporary directory and says so, with a read-only root too."""
    status, output, errors = containers.run(
        Container(shm=shm, tmp="8m", is_read_only=True), told, *ECHO, environment=SILENT
    )
    assert status == 7
    directory = "/tmp/otel_shm-0"
    assert output.startswith(f"{directory}/sh-")
    assert errors == (
        f"otel-shm run: no directory in memory may be written, so the buffer is in '{directory}'\n"
    )


@pytest.mark.parametrize("tmp", ["8m", READ_ONLY], ids=["tmp", "read-only-tmp"])
def test_a_supervisor_with_a_read_only_root(tmp: str, containers: Containers) -> None:
    """Shared memory is all it needs."""
    status, output, errors = containers.run(
        Container(tmp=tmp, is_read_only=True), told, *ECHO, environment=SILENT
    )
    assert (status, errors) == (7, "")
    assert output.startswith("/dev/shm/otel_shm-0/sh-")


@pytest.mark.parametrize("shm", [READ_ONLY, None], ids=["read-only-shm", "no-shm"])
def test_a_supervisor_without_any_place_says_what_to_set(
    shm: str | None, containers: Containers
) -> None:
    """It names the places that it tried, and starts nothing."""
    status, output, errors = containers.run(
        Container(shm=shm, tmp=READ_ONLY, is_read_only=True), told, *ECHO, environment=SILENT
    )
    assert (status, output) == (2, "")
    assert ("/dev/shm/otel_shm-0: Read-only file system" in errors) == (shm is not None)
    assert "/tmp/otel_shm-0: Read-only file system" in errors
    assert "have a tmpfs mounted at /dev/shm" in errors
    assert "--path or OTEL_SHM_PATH" in errors
    assert errors.count("\n") == 1


def test_a_path_that_is_not_there_or_may_not_be_written(containers: Containers) -> None:
    """A buffer's path is taken at its word, so the error says what is wrong there."""
    number, text = containers.run(Container(shm=None), refused, PATH)
    assert number == errno.ENOENT
    assert "there is no directory '/dev/shm': make it, best a tmpfs, or give another path" in text
    number, text = containers.run(Container(shm=READ_ONLY), refused, PATH)
    assert number == errno.EROFS
    assert "have '/dev/shm' mounted for writing, best as a tmpfs, or give another path" in text


def test_a_buffer_on_an_ordinary_file_system(containers: Containers, tmp_path: Path) -> None:
    """A directory on a disk does, with everything else for reading only."""
    container = Container(volume=tmp_path, shm=None, tmp=READ_ONLY, is_read_only=True)
    assert containers.run(container, counted, VOLUME / "buffer")[0] == 3
    assert os.listdir(tmp_path) == ["buffer"]


def looked_at_read_only(path: Path) -> tuple[Any, Any]:
    """A volume mounted for reading only: what dump and export say of a buffer there."""
    mount(None, str(VOLUME), None, 32 | 4096 | 1)  # remount, bind, read-only
    return told("dump", path), told("export", path)


@as_root
def test_a_volume_that_is_mounted_read_only(containers: Containers, shm: Path) -> None:
    """It is enough to look at a buffer; who is to export it needs it writable, and is told."""
    assert containers.run(Container(volume=shm), counted, VOLUME / "buffer")[0] == 3
    dump, export = containers.run(Container(volume=shm), looked_at_read_only, VOLUME / "buffer")
    assert (dump[0], dump[2]) == (0, "")
    assert "Counter c" in dump[1]
    assert (export[0], export[1]) == (2, "")
    assert "Read-only file system: have '/mnt' mounted for writing" in export[2]


# Users without a name.


@as_root
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o277, 0o777], ids=oct)
def test_an_arbitrary_user(umask: int, containers: Containers) -> None:
    """A uid that no one knows, without a home and with any umask: library and supervisor work."""
    container = Container(uid=NOBODY_IN_PARTICULAR, umask=umask, tmp="8m", is_read_only=True)
    assert containers.run(container, counted, PATH)[0] == 3
    assert containers.run(container, counted, None)[0] == 3
    status, output, errors = containers.run(container, told, *ECHO, environment=SILENT)
    assert (status, errors) == (7, "")
    assert output.startswith(f"/dev/shm/otel_shm-{NOBODY_IN_PARTICULAR}/sh-")


@as_root
def test_containers_of_different_users(containers: Containers, shm: Path) -> None:
    """The second one is told whose the buffer is, and who it is itself, the superuser as well."""
    shm.chmod(0o1777)
    path = VOLUME / "buffer"
    assert containers.run(Container(volume=shm, uid=NOBODY_IN_PARTICULAR), counted, path)[0] == 3
    for uid in (NOBODY_IN_PARTICULAR + 1, 0):
        other = Container(volume=shm, uid=uid)
        _, text = containers.run(other, refused, path)
        whose = (
            f"belongs to another user (uid {NOBODY_IN_PARTICULAR}): all processes of a buffer run "
            f"as one user, and this one is uid {uid}"
        )
        assert whose in text
        status, _, errors = containers.run(other, told, "export", path)
        assert (status, whose in errors) == (2, True)


@as_root
def test_a_volume_of_another_user(containers: Containers, shm: Path) -> None:
    """Who may make no file there is told so."""
    shm.chmod(0o755)
    stranger = Container(volume=shm, uid=NOBODY_IN_PARTICULAR)
    number, text = containers.run(stranger, refused, VOLUME / "buffer")
    assert number == errno.EACCES
    assert f"uid {NOBODY_IN_PARTICULAR} may make no file in '/mnt'" in text


# The first process.


def supervise(output: int) -> int:
    """`otel-shm run` as the first process, with its output to be read elsewhere."""
    os.dup2(output, 1)
    os.chdir(APPS)
    os.environ.update(SILENT)
    return main(["run", sys.executable, "signalled.py"])


def test_signals_from_outside_reach_the_command(containers: Containers) -> None:
    """The kernel keeps them from a first process that does not wait for them; the supervisor does."""
    reader, writer = os.pipe()
    running = containers.start(Container(), supervise, writer)
    os.close(writer)
    with os.fdopen(reader) as output:
        output.readline()
        for name in ("HUP", "INT", "USR1"):
            os.kill(running.first, getattr(signal, f"SIG{name}"))
            assert output.readline() == f"SIG{name}\n"
        os.kill(running.first, signal.SIGTERM)
        assert running.result() == 3


# What a sandbox may refuse.


def without_memfd(error: int) -> tuple[tuple[int | None, str], int | float]:
    """What a system call filter that refuses memfd_create() leaves: the error, and a total by path."""
    number = {"x86_64": 319, "aarch64": 279}[platform.machine()]
    program = b"".join(
        struct.pack("HBBI", *instruction)
        for instruction in (
            (0x20, 0, 0, 0),  # load the number of the call
            (0x15, 0, 1, number),  # unless it is this one jump over
            (0x06, 0, 0, 0x0005_0000 | error),  # its answer
            (0x06, 0, 0, 0x7FFF_0000),  # allowed
        )
    )
    code = ctypes.create_string_buffer(program)
    filter_of = ctypes.create_string_buffer(struct.pack("HxxxxxxP", 4, ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0  # no new privileges
    assert libc.prctl(22, 2, filter_of, 0, 0) == 0  # a filter
    return refused(None), counted(PATH)[0]


@pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="numbers of calls")
@pytest.mark.parametrize("error", [errno.ENOSYS, errno.EPERM], ids=os.strerror)
def test_a_sandbox_without_anonymous_files(error: int, containers: Containers) -> None:
    """An anonymous buffer is refused with what to set, and a named one works."""
    (number, text), total = containers.run(Container(), without_memfd, error)
    assert number == error
    assert "memfd_create() is not allowed here: name a path" in text
    assert "OTEL_SHM_PATH" in text
    assert total == 3


def without_executable_memory() -> int | float:
    """A total where no file in memory may be executed, or be made without saying so."""
    setting = Path("/proc/sys/vm/memfd_noexec")
    if not setting.exists():
        return 3  # before Linux 6.3
    setting.write_text("2")
    return counted(None)[0]


@as_root
def test_a_container_that_forbids_executable_memory(containers: Containers) -> None:
    """An anonymous buffer says that it is none."""
    assert containers.run(Container(), without_executable_memory) == 3


def without_proc() -> tuple[int | float, list[str]]:
    """A total where there is no /proc, and what is there afterwards."""
    mount("tmpfs", "/proc", "tmpfs")
    return counted(PATH)[0], os.listdir(SHARED_MEMORY)


def test_a_container_without_proc(containers: Containers) -> None:
    """A buffer gets its name in another way, and nothing else is left."""
    assert containers.run(Container(), without_proc) == (3, ["buffer"])


def another_boot(path: Path) -> tuple[str, int | float]:
    """What `ls` says of a buffer of an earlier boot, and a total that goes on in it."""
    status, output, _ = told("ls", "--json", "--dir", path.parent)
    assert status == 0
    (found,) = json.loads(output)
    return f"{found['state']}: {found['why']}", counted(path)[0]


def test_a_buffer_that_outlived_a_boot(containers: Containers, tmp_path: Path) -> None:
    """On a disk it does: it is stale, and a service that starts again goes on with its totals."""
    container = Container(volume=tmp_path)
    assert containers.run(container, counted, VOLUME / "buffer")[0] == 3
    with (tmp_path / "buffer").open("r+b") as file:
        file.seek(64)  # boot_id
        file.write(b"12345678-1234-1234-1234-123456789abc")
    found, total = containers.run(container, another_boot, VOLUME / "buffer")
    assert found == "stale: it is of an earlier boot"
    assert total == 6
