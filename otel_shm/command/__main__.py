# SPDX-License-Identifier: Apache-2.0
"""`python -m otel_shm.command`: the command without its script."""

import sys

from otel_shm.command import main

if __name__ == "__main__":
    sys.exit(main())
