# SPDX-License-Identifier: Apache-2.0
"""A Celery app that counts its tasks, with a broker at BROKER: a folder, or the socket of a Redis.

With PROVIDER=children each worker process makes its provider itself, and ends it. Celery ends those by
os._exit, so no exit handler is run in them, but its own signal is sent.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from celery import Celery
from celery.signals import worker_process_init, worker_process_shutdown
from opentelemetry import metrics

broker = Path(os.environ["BROKER"])
app = Celery("tasks")
app.conf.worker_prefetch_multiplier = 1  # or the first process takes all
if broker.is_socket():
    app.conf.broker_url = f"redis+socket://{broker}"
else:
    app.conf.broker_url = "filesystem://"
    app.conf.broker_transport_options = {
        "data_folder_in": str(broker),
        "data_folder_out": str(broker),
        "control_folder": str(broker),
        "polling_interval": 0.05,
    }
instruments: dict[str, metrics.Counter] = {}


def make_instruments(**_: Any) -> None:
    """With them comes the provider that the environment asks for."""
    instruments["tasks"] = metrics.get_meter("tasks").create_counter("tasks", "{task}")


def shut_down(**_: Any) -> None:
    """What a worker process that made its provider itself has to do."""
    metrics.get_meter_provider().shutdown()  # type: ignore[attr-defined]


if os.environ.get("PROVIDER") == "children":
    worker_process_init.connect(make_instruments)
    worker_process_shutdown.connect(shut_down)
else:
    make_instruments()


@app.task(ignore_result=True)  # type: ignore[untyped-decorator]
def count(number: int) -> None:
    """Counts, and then leaves a file that says which process did."""
    instruments["tasks"].add(1, {"queue": "celery"})
    Path(os.environ["DONE"], f"{number}.{os.getpid()}").touch()
