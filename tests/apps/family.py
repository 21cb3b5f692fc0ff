# SPDX-License-Identifier: Apache-2.0
"""A process that counts, exports and forks a child; the child counts what it reads and lives on.

Prints the process ids of both. The child adds each number it reads; at the end of the input it exits
as programs do. The parent waits for it, adds 1000 and exits too.
"""

from __future__ import annotations

import os
import sys

from opentelemetry import metrics

meter = metrics.get_meter("family")
hits, flying = meter.create_counter("hits"), meter.create_up_down_counter("flying")
hits.add(5)
flying.add(100)
metrics.get_meter_provider().force_flush()  # type: ignore[attr-defined]
child = os.fork()
if child == 0:
    hits.add(1)
    flying.add(1)
    for line in sys.stdin:
        hits.add(int(line))
    sys.exit()
print(os.getpid(), child, flush=True)
os.waitpid(child, 0)
hits.add(1000)
