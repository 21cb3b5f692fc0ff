# SPDX-License-Identifier: Apache-2.0
"""Counts in the processes of multiprocessing, by the start method named; nothing but set-up in each."""

from __future__ import annotations

import multiprocessing
import sys

from opentelemetry import metrics

hits = metrics.get_meter("pool").create_counter("hits")


def work(count: int) -> None:
    """Counts in another process."""
    for _ in range(count):
        hits.add(1, {"route": "/"})


if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    hits.add(1, {"route": "/"})
    processes = [context.Process(target=work, args=(100,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    sys.exit(any(process.exitcode for process in processes))
