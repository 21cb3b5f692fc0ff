# SPDX-License-Identifier: Apache-2.0
"""`opentelemetry-instrument otel-shm run COMMAND`: COMMAND is instrumented, and not the supervisor.

opentelemetry-instrument has set this process up as one of the service by the time it gets here. So the
process is replaced by one that is not, which knows what it has to put in front of COMMAND's PYTHONPATH.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

_PACKAGE = "opentelemetry.instrumentation.auto_instrumentation"
_MARK = "OTEL_SHM_INSTRUMENTED_BY"  # between the two processes only


def step_out() -> str | None:
    """Replaces this process if it was instrumented. Before anything else; once it is done it goes on.

    Returns: the directory that instruments whatever has it in its PYTHONPATH, or None.
    """
    directory = os.environ.pop(_MARK, None)
    package = sys.modules.get(_PACKAGE)
    if directory is None and package is not None and package.__file__ is not None:
        _begin_anew(str(Path(package.__file__).parent))
    return directory


def _begin_anew(directory: str) -> NoReturn:
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    others = os.pathsep.join(path for path in paths if path != directory)
    environment = {**os.environ, _MARK: directory, "PYTHONPATH": others}
    os.execve(sys.executable, sys.orig_argv, environment)


def instrument(environment: dict[str, str], directory: str) -> None:
    """Has the process with this environment instrumented."""
    others = environment.get("PYTHONPATH")
    environment["PYTHONPATH"] = os.pathsep.join([directory, others] if others else [directory])
