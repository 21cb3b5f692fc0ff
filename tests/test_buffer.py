# SPDX-License-Identifier: Apache-2.0
"""Making and attaching to a buffer: what is accepted, what is refused, and in which words."""

from __future__ import annotations

import errno
import gc
import os
import resource
import stat
import struct
from pathlib import Path
from typing import Any

import pytest
from buffers import SMALL, claim, claim_stream, in_small_tmpfs, shm, totals
from processes import Gate, Processes, processes

from otel_shm.buffer import Buffer
from otel_shm.errors import BufferFormatError, BufferPathError, BufferSizeError, OtelShmError

__all__ = ["processes", "shm"]

NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")


def refusal(kind: type[OtelShmError], path: Any, **sizes: Any) -> OtelShmError:
    """The error that a path must be refused with; its text names the path."""
    with pytest.raises(kind) as raised:
        Buffer(path, **{**SMALL, **sizes})
    assert type(raised.value) is kind
    assert str(path) in str(raised.value)
    return raised.value


# Accepted.


def test_anonymous_buffers_are_apart() -> None:
    """Without a path each buffer is its own."""
    first, second = Buffer(**SMALL), Buffer(**SMALL)
    claim(first, claim_stream(first)).measure(1)
    assert list(totals(first).values()) == [1]
    assert totals(second) == {}
    assert first.path is None


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_file_is_for_its_owner_only(shm: Path, umask: int) -> None:
    """The mode is 0600 whatever the umask, and the file is where it was asked for, alone."""
    before = os.umask(umask)
    try:
        buffer = Buffer(shm / "buffer", **SMALL)
    finally:
        os.umask(before)
    info = os.stat(shm / "buffer")
    assert stat.S_IMODE(info.st_mode) == 0o600
    assert buffer.path == str(shm / "buffer")
    assert os.listdir(shm) == ["buffer"]


def test_file_is_sparse(shm: Path) -> None:
    """The sizes are limits: a buffer of 10 GiB takes a few pages."""
    buffer = Buffer(shm / "buffer", series=2**20, lanes=100, record_bytes=2**32)
    info = os.stat(shm / "buffer")
    assert info.st_size > 10 * 2**30
    claim(buffer, claim_stream(buffer)).measure(1)
    assert buffer.statistics.allocated_bytes < 2**20
    # The page map never claims more than the file system gave.
    assert os.stat(shm / "buffer").st_blocks * 512 >= buffer.statistics.allocated_bytes


def test_same_path_is_the_same_buffer(shm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However a path is written, a process opens a file once; another size changes nothing."""
    buffer = Buffer(shm / "buffer", **SMALL)
    os.link(shm / "buffer", shm / "link")
    monkeypatch.chdir(shm)
    for path in (shm / "buffer", str(shm / "buffer"), "buffer", f"{shm}/../{shm.name}/link"):
        assert Buffer(path, series=1) is buffer
    assert buffer.statistics.attached == 1
    assert buffer.statistics.series_capacity == SMALL["series"]


def test_file_outlives_its_processes(shm: Path, processes: Processes) -> None:
    """What is in the file when nobody has it open is there for who attaches next."""

    def run() -> int:
        buffer = Buffer(shm / "buffer", **SMALL)
        claim(buffer, claim_stream(buffer), {"route": "/"}).measure(1)
        return buffer.lane

    assert [processes.fork(run).result() for _ in range(3)] == [1, 1, 1]
    buffer = Buffer(shm / "buffer")
    assert list(totals(buffer).values()) == [3]
    assert buffer.statistics.attached == 4


def test_removed_file_is_made_anew(shm: Path) -> None:
    """A path whose file was removed is a new buffer, and the old one works on."""
    old = Buffer(shm / "buffer", **SMALL)
    os.unlink(shm / "buffer")
    new = Buffer(shm / "buffer", **SMALL)
    assert new is not old
    for buffer, amount in ((old, 1), (new, 2)):
        claim(buffer, claim_stream(buffer)).measure(amount)
    assert list(totals(old).values()) == [1]
    assert list(totals(new).values()) == [2]


def test_processes_that_create_at_once_share_one_buffer(shm: Path, processes: Processes) -> None:
    """Of 16 processes that make the same file, one does; all are in it and nothing is left over."""
    rounds = 6
    gates = [Gate() for _ in range(rounds)]

    def create() -> None:
        for n, gate in enumerate(gates):
            gate.wait()
            buffer = Buffer(shm / f"buffer {n}", series=64, lanes=32, record_bytes=8192)
            claim(buffer, claim_stream(buffer), {"shared": True}).measure(1)

    children = [processes.fork(create) for _ in range(16)]
    for gate in gates:
        gate.open()
    for child in children:
        child.result()
    assert sorted(os.listdir(shm)) == [f"buffer {n}" for n in range(rounds)]
    for n in range(rounds):
        buffer = Buffer(shm / f"buffer {n}")
        assert list(totals(buffer).values()) == [16]
        assert buffer.statistics.attached == 17


# Refused.


@pytest.mark.parametrize(
    ("offset", "words", "why"),
    [
        (0, [0], "is not an otel_shm buffer"),
        (0, [int.from_bytes(b"PROM_SHM", "little")], "is not an otel_shm buffer"),
        (8, [0], "another version than this package's (2)"),
        (8, [1], "another version than this package's (2)"),
        (16, [65536], "another page size"),
        (24, [4096], "does not have the length its header says"),
        (32, [0], "does not have the length its header says"),
        (32, [2**40], "does not have the length its header says"),
        (32, [2**64 - 1], "does not have the length its header says"),
        (40, [5], "does not have the length its header says"),
        (40, [2**32], "does not have the length its header says"),
        (48, [2**64 - 8], "does not have the length its header says"),
        (32, [2**63, 2**63, 2**63], "does not have the length its header says"),
    ],
    ids=repr,
)
def test_other_header_is_refused(shm: Path, offset: int, words: list[int], why: str) -> None:
    """What is no buffer of this version and machine is refused, and left as it is."""
    path = shm / "buffer"
    Buffer(path, **SMALL)
    gc.collect()
    data = bytearray(path.read_bytes())
    struct.pack_into(f"<{len(words)}Q", data, offset, *words)
    path.write_bytes(data)
    assert why in str(refusal(BufferFormatError, path))
    assert path.read_bytes() == data


@pytest.mark.parametrize(
    ("cut", "added", "why"),
    [
        (True, 0, "is shorter than a buffer's header"),
        (True, 1, "is shorter than a buffer's header"),
        (True, 447, "is shorter than a buffer's header"),
        (True, 448, "truncated or damaged"),
        (True, 4096, "truncated or damaged"),
        (False, -4096, "truncated or damaged"),
        (False, -1, "truncated or damaged"),
        (False, +1, "truncated or damaged"),
        (False, +4096, "truncated or damaged"),
    ],
)
def test_other_length_is_refused(shm: Path, cut: bool, added: int, why: str) -> None:
    """A file that was cut off or grew is refused before anything of it is mapped."""
    path = shm / "buffer"
    Buffer(path, **SMALL)
    gc.collect()
    os.truncate(path, added if cut else path.stat().st_size + added)
    assert why in str(refusal(BufferFormatError, path))


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_text_file_is_refused_and_kept(shm: Path, mode: int) -> None:
    """A file of somebody else's is not overwritten, and nobody is told to change or remove it."""
    path = shm / "notes.txt"
    path.touch()
    path.chmod(mode)
    path.write_text("not a buffer\n" * 1000)
    said = str(refusal(BufferFormatError, path))
    assert said.endswith("is not an otel_shm buffer, and is left as it is: give another path")
    assert path.read_text() == "not a buffer\n" * 1000


def test_what_is_no_plain_file_is_refused(shm: Path) -> None:
    """A symbolic link, to nothing or to a buffer, a directory and a FIFO are refused at once."""
    Buffer(shm / "buffer", **SMALL)
    (shm / "link").symlink_to(shm / "buffer")
    (shm / "dangling").symlink_to(shm / "nothing")
    (shm / "directory").mkdir()
    os.mkfifo(shm / "fifo", mode=0o600)
    for name in ("link", "dangling"):
        assert "is a symbolic link" in str(refusal(BufferPathError, shm / name))
    for name in ("directory", "fifo"):
        assert "is not a regular file" in str(refusal(BufferPathError, shm / name))
    assert not (shm / "nothing").exists()
    refusal(BufferPathError, "/dev/null")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o610, 0o666, 0o777])
def test_file_others_may_access_is_refused(shm: Path, mode: int) -> None:
    """A buffer that group or others can touch is not trusted."""
    path = shm / "buffer"
    Buffer(path, **SMALL)
    gc.collect()
    path.chmod(mode)
    assert "its mode must be 0600" in str(refusal(BufferPathError, path))


@as_root
def test_file_of_another_user_is_refused(shm: Path) -> None:
    """Root too does not use what another user could have prepared."""
    path = shm / "buffer"
    Buffer(path, **SMALL)
    gc.collect()
    os.chown(path, NOBODY, NOBODY)
    assert f"belongs to another user (uid {NOBODY})" in str(refusal(BufferPathError, path))


@as_root
def test_no_permission_is_said(shm: Path, processes: Processes) -> None:
    """Without permission for file or directory: the system's error, and who would need what."""
    path = shm / "buffer"
    Buffer(path, **SMALL)
    shm.chmod(0o755)

    def as_nobody() -> list[tuple[int | None, str]]:
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        errors = [refusal(BufferPathError, at) for at in (path, shm / "new", closed / "new")]
        return [(error.errno, str(error)) for error in errors]  # type: ignore[attr-defined]

    closed = shm / "closed"
    closed.mkdir(mode=0o700)
    of_file, of_directory, of_closed = processes.fork(as_nobody).result()
    for number, text in (of_file, of_directory, of_closed):
        assert number == errno.EACCES
        assert "Permission denied" in text
    assert (
        f"(uid 0): all processes of a buffer run as one user, and this one is uid {NOBODY}"
        in (of_file[1])
    )
    assert f"uid {NOBODY} may make no file in '{shm}'" in of_directory[1]
    assert f"uid {NOBODY} may not enter '{closed}'" in of_closed[1]


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("missing/buffer", errno.ENOENT),
        ("missing/", errno.ENOENT),
        ("file/buffer", errno.ENOTDIR),
        ("x" * 256, errno.ENAMETOOLONG),
        ("x/" * 2048 + "x", errno.ENAMETOOLONG),
    ],
    ids=lambda value: str(value)[:20],
)
def test_path_that_cannot_be_is_said(shm: Path, name: str, number: int) -> None:
    """A missing directory and the like: the system's error with its number, nothing left behind."""
    (shm / "file").touch()
    error = refusal(BufferPathError, f"{shm}/{name}")
    assert isinstance(error, OSError)
    assert error.errno == number
    assert os.strerror(number) in str(error)
    assert (f"no directory '{shm}/missing'" in str(error)) == (number == errno.ENOENT)
    assert os.listdir(shm) == ["file"]


@pytest.mark.parametrize("path", ["", b"/dev/shm/bytes", "nul\0nul"])
def test_what_is_no_path_is_said(path: Any) -> None:
    """Bytes, nothing and NUL are refused before the file system is asked."""
    with pytest.raises(BufferPathError, match="must be a non-empty str"):
        Buffer(path)


@pytest.mark.parametrize(
    "sizes",
    [
        {"series": 0},
        {"series": -1},
        {"series": 2**24 + 1},
        {"series": 2**64},
        {"series": 1.5},
        {"series": "16"},
        {"lanes": 1},
        {"lanes": 4097},
        {"record_bytes": 4095},
        {"record_bytes": 2**36 + 1},
        {"record_bytes": None},
    ],
    ids=repr,
)
def test_size_out_of_range_is_said(shm: Path, sizes: dict[str, Any]) -> None:
    """Sizes that cannot be are refused, also for anonymous buffers, and nothing is made."""
    for path in (None, shm / "buffer"):
        with pytest.raises(BufferSizeError) as raised:
            Buffer(path, **{**SMALL, **sizes})
        assert isinstance(raised.value, ValueError)
        ((option, size),) = sizes.items()
        assert str(raised.value).startswith(f"{option} (OTEL_SHM_{option.upper()}) must be ")
        assert str(raised.value).endswith(f", not {size!r}")
    assert os.listdir(shm) == []


def test_full_file_system_is_said(tmp_path: Path) -> None:
    """A buffer whose first pages find no room is an error with advice, and leaves nothing."""

    def create(place: Path) -> tuple[int | None, str, list[str]]:
        error = refusal(BufferPathError, place / "buffer")
        assert isinstance(error, OSError)
        return error.errno, str(error), os.listdir(place)

    number, text, left = in_small_tmpfs(tmp_path, "4k", create)
    assert number == errno.ENOSPC
    assert " KiB and grows with its series" in text
    assert "make room in" in text
    assert "smaller" in text
    assert left == []


def test_file_size_limit_is_said(shm: Path, processes: Processes) -> None:
    """A buffer larger than the process may write is an error with advice, and leaves nothing."""

    def create() -> tuple[int | None, str]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
        error = refusal(BufferPathError, shm / "buffer", series=10_000)
        assert isinstance(error, OSError)
        return error.errno, str(error)

    number, text = processes.fork(create).result()
    assert number == errno.EFBIG
    assert " MiB long" in text
    assert "raise the limit of a file's length (ulimit -f)" in text
    assert os.listdir(shm) == []


def attach_with_limit(path: Path, stream: int) -> None:
    """Claims and adds where the process may hardly write to files."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    claim(Buffer(path), stream, {"new": True}).measure(1)


def test_attaching_needs_no_file_size(shm: Path, processes: Processes) -> None:
    """A process whose limit is below the file's size may use it: the file does not grow."""
    buffer = Buffer(shm / "buffer", **SMALL)
    processes.spawn(attach_with_limit, shm / "buffer", claim_stream(buffer)).result()
    assert list(totals(buffer).values()) == [1]
