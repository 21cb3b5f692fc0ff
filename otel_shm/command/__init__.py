# SPDX-License-Identifier: Apache-2.0
"""The command `otel-shm`: a supervisor, a sidecar, and what people want to know of buffers.

otel-shm run      starts a service, exports for it from outside, and removes its buffer at the end
otel-shm export   exports a buffer that exists
otel-shm ls       buffers on this machine
otel-shm rm       removes them
otel-shm dump     everything that is in one
otel-shm top      what happens in one, live

A module each; it says what its arguments are and does the work. What cannot be done for a reason that
the user can change is said in one line, with exit status 2.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from otel_shm.command import dump, export, ls, rm, run, top
from otel_shm.command.instrumented import step_out
from otel_shm.command.texts import error_text, say
from otel_shm.errors import OtelShmError

_MODULES = (run, export, ls, rm, dump, top)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; the console script.

    Returns: the exit status.
    """
    instrumented_by = step_out() if arguments is None else None
    options = _parser().parse_args(arguments)
    options.instrumented_by = instrumented_by
    try:
        status = int(options.work(options))
        sys.stdout.flush()  # here, where it may fail
        return status
    except OtelShmError as error:
        say(options.name, error_text(error))
        return 2
    except KeyboardInterrupt:
        return 130  # as shells have it: 128 + SIGINT
    except BrokenPipeError:
        # Whoever read the output has enough; nothing more may be written when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    from otel_shm import __version__

    parser = argparse.ArgumentParser(
        prog="otel-shm",
        description="Buffers of otel_shm: run a service on one, export it, look at it.",
    )
    parser.add_argument("--version", action="version", version=f"otel_shm {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in _MODULES:
        command = commands.add_parser(
            module.NAME, help=module.SUMMARY, description=module.DESCRIPTION
        )
        module.add_arguments(command)
        command.set_defaults(work=module.work, name=module.NAME)
    return parser
