# SPDX-License-Identifier: Apache-2.0
"""Buffers as the tests make them, without a provider: where they lie and what a scan says of them."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from points import exact
from processes import Processes

from otel_shm import buffer as rules
from otel_shm.attributes import decode_attributes, encode_attributes
from otel_shm.buffer import Buffer, Scanner, Series
from otel_shm.metadata import InstrumentIdentity, instrument_from_key, instrument_key, scope_key
from otel_shm.meter import Meter

SCOPE = InstrumentationScope("tests")
SMALL = {"series": 16, "lanes": 4, "record_bytes": 8192}

Attributes = dict[str, Any] | None


@pytest.fixture
def shm() -> Iterator[Path]:
    """A fresh directory on tmpfs, where buffers belong."""
    directory = Path(tempfile.mkdtemp(prefix="otel_shm_test_", dir="/dev/shm"))
    yield directory
    shutil.rmtree(directory)


def claim_instrument(
    buffer: Buffer, kind: int = rules.COUNTER, fold: int = rules.SUM, name: str = "requests"
) -> int:
    """The record of an instrument of the tests' scope."""
    identity = InstrumentIdentity(name, "", "")
    return buffer.claim_instrument(
        buffer.claim_scope(scope_key(SCOPE)), kind, fold, instrument_key(identity)
    )


def claim(buffer: Buffer, instrument: int, attributes: Attributes = None) -> Series:
    """The series of an attribute set, which must have a place of its own."""
    series, status = buffer.claim_series(
        instrument, encode_attributes(attributes or {}), measured=True
    )
    assert status == 0, rules.reason(status)
    return series


def updown_of(buffer: Buffer, attributes: Attributes = None) -> Series:
    """A series whose dead processes' shares are dropped."""
    record = claim_instrument(buffer, rules.UP_DOWN_COUNTER, rules.LIVE_SUM, "in_flight")
    return claim(buffer, record, attributes)


def counter_of(buffer: Buffer) -> Series:
    """A series whose dead processes' shares stay."""
    return claim(buffer, claim_instrument(buffer))


def meter_of(buffer: Buffer) -> Meter:
    """Makes instruments in a buffer, without a provider; with the `backend` fixture of either."""
    return Meter(buffer, SCOPE, lambda _observable: None)


def totals(buffer: Buffer) -> dict[tuple[str, str], int | float]:
    """Value by name and attributes of all series that have one; no series may be there twice."""
    rows = Scanner(buffer).scan(buffer.begin_collection())
    values = {}
    for row in rows:
        name = instrument_from_key(buffer.record_key(row.instrument)).name
        key = (name, exact(decode_attributes(buffer.record_key(row.series))))
        assert key not in values, f"{key} is there twice"
        values[key] = row.value
    return {key: value for key, value in values.items() if value is not None}


def lane_by_path(path: Path) -> int:
    """In a process started on its own: its lane."""
    return Buffer(path).lane


def in_small_tmpfs(directory: Path, size: str, work: Callable[[Path], Any]) -> Any:
    """Calls work(path of a tmpfs of that size) in a forked child with mounts of its own.

    The mount is seen by that child only and gone with it. Skips the test where nobody may mount.
    """

    def mounted() -> Any:
        refused = _unshare_mounts()
        if refused is None:
            place = directory / "small"
            place.mkdir()
            command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", str(place)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            refused = done.stderr if done.returncode else None
        return ("refused", refused) if refused else ("answer", work(place))

    with Processes() as started:
        what, answer = started.fork(mounted).result()
    if what == "refused":
        pytest.skip(f"no tmpfs can be mounted here: {answer}")
    return answer


def _unshare_mounts() -> str | None:
    """Gives this process mounts of its own, as a user namespace's root if need be.

    Returns: None, or why it cannot.
    """
    new_mounts, new_users, private = 0x00020000, 0x10000000, 0x4000 | 0x40000
    libc = ctypes.CDLL(None, use_errno=True)
    uid, gid = os.geteuid(), os.getegid()
    if libc.unshare(new_mounts if uid == 0 else new_mounts | new_users):
        return f"unshare: {os.strerror(ctypes.get_errno())}"
    if uid != 0:
        maps = {"setgroups": "deny", "uid_map": f"0 {uid} 1", "gid_map": f"0 {gid} 1"}
        try:
            for file, text in maps.items():
                Path("/proc/self", file).write_text(text)
        except OSError as error:
            return str(error)
    if libc.mount(b"none", b"/", None, private, None):
        return f"mount: {os.strerror(ctypes.get_errno())}"
    return None
