# SPDX-License-Identifier: Apache-2.0
"""Counts 300 hits in a few processes, threads or tasks, which the first argument names.

The second is the start method of multiprocessing, the third says who has a provider: with "everybody"
the main process too, with "children" only those it starts.
"""

from __future__ import annotations

import asyncio
import atexit
import multiprocessing
import subprocess
import sys
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import cache
from multiprocessing.connection import Connection

from opentelemetry import metrics
from opentelemetry.metrics import Counter


@cache
def hits() -> Counter:
    """The counter of this process; with it comes the provider that the environment asks for."""
    return metrics.get_meter("pools").create_counter("hits")


def work(count: int) -> None:
    """Counts in the process it is called in."""
    for _ in range(count):
        hits().add(1, {"route": "/"})


def work_when_told(count: int, told: Connection) -> None:
    """Counts when a message has come."""
    told.recv()
    work(count)


async def work_in_turns(count: int) -> None:
    """Counts one at a time, while others do the same."""
    for _ in range(count):
        work(1)
        await asyncio.sleep(0)


async def gathered() -> None:
    """Three tasks."""
    await asyncio.gather(*(work_in_turns(100) for _ in range(3)))


def mapped(executor: Executor) -> None:
    """Three calls."""
    with executor:
        list(executor.map(work, [100] * 3))


def main(kind: str, method: str) -> None:
    """Has 300 hits counted."""
    context = multiprocessing.get_context(method)
    if kind == "processes":
        processes = [context.Process(target=work, args=(100,)) for _ in range(3)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
    elif kind == "late processes":  # which multiprocessing waits for at its exit
        pipes = [context.Pipe(duplex=False) for _ in range(3)]
        # Exit handlers are run in the reverse order: when this is, the provider has been shut down.
        atexit.register(lambda: [tell.send("go on") for _, tell in pipes])
        hits()
        for told, _ in pipes:
            context.Process(target=work_when_told, args=(100, told)).start()
    elif kind == "pool":
        with context.Pool(3, maxtasksperchild=1) as pool:
            pool.map(work, [100] * 3, chunksize=1)
            pool.close()  # or they would be killed
            pool.join()
    elif kind == "executor":
        mapped(ProcessPoolExecutor(3, mp_context=context))
    elif kind == "programs":
        commands = [[sys.executable, __file__, "program"]] * 3
        for program in [subprocess.Popen(command) for command in commands]:
            assert program.wait() == 0
    elif kind == "program":
        work(100)
    elif kind == "threads":
        mapped(ThreadPoolExecutor(3))
    elif kind == "tasks":
        asyncio.run(gathered())


if __name__ == "__main__":
    arguments = [*sys.argv[1:], "spawn", "children"]
    if arguments[2] == "everybody":
        hits()
    main(*arguments[:2])
