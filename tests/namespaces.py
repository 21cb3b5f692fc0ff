# SPDX-License-Identifier: Apache-2.0
"""Containers without an engine: processes with namespaces and mounts of their own.

A container's first process is forked, so it spares the start of an interpreter, and is pid 1 in there.
All of a container, its mounts too, is gone with that process, which is killed with its test.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fcntl import ioctl
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from processes import Process, Processes

#: Where a container has its volume.
VOLUME = Path("/mnt")
SHARED_MEMORY = Path("/dev/shm")
TEMPORARY = Path("/tmp")
READ_ONLY = "ro"

_LIBC = ctypes.CDLL(None, use_errno=True)
_NEW_MOUNTS, _NEW_IPC, _NEW_USERS, _NEW_PIDS, _NEW_NETWORK = (
    0x00020000,
    0x08000000,
    0x10000000,
    0x20000000,
    0x40000000,
)
_MS_RDONLY, _MS_REMOUNT, _MS_BIND = 1, 32, 4096
_MS_PRIVATE, _MS_RELATIME = 0x4000 | 0x40000, 1 << 21
_DEVICES = ("null", "zero", "urandom")
_SET_DEATH_SIGNAL, _SET_DUMPABLE = 1, 4
_GET_FLAGS, _SET_FLAGS, _UP = 0x8913, 0x8914, 1


@dataclass(frozen=True)
class Container:
    """What a container has of its own, beside its pids, its mounts and its IPC."""

    #: Of the host; it is at VOLUME.
    volume: Path | None = None
    #: The size of its /dev/shm; None: it has none; READ_ONLY: one that may not be written.
    shm: str | None = "64m"
    #: The size of its /tmp; None: the host's.
    tmp: str | None = None
    is_read_only: bool = False
    #: Its processes' user, who has no name and no home.
    uid: int = 0
    umask: int = 0o022
    #: True: no network but a loopback device.
    is_alone: bool = False


class Running:
    """A container that runs."""

    def __init__(self, process: Process, first: int) -> None:
        self._process = process
        #: The pid of its first process, on the host.
        self.first = first

    def result(self) -> Any:
        """What its first process answered."""
        return self._process.result()

    def kill(self) -> None:
        """Ends all of it, as an engine without patience does, or the kernel for want of memory."""
        os.kill(self.first, signal.SIGKILL)
        self._process.wait()


class Containers:
    """Starts containers; those that are still there at its end are killed."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes

    def start(
        self, container: Container, work: Callable[..., Any], *arguments: Any, **options: Any
    ) -> Running:
        """Has a container's first process call work(*arguments, **options).

        Skips the test where no container can be made.
        """
        work = partial(work, **options)
        reader, writer = os.pipe()
        process = self._processes.fork(_engine, writer, container, work, arguments)
        os.close(writer)
        with os.fdopen(reader) as told:
            what, _, first = told.readline().partition(" ")
        if what == "refused":
            pytest.skip(f"no container can be made here: {first}")
        if what != "first":
            process.result()  # tells what was raised
        return Running(process, int(first))

    def run(
        self, container: Container, work: Callable[..., Any], *arguments: Any, **options: Any
    ) -> Any:
        """What the first process of a container answers."""
        return self.start(container, work, *arguments, **options).result()


@pytest.fixture
def containers() -> Iterator[Containers]:
    """Starts containers for one test."""
    with Processes() as processes:
        yield Containers(processes)


def _engine(
    told: int, container: Container, work: Callable[..., Any], arguments: tuple[Any, ...]
) -> Any:
    """Has a child in new namespaces do the work. Returns: its answer."""
    _die_with_the_parent()
    with os.fdopen(told, "w") as teller:
        new = _NEW_MOUNTS | _NEW_PIDS | _NEW_IPC | (_NEW_NETWORK if container.is_alone else 0)
        refused = unshare(new)
        if refused is None and container.uid and os.geteuid():
            refused = "only the superuser may become another user"
        if refused is not None:
            teller.write(f"refused {refused}\n")
            return None
        with Processes() as inside:
            first = inside.fork(_first_process, container, work, arguments)
            teller.write(f"first {first.pid}\n")
            teller.close()
            return first.result()


def _first_process(
    container: Container, work: Callable[..., Any], arguments: tuple[Any, ...]
) -> Any:
    _die_with_the_parent()
    assert os.getpid() == 1
    if container.is_alone:
        bring_loopback_up()
    _mount_all(container)
    for name in ("HOME", "USER", "LOGNAME", "XDG_RUNTIME_DIR", "TMPDIR"):
        os.environ.pop(name, None)
    os.umask(container.umask)
    if container.uid:
        os.setgroups([])
        os.setgid(0)
        os.setuid(container.uid)
        # Both are undone by a change of user, and would be as they are here in a program begun after it.
        _die_with_the_parent()
        _LIBC.prctl(_SET_DUMPABLE, 1)
    return work(*arguments)


def _mount_all(container: Container) -> None:
    mount("proc", "/proc", "proc")
    if container.volume is not None:
        mount(str(container.volume), str(VOLUME), None, _MS_BIND)
    if container.shm is None:
        _replace_devices()
    elif container.shm == READ_ONLY:
        mount("tmpfs", str(SHARED_MEMORY), "tmpfs", _MS_RDONLY)
    else:
        mount("tmpfs", str(SHARED_MEMORY), "tmpfs", 0, f"mode=1777,size={container.shm}")
    if container.tmp == READ_ONLY:
        mount("tmpfs", str(TEMPORARY), "tmpfs", _MS_RDONLY)
    elif container.tmp is not None:
        mount("tmpfs", str(TEMPORARY), "tmpfs", 0, f"mode=1777,size={container.tmp}")
    if container.is_read_only:
        mount(None, "/", None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _flags_of("/"))


def _replace_devices() -> None:
    """A /dev that has the devices which every program wants, and nothing else, for reading only."""
    kept = [os.open(f"/dev/{name}", os.O_PATH) for name in _DEVICES]
    mount("tmpfs", "/dev", "tmpfs")
    for name, device in zip(_DEVICES, kept, strict=True):
        Path("/dev", name).touch()
        mount(f"/proc/self/fd/{device}", f"/dev/{name}", None, _MS_BIND)
        os.close(device)
    mount(None, "/dev", None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _flags_of("/dev"))


def _flags_of(place: str) -> int:
    """Flags of a mount, without which a user namespace may not mount it anew."""
    flags = os.statvfs(place).f_flag
    kept = os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC | os.ST_NOATIME | os.ST_NODIRATIME
    return flags & kept | (_MS_RELATIME if flags & os.ST_RELATIME else 0)


def mount(
    source: str | None, place: str, kind: str | None, flags: int = 0, options: str = ""
) -> None:
    """Mounts, as the system call does. OSError: it is refused."""
    texts = [text and text.encode() for text in (source, place, kind)]
    if _LIBC.mount(*texts, ctypes.c_ulong(flags), options.encode() or None):
        error = ctypes.get_errno()
        raise OSError(error, f"mount: {os.strerror(error)}", place)


def _die_with_the_parent() -> None:
    _LIBC.prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)


def unshare(new: int = _NEW_MOUNTS) -> str | None:
    """Gives this process namespaces of its own, as a user namespace's root if need be, and no mount that
    is made in them is seen elsewhere.

    Returns: None, or why it cannot.
    """
    uid, gid = os.geteuid(), os.getegid()
    if _LIBC.unshare(new if uid == 0 else new | _NEW_USERS):
        return f"unshare: {os.strerror(ctypes.get_errno())}"
    try:
        if uid != 0:
            maps = {"setgroups": "deny", "uid_map": f"0 {uid} 1", "gid_map": f"0 {gid} 1"}
            for file, text in maps.items():
                Path("/proc/self", file).write_text(text)
        mount("none", "/", None, _MS_PRIVATE)
    except OSError as error:
        return str(error)
    return None


def bring_loopback_up() -> None:
    """In a new network namespace, where it is down at first."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sH14x", b"lo", 0)
        (flags,) = struct.unpack_from("16xH", ioctl(any_socket, _GET_FLAGS, request))
        ioctl(any_socket, _SET_FLAGS, struct.pack("16sH14x", b"lo", flags | _UP))
