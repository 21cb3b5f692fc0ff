# SPDX-License-Identifier: Apache-2.0
"""Has workers say when a signal can end them: gunicorn does not heed one that comes before."""

from __future__ import annotations

from gunicorn.workers.base import Worker


def post_worker_init(worker: Worker) -> None:
    """Gunicorn calls this when a worker's own signal handlers are in place."""
    print(f"{worker.pid} hears signals", flush=True)
