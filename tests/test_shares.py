# SPDX-License-Identifier: Apache-2.0
"""A process that makes its provider anew goes on with what it observes, and does not add it again."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from buffers import shm
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from points import values
from processes import Processes, processes

import otel_shm
from otel_shm import shares
from otel_shm.buffer import Buffer

__all__ = ["processes", "shm"]


def observed_after_fork(path: Path) -> object:
    """What a forked child collects, in a thread of its own."""
    with ThreadPoolExecutor() as pool:
        return pool.submit(observed, path, CREATE[0], 5).result()


CREATE = ["create_observable_counter", "create_observable_up_down_counter"]


def observed(
    path: Path | None, create: str, amount: float, *, keep: list[object] | None = None
) -> object:
    """The total that a provider collects, whose callback says the amount; then it is shut down."""

    def callback(_: CallbackOptions) -> Iterable[Observation]:
        yield Observation(amount, {"of": "process"})

    reader = InMemoryMetricReader()
    provider = otel_shm.MeterProvider([reader], buffer=path, shutdown_on_exit=False)
    getattr(provider.get_meter("m"), create)("seconds", [callback])
    (total,) = values(reader, "seconds").values()
    provider.shutdown()
    if keep is not None:
        keep.append(provider)
    return total


@pytest.mark.parametrize("create", CREATE)
@pytest.mark.parametrize("is_kept", [False, True])
def test_next_provider_goes_on(shm: Path, create: str, is_kept: bool) -> None:
    """What the callbacks say now is the total, whether the process had let the file go or not."""
    keep: list[object] | None = [] if is_kept else None
    for amount in (100, 105, 105.5, 107):
        assert observed(shm / "buffer", create, amount, keep=keep) == amount
        gc.collect()


def test_lane_that_others_had_meanwhile(shm: Path, processes: Processes) -> None:
    """Their shares stay, and the process's own moves along."""
    path, create = shm / "buffer", CREATE[0]
    assert observed(path, create, 100) == 100
    gc.collect()
    assert processes.spawn(observed, path, create, 7).result() == 107
    assert processes.fork(observed, path, create, 10).result() == 117
    assert observed(path, create, 105) == 122


def test_file_made_anew_starts_anew(shm: Path) -> None:
    """Nothing is taken off for what was in another file at the same path."""
    path, create = shm / "buffer", CREATE[0]
    for _ in range(3):  # an inode is used again by some file systems
        assert observed(path, create, 100) == 100
        gc.collect()
        assert Buffer(path).remove()
        gc.collect()
        assert not os.path.exists(path)


def test_file_without_a_name_is_forgotten() -> None:
    """With its last provider: nobody can open it again."""
    gc.collect()
    before = len(shares._shares)
    for _ in range(3):
        assert observed(None, CREATE[0], 100) == 100
    gc.collect()
    assert len(shares._shares) == before


def test_providers_side_by_side_share(shm: Path) -> None:
    """A process counts once, whichever of its providers asks the callbacks."""
    readers = [InMemoryMetricReader(), InMemoryMetricReader()]
    providers = [
        otel_shm.MeterProvider([reader], buffer=shm / "buffer", shutdown_on_exit=False)
        for reader in readers
    ]
    for provider in providers:
        counter = provider.get_meter("m").create_observable_counter
        counter("seconds", [lambda _: [Observation(3)]])
    for _ in range(3):
        assert [list(values(reader, "seconds").values()) for reader in readers] == [[3], [3]]
    for provider in providers:
        provider.shutdown()


def test_fork_while_another_thread_observes(shm: Path, processes: Processes) -> None:
    """The child does not wait for a thread that stayed with its parent."""
    with shares.lock:
        child = processes.fork(observed_after_fork, shm / "buffer")
        assert child.result() == 5
