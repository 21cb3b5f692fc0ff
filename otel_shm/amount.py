# SPDX-License-Identifier: Apache-2.0
"""The amount of a measurement, from any Python number: what csrc/amount.h is for the C types."""

from __future__ import annotations

import operator
from typing import Any


def to_number(amount: Any) -> int | float:
    """A finite amount as int or float.

    What has `__index__` counts as an int (bool, IntEnum, numpy integers), the rest as its float
    (Decimal, Fraction, and the scalars of numpy and torch that have an `__index__` but raise
    TypeError from it).
    """
    if isinstance(amount, float):
        return amount
    try:
        return operator.index(amount)
    except TypeError:
        return float(amount)
