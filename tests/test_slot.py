# SPDX-License-Identifier: Apache-2.0
"""The operations on a series' run of slots: sums that never wrap, gauges that know they were set."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from typing import Any

import pytest
from buffers import SMALL, claim, claim_stream
from hypothesis import given
from hypothesis import strategies as st
from processes import Gate, Processes, processes, until

from otel_shm import buffer as rules
from otel_shm._core import ffi, lib
from otel_shm.buffer import Buffer
from otel_shm.series import Series, Stream

__all__ = ["processes"]

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
# As slot.h has them: what is exact, and what the plain atomic addition is for.
INT_LIMIT = INT64_MAX - 2**60
QUICK_LIMIT, QUICK_ADD = 2**62, 2**40

Number = int | float


class Slots:
    """One series of each kind in a buffer of its own."""

    def __init__(self) -> None:
        self.buffer = Buffer(**SMALL)
        self.counter = self._series(rules.COUNTER)
        self.updown = self._series(rules.UP_DOWN_COUNTER)
        self.gauge = self._series(rules.GAUGE)

    def _series(self, kind: int) -> Series:
        return claim(self.buffer, claim_stream(self.buffer, kind))

    def value(self, series: Series) -> Number | None:
        """What a scan says."""
        return self.buffer.read(series.record)

    def words(self, series: Series) -> list[int]:
        """The two words of the value, as they lie in memory."""
        return list(ffi.unpack(ffi.cast("uint64_t *", series._target.run), 2))


@pytest.fixture
def slots() -> Slots:
    """Fresh series."""
    return Slots()


def same(value: Number | None, expected: Number | None) -> bool:
    """Equal, of the same type and sign: 0, 0.0 and -0.0 are three."""
    return repr(value) == repr(expected)


@pytest.mark.parametrize(
    ("amounts", "total"),
    [
        ([0], 0),
        ([1], 1),
        ([-1], -1),
        ([5, -12], -7),
        ([1] * 1000, 1000),
        ([2**53 + 1], 2**53 + 1),
        ([True, True], 2),
        ([0.0], 0.0),
        ([-0.0], 0.0),
        ([-0.0, -0.0], 0.0),
        ([0.5, 0.25], 0.75),
        ([-1.5], -1.5),
        ([0.1] * 10, functools.reduce(operator.add, [0.1] * 10)),
        ([1.5, -1.5], 0.0),
        ([5e-324], 5e-324),
        ([1e308, 1e308], math.inf),
        ([1, 0.0], 1.0),
        ([1, 2, 0.5, 3], 6.5),
        ([0.5, -1], -0.5),
        ([2**53, 1.0], float(2**53 + 1)),
        ([INT_LIMIT], INT_LIMIT),
        ([-INT_LIMIT], -INT_LIMIT),
        ([INT_LIMIT - 1, 1], INT_LIMIT),
        ([INT_LIMIT, 1], float(INT_LIMIT + 1)),
        ([-INT_LIMIT, -1], float(-INT_LIMIT - 1)),
        ([INT_LIMIT, 1, -1], float(INT_LIMIT)),
        ([QUICK_LIMIT - 1, 1, 1], QUICK_LIMIT + 1),
        ([QUICK_ADD - 1, QUICK_ADD, QUICK_ADD + 1], 3 * QUICK_ADD),
        ([-QUICK_LIMIT + 1, -1, -1, 5], -QUICK_LIMIT + 4),
        ([INT64_MAX], 2.0**63),
        ([INT64_MIN], -(2.0**63)),
        ([INT64_MAX] * 3, 3 * 2.0**63),
        ([INT64_MIN] * 3, -3 * 2.0**63),
        ([2**62] * 5, 5 * 2.0**62),
        ([-(2**62)] * 5, -5 * 2.0**62),
        ([2**62] * 3 + [-(2**62)] * 4, -(2.0**62)),
        ([2**64], 2.0**64),
        ([-(2**100), 2**100, 1], 1.0),
        ([10**300], 1e300),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_sum(slots: Slots, amounts: list[Number], total: Number) -> None:
    """Ints stay exact ints as long as they fit, floats make the sum a float, nothing wraps."""
    for amount in amounts:
        slots.updown.measure(amount)
    assert same(slots.value(slots.updown), total)


def test_untouched_series_has_no_value(slots: Slots) -> None:
    """A series that was claimed and never measured is left out; adding 0 makes it a point."""
    stream = Stream(slots.buffer, claim_stream(slots.buffer, name="another"))
    series, _ = stream.claim(b"", measured=False)
    assert slots.value(series) is None
    series.start()
    series.measure(0)
    assert same(slots.value(series), 0)


def test_set_of_zero_is_set(slots: Slots) -> None:
    """A gauge that was never set has no value; one that was set to 0 has."""
    assert slots.value(slots.gauge) is None
    slots.gauge.measure(0)
    assert same(slots.value(slots.gauge), 0)


@pytest.mark.parametrize(
    ("amounts", "value"),
    [
        ([1], 1),
        ([-1], -1),
        ([5, 3], 3),
        ([INT64_MAX], INT64_MAX),
        ([INT64_MIN + 1], INT64_MIN + 1),
        ([INT64_MIN], float(INT64_MIN)),
        ([INT64_MIN, 7], 7.0),
        ([2**63], 2.0**63),
        ([-(2**63) - 1], -(2.0**63)),
        ([0.0], 0.0),
        ([-0.0], 0.0),
        ([1.5, 2], 2.0),
        ([1, 2.5], 2.5),
        ([1.5, 0], 0.0),
        ([0.0, INT64_MIN, 3], 3.0),
        ([5e-324], 5e-324),
        ([1e308], 1e308),
        ([True], 1),
    ],
    ids=repr,
)
def test_gauge(slots: Slots, amounts: list[Number], value: Number) -> None:
    """The last value stands; once a float was set it is a float for ever."""
    for amount in amounts:
        slots.gauge.measure(amount)
    assert same(slots.value(slots.gauge), value)


def test_float_gauge_is_float_for_other_processes_too(slots: Slots, processes: Processes) -> None:
    """What one process set to a float stays a float, whoever sets an int later."""
    slots.gauge.measure(1)
    processes.fork(slots.gauge.measure, 0.5).result()
    slots.gauge.measure(2)
    assert same(slots.value(slots.gauge), 2.0)
    processes.fork(slots.gauge.measure, 3).result()
    assert same(slots.value(slots.gauge), 3.0)


def float_word(value: float) -> int:
    """A double's bits with the sign flipped."""
    return int.from_bytes(memoryview(ffi.buffer(ffi.new("double *", value))), "little") ^ 2**63


@pytest.mark.parametrize(
    ("series", "operation", "amount", "words"),
    [
        ("counter", lib.oshm_add_int, 3, [3, 0]),
        ("counter", lib.oshm_add_int, -1, [2**64 - 1, 0]),
        ("counter", lib.oshm_add_int, INT64_MIN, [0, float_word(-(2.0**63))]),
        ("counter", lib.oshm_add_float, 0.0, [0, 2**63]),
        ("counter", lib.oshm_add_float, -0.0, [0, 2**63]),
        ("counter", lib.oshm_add_float, -1.5, [0, float_word(-1.5)]),
        ("gauge", lib.oshm_set_int, 0, [2**63, 0]),
        ("gauge", lib.oshm_set_int, -1, [2**63 - 1, 0]),
        ("gauge", lib.oshm_set_int, INT64_MIN, [0, float_word(-(2.0**63))]),
        ("gauge", lib.oshm_set_float, -0.0, [0, 2**63]),
        ("gauge", lib.oshm_set_float, 1.0, [0, float_word(1.0)]),
    ],
    ids=repr,
)
def test_words(
    slots: Slots, series: str, operation: Callable[..., None], amount: Number, words: list[int]
) -> None:
    """Fresh memory means "nothing yet", so every value that can be stored is another word than 0."""
    at: Series = getattr(slots, series)
    assert slots.words(at) == [0, 0]
    operation(at._target.run, amount)
    assert slots.words(at) == words


def test_lanes_together_pass_int64(processes: Processes) -> None:
    """Lanes that fit each, and not together, are one float of the right sign and size."""
    for sign in (1, -1):
        slots = Slots()  # a lane for the parent, two for the children
        gate = Gate()

        def add(slots: Slots = slots, sign: int = sign, gate: Gate = gate) -> int:
            slots.updown.measure(sign * (INT_LIMIT - 5))
            lane = slots.buffer.lane
            gate.wait()
            return lane

        children = [processes.fork(add) for _ in range(2)]
        slots.updown.measure(sign * (INT_LIMIT - 5))
        expected = float(sign * 3 * (INT_LIMIT - 5))
        until(lambda slots=slots, expected=expected: same(slots.value(slots.updown), expected))
        gate.open()
        assert {child.result() for child in children} == {2, 3}
        assert same(slots.value(slots.updown), sign * (INT_LIMIT - 5))


class Model:
    """What slot.h says of a sum in one lane, in Python."""

    def __init__(self) -> None:
        self.whole = 0
        self.real: float | None = None

    def add(self, amount: Number) -> None:
        """One measurement."""
        if isinstance(amount, int) and INT64_MIN <= amount <= INT64_MAX:
            quick = abs(self.whole) < QUICK_LIMIT and abs(amount) < QUICK_ADD
            if quick or abs(self.whole + amount) <= INT_LIMIT:
                self.whole += amount
                return
        self.real = (self.real or 0.0) + float(amount)

    @property
    def value(self) -> Number:
        """The sum as a scan must see it."""
        return self.whole if self.real is None else self.real + float(self.whole) + 0.0


around_limits = st.sampled_from([QUICK_ADD, QUICK_LIMIT, INT_LIMIT, INT64_MAX, 2**53]).flatmap(
    lambda limit: st.integers(limit - 2, limit + 2)
)
ints = st.one_of(
    st.integers(INT64_MIN, INT64_MAX),
    st.integers(-10, 10),
    around_limits,
    around_limits.map(lambda amount: -amount),
)
floats = st.floats(allow_nan=False, allow_infinity=False, width=32)
numbers = st.one_of(ints, floats)


@given(st.lists(numbers, max_size=30))
def test_any_sum_is_as_the_model_says(amounts: list[Number]) -> None:
    """Value and type are those of the rule in slot.h, to the last bit."""
    slots, model = Slots(), Model()
    for amount in amounts:
        slots.updown.measure(amount)
        model.add(amount)
        assert same(slots.value(slots.updown), model.value)


@given(st.lists(ints.map(abs), min_size=1, max_size=30), st.sampled_from([1, -1]))
def test_sum_of_ints_never_turns_its_sign(amounts: list[int], sign: int) -> None:
    """Ints of one sign add up to that sign: exactly, or past the limit as the nearest doubles do."""
    slots = Slots()
    for amount in amounts:
        slots.updown.measure(sign * amount)
    value, total = slots.value(slots.updown), sign * sum(amounts)
    if abs(total) <= INT_LIMIT:
        assert same(value, total)
    else:
        assert isinstance(value, float)
        assert math.isclose(value, total, rel_tol=len(amounts) * 2**-52)


@given(st.lists(numbers, min_size=1, max_size=20))
def test_gauge_keeps_the_last(amounts: list[Any]) -> None:
    """Whatever was set before, the last value stands, as a float if any was one."""
    slots = Slots()
    for amount in amounts:
        slots.gauge.measure(amount)
    has_float = any(isinstance(a, float) or not INT64_MIN < a <= INT64_MAX for a in amounts)
    expected = float(amounts[-1]) + 0.0 if has_float else amounts[-1]
    assert same(slots.value(slots.gauge), expected)
