# SPDX-License-Identifier: Apache-2.0
"""What the instruments of both backends take as an amount, and how they are called."""

from __future__ import annotations

import decimal
import enum
import fractions
import logging
import sys
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry.sdk import metrics as sdk
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from points import exact, measure_of, values
from sdk_version import SDK

pytestmark = pytest.mark.usefixtures("backend")

SDK_INSTRUMENT = "opentelemetry.sdk.metrics._internal.instrument"

Measure = Callable[..., None]


class Whole:
    """A whole number that is no int, as those of numpy are."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number

    def __index__(self) -> int:
        return self.number

    def __float__(self) -> float:
        return float(self.number)

    def __repr__(self) -> str:
        return f"Whole({self.number})"


class Scalar:
    """A float that has `__index__` too and raises from it, as numpy's and torch's scalars do."""

    def __float__(self) -> float:
        return 1.5

    def __index__(self) -> int:
        raise TypeError("only integer scalars can be converted to an index")

    def __repr__(self) -> str:
        return "Scalar()"


class Level(enum.IntEnum):
    """An int that is more than an int."""

    ONE = 1


@pytest.fixture(params=["instrument", "bound"])
def give(request: pytest.FixtureRequest, instrument: Any, measure: Measure) -> Measure:
    """What measures with the instrument, or with it bound to no attributes."""
    if request.param == "instrument":
        return measure
    return measure_of(instrument.bind())


@pytest.mark.parametrize(
    ("amount", "expected"),
    [
        (0, 0),
        (5, 5),
        (2**40, 2**40),
        (2**62, 2**62),
        (0.0, 0.0),
        (1.5, 1.5),
        (True, 1),
        (False, 0),
        (Level.ONE, 1),
        (Whole(7), 7),
        (Whole(2**64), 2.0**64),
        (Scalar(), 1.5),
        (decimal.Decimal("2.5"), 2.5),
        (fractions.Fraction(1, 4), 0.25),
        (2**63, 2.0**63),
        (2**100, 2.0**100),
        (5e-324, 5e-324),
        (sys.float_info.max, sys.float_info.max),
    ],
    ids=repr,
)
def test_amount_is_taken(
    give: Measure, amount: Any, expected: float, reader: InMemoryMetricReader
) -> None:
    """Whole numbers stay int as long as they fit, all others become float."""
    give(amount)
    assert exact(values(reader)) == exact({"{}": expected})


@pytest.mark.parametrize("amount", [-1, -1.5, -(2**62), -(2**63), decimal.Decimal("-0.5")], ids=str)
def test_negative_amount(
    kind: str,
    give: Measure,
    amount: Any,
    reader: InMemoryMetricReader,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A Counter or Histogram ignores it with the SDK's warning, the others take it."""
    give(amount)
    if kind in ("Counter", "Histogram"):
        verb = "Add" if kind == "Counter" else "Record"
        text = f"{verb} amount must be non-negative on {kind} i."
        assert caplog.record_tuples == [(SDK_INSTRUMENT, logging.WARNING, text)]
        assert values(reader) == {}
    else:
        assert values(reader) == {"{}": amount}
        assert not caplog.records


@pytest.mark.parametrize("amount", [float("nan"), float("inf"), -float("inf")], ids=str)
def test_amount_that_is_not_finite(
    kind: str,
    give: Measure,
    amount: float,
    reader: InMemoryMetricReader,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is ignored with the SDK's warning, and makes no point."""
    give(amount)
    give(decimal.Decimal(amount))
    verb = {"Gauge": "Set", "Histogram": "Record"}.get(kind, "Add")
    texts = [
        f"{verb} amount {shown} is not finite on {kind} i, ignoring measurement."
        for shown in (amount, decimal.Decimal(amount))
    ]
    assert caplog.record_tuples == [(SDK_INSTRUMENT, logging.WARNING, text) for text in texts]
    assert values(reader) == {}


@pytest.mark.parametrize(
    ("amount", "error"),
    [
        (None, TypeError),
        ("1", TypeError),
        (b"1", TypeError),
        (1j, TypeError),
        ([1], TypeError),
        (object(), TypeError),
        (10**400, OverflowError),
        (-(10**400), OverflowError),
        (decimal.Decimal("sNaN"), ValueError),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_amount_that_is_no_number_raises(
    give: Measure, amount: Any, error: type[Exception], reader: InMemoryMetricReader
) -> None:
    """What the SDK raises for raises here too, and measures nothing."""
    with pytest.raises(error) as ours:
        give(amount)
    assert values(reader) == {}
    if SDK >= (1, 45):  # before, it took anything
        stock = sdk.MeterProvider(shutdown_on_exit=False).get_meter("s").create_counter("c")
        with pytest.raises(error) as theirs:
            stock.add(amount)
        assert str(ours.value) == str(theirs.value)


def test_arguments_by_position_and_by_name(measure: Measure, reader: InMemoryMetricReader) -> None:
    """amount, attributes and context, in this order, as the API has them."""
    for n, call in enumerate(
        [
            lambda: measure(1, {"n": 0}, None),
            lambda: measure(1, {"n": 1}, context=None),
            lambda: measure(1, context=None, attributes={"n": 2}),
            lambda: measure(context=None, attributes={"n": 3}, amount=1),
            lambda: measure(amount=1, attributes={"n": 4}),
            lambda: measure(1, attributes={"n": 5}),
        ]
    ):
        assert call() is None
        assert values(reader)[f"{{'n': {n}}}"] == 1
    measure(1, attributes=None)
    assert values(reader)["{}"] == 1


@pytest.mark.parametrize(
    ("args", "names"),
    [
        ((), {}),
        ((), {"attributes": {}}),
        ((1, {}, None, None), {}),
        ((1,), {"amount": 1}),
        ((1, {}), {"attributes": {}}),
        ((1, {}, None), {"context": None}),
        ((1,), {"value": 1}),
        ((1,), {"Amount": 1}),
    ],
)
def test_wrong_arguments_raise(
    measure: Measure, args: tuple[Any, ...], names: dict[str, Any], reader: InMemoryMetricReader
) -> None:
    """Too few, too many, doubled or unknown ones are a TypeError, and measure nothing."""
    with pytest.raises(TypeError):
        measure(*args, **names)
    assert values(reader) == {}
