# SPDX-License-Identifier: Apache-2.0
"""The rows of the tables: the calls that are timed, and what they are called with."""

from __future__ import annotations

import itertools
import random

ATTRIBUTES: dict[str, str | int] = {
    "method": "GET",
    "route": "/items/{id}",
    "status": 200,
    "scheme": "https",
    "version": "1.1",
    "host": "shop.example",
    "port": 443,
}
SETS = {count: dict(itertools.islice(ATTRIBUTES.items(), count)) for count in (1, 3, 7)}
FRESH = 1_000  # new attribute sets a round

# The same amount again and again is what a processor predicts best; these are more like durations.
_durations = random.Random(1)
VARIED = tuple(round(_durations.lognormvariate(4, 1.5), 3) for _ in range(1_000))
# What the SDK and this package have by default; prometheus_client is told.
BOUNDARIES = (
    0.0, 5.0, 10.0, 25.0, 50.0, 75.0, 100.0, 250.0,
    500.0, 750.0, 1000.0, 2500.0, 5000.0, 7500.0, 10000.0,
)  # fmt: skip

LOOP = "empty loop"
LOOP_VARIED = "empty loop over varied"
BOUND_ADD = "bound add(1)"
BOUND_ADD_FLOAT = "bound add(1.5)"
ADD = "add(1)"
PREBUILT = {count: f"add(1, prebuilt {count})" for count in SETS}
LITERAL = {count: f"add(1, literal {count})" for count in SETS}
SET = "gauge set(2.5)"
BOUND_SET = "bound gauge set(2.5)"
BOUND_RECORD = "bound record(3.5)"
BOUND_RECORD_VARIED = "bound record(varied)"
RECORD = "record(3.5)"
RECORD_PREBUILT = "record(3.5, prebuilt 3)"
RECORD_VARIED = "record(varied, prebuilt 3)"
RECORD_LITERAL = "record(3.5, literal 3)"
BOUND_EXPONENTIAL = "exponential: bound record(3.5)"
BOUND_EXPONENTIAL_VARIED = "exponential: bound record(varied)"
EXPONENTIAL_PREBUILT = "exponential: record(3.5, prebuilt 3)"
DROPPED = "dropped by a view: add(1, prebuilt 3)"
FILTERED = "filtered by a view: add(1, prebuilt 3)"
FIRST_USE = "first use of a set of 3"
CREATION = "create a provider"
ALL = [LOOP, BOUND_ADD, BOUND_ADD_FLOAT, ADD, *PREBUILT.values(), *LITERAL.values()]
ALL += [SET, BOUND_SET, DROPPED, FILTERED]
ALL += [BOUND_RECORD, RECORD, RECORD_PREBUILT, RECORD_LITERAL]
ALL += [LOOP_VARIED, BOUND_RECORD_VARIED, RECORD_VARIED]
ALL += [BOUND_EXPONENTIAL, BOUND_EXPONENTIAL_VARIED, EXPONENTIAL_PREBUILT, FIRST_USE, CREATION]
# What is asked of an instrument whose measurements may become exemplars, and of one whose may not.
OF_EXEMPLARS = [LOOP, BOUND_ADD, ADD, PREBUILT[3], BOUND_RECORD, RECORD_PREBUILT]
ALLOCATING_NOTHING = [BOUND_ADD, ADD, PREBUILT[3], BOUND_RECORD, RECORD_PREBUILT]
ONE_ARGUMENT = {LOOP, BOUND_ADD, BOUND_ADD_FLOAT, ADD, SET, BOUND_SET, BOUND_RECORD, RECORD}
ONE_ARGUMENT |= {LOOP_VARIED, BOUND_RECORD_VARIED, BOUND_EXPONENTIAL, BOUND_EXPONENTIAL_VARIED}


def loop_of(row: str) -> str:
    """The row that shows what the loop around a row's call costs."""
    varied = (LOOP_VARIED, BOUND_RECORD_VARIED, RECORD_VARIED, BOUND_EXPONENTIAL_VARIED)
    return LOOP_VARIED if row in varied else LOOP
