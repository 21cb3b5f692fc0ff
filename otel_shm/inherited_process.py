# SPDX-License-Identifier: Apache-2.0
"""Having the system metrics of a forked child observe the child.

opentelemetry-instrumentation-system-metrics asks one psutil.Process, made when it was: in a child that is
its parent, as under `opentelemetry-instrument gunicorn`, and the total of a service would be so many
times its master. The names below are private to it; a test fails if a supported version renames one.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

_logger = logging.getLogger(__name__)

_MODULE = "opentelemetry.instrumentation.system_metrics"


def renew() -> None:
    """In a forked child: what observed the parent observes this process."""
    module: Any = sys.modules.get(_MODULE)
    # There is one of them in a process, once there is any.
    instrumentor: Any = getattr(
        getattr(module, "SystemMetricsInstrumentor", None), "_instance", None
    )
    if not hasattr(instrumentor, "_proc"):
        return
    try:
        instrumentor._proc = module.psutil.Process()
    except Exception:  # no /proc, for one: nothing may keep a child from measuring
        _logger.warning("Metrics process.* of this process are its parent's", exc_info=True)
