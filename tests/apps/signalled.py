# SPDX-License-Identifier: Apache-2.0
"""Prints each signal that it gets, in order, and ends with 3 at SIGTERM."""

from __future__ import annotations

import os
import signal
import sys

NUMBERS = [
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGTERM,
    signal.SIGWINCH,
    signal.SIGTTIN,
    signal.SIGTTOU,
]

signal.pthread_sigmask(signal.SIG_BLOCK, NUMBERS)
print(os.getpid(), flush=True)
while (number := signal.sigwait(NUMBERS)) != signal.SIGTERM:
    print(signal.Signals(number).name, flush=True)
sys.exit(3)
