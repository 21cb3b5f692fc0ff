# SPDX-License-Identifier: Apache-2.0
"""Programs under `opentelemetry-instrument`, and whose provider they say is set."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from receiver import Receiver  # pytest's `pythonpath` setting points at examples/

APPS = Path(__file__).parent / "apps"
PATIENCE = 60.0  # seconds; nothing here takes a tenth of it

INSTRUMENT = str(Path(sys.executable).with_name("opentelemetry-instrument"))
OURS = {"OTEL_PYTHON_METER_PROVIDER": "otel_shm"}
OURS_IS_SET = "otel_shm.provider\n"
STOCK_IS_SET = "opentelemetry.sdk.metrics._internal\n"


@contextmanager
def program(*command: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A program to talk with; killed if it has not ended by then."""
    process = subprocess.Popen(
        command,
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def running(*arguments: str, **environment: str) -> AbstractContextManager[subprocess.Popen[str]]:
    """A Python program under `opentelemetry-instrument`; spans and logs go nowhere by default."""
    nowhere = {"OTEL_TRACES_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none"}
    command = arguments or (str(APPS / "counting.py"),)
    return program(INSTRUMENT, sys.executable, *command, **{**nowhere, **environment})


def run(*arguments: str, **environment: str) -> tuple[int, str, str]:
    """The program from start to end. Returns: exit code, output, errors."""
    with running(*arguments, **environment) as process:
        output, errors = process.communicate("", timeout=PATIENCE)
        return process.returncode, output, errors


def over_http(receiver: Receiver) -> dict[str, str]:
    """What has metrics exported to a receiver."""
    return {
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": f"{receiver.endpoint}/v1/metrics",
        "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "http/protobuf",
    }
