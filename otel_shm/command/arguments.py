# SPDX-License-Identifier: Apache-2.0
"""What several commands take."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def seconds(least: float, most: float) -> Callable[[str], float]:
    """A type of argument: a time within bounds."""

    def convert(text: str) -> float:
        number = float(text)
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(f"must be {least:g} to {most:g} seconds")
        return number

    convert.__name__ = "number of seconds"  # argparse says: invalid number of seconds value
    return convert
