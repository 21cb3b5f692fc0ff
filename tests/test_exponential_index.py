# SPDX-License-Identifier: Apache-2.0
"""The bucket of a value in an exponential histogram: exact for every double, at every scale."""

from __future__ import annotations

import bisect
import functools
import math
import sys
from array import array
from decimal import Decimal, localcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_shm._core import lib

SCALES = range(-11, 21)
FINEST = 20
LEAST, MOST = 5e-324, sys.float_info.max
ONE = 2**52  # the mantissa of 1.0 as an integer; a mantissa is in [ONE, 2 * ONE)
PRECISION = 256  # bits after the point in the powers of two that bounds are made of

index = lib.oshm_exponential_index

values = st.floats(min_value=LEAST, max_value=MOST, allow_subnormal=True)
scales = st.integers(SCALES[0], SCALES[-1])


def mantissa_and_exponent(value: float) -> tuple[int, int]:
    """The value as mantissa * 2^(exponent - 52), subnormals too."""
    mantissa, exponent = math.frexp(value)
    return int(mantissa * 2 * ONE), exponent - 1


@functools.cache
def bounds() -> tuple[array[int], int]:
    """ONE * 2^(k/2^20) for all k < 2^20, rounded down, and how near the nearest of them but the first
    is to an integer, in 2^-64. From roots of two by integers: what they lose, by rounding down each
    time, stays below 2^-230."""
    roots = [2 << PRECISION]
    while len(roots) <= FINEST:
        roots.append(math.isqrt(roots[-1] << PRECISION))

    def powers(root: int) -> list[int]:
        made = [1 << PRECISION]
        while len(made) < 1024:
            made.append(made[-1] * root >> PRECISION)
        return made

    past = 2 * PRECISION - 52  # bits after the point of a product, as a mantissa
    floors, nearest = array("Q"), 1 << 64
    fine = powers(roots[20])
    for coarse in powers(roots[10]):
        for power in fine:
            product = coarse * power >> past - 64
            floors.append(product >> 64)
            if product != ONE << 64:
                after = product & 2**64 - 1
                nearest = min(nearest, after, 2**64 - 1 - after)
    return floors, nearest


def expected(value: float, scale: int) -> int:
    """The index by the bounds of the finest scale, which hold those of all others."""
    mantissa, exponent = mantissa_and_exponent(value)
    floors, _ = bounds()
    # The bounds below the value are those whose floor is below its mantissa: no other is an integer.
    finest = (exponent << FINEST) + bisect.bisect_left(floors, mantissa) - 1
    return finest >> FINEST - scale


def test_no_double_is_near_a_bound() -> None:
    """As the C code's proof needs it: no bound but a power of two is within 2^-26 of a mantissa."""
    floors, nearest = bounds()
    assert len(floors) == 2**FINEST
    assert nearest > 2 ** (64 - 26)


def test_both_sides_of_every_bound() -> None:
    """The last double below each bound is in one bucket, the first above it in the next."""
    floors, _ = bounds()
    assert index(1.0, FINEST) == -1
    assert index(math.nextafter(1.0, 2.0), FINEST) == 0
    wrong = [
        k
        for k, floor in enumerate(floors)
        if k > 0 and (index(floor / ONE, FINEST) != k - 1 or index((floor + 1) / ONE, FINEST) != k)
    ]
    assert wrong[:10] == []


@pytest.mark.parametrize("scale", range(1, 21))
def test_both_sides_of_bounds_in_every_octave(scale: int) -> None:
    """The same holds whatever the exponent, down to where subnormals have few bits left."""
    floors, _ = bounds()
    for exponent in range(-1074, 1024, 7):
        k = (exponent * 7919) % 2**scale
        below = math.ldexp(floors[k << FINEST - scale], exponent - 52)
        for value in (below, math.nextafter(below, math.inf)):
            if value > 0:
                assert index(value, scale) == expected(value, scale)


@pytest.mark.parametrize("scale", SCALES)
def test_powers_of_two(scale: int) -> None:
    """A power of two is still in the bucket of the double before it, also where it is the upper bound
    of that; the double after it is in the first bucket of its own octave."""
    for exponent in range(-1074, 1024):
        power = math.ldexp(1.0, exponent)
        own = (exponent << scale) - 1 if scale >= 0 else (exponent - 1) >> -scale
        assert index(power, scale) == own
        above = math.nextafter(power, math.inf)
        if exponent >= -1022:
            assert index(above, scale) == (exponent << scale if scale >= 0 else exponent >> -scale)
        if exponent > -1022:
            assert index(math.nextafter(power, 0.0), scale) == own


@pytest.mark.parametrize("scale", SCALES)
def test_ends_of_the_range(scale: int) -> None:
    """The least and the greatest double, subnormal and normal, are where they belong."""
    tiny = sys.float_info.min
    for value in (LEAST, 3 * LEAST, math.nextafter(tiny, 0.0), tiny, math.nextafter(tiny, 1.0)):
        assert index(value, scale) == expected(value, scale)
    last = (1024 << scale) - 1 if scale >= 0 else 1023 >> -scale
    assert index(MOST, scale) == index(math.nextafter(MOST, 0.0), scale) == last


def test_coarsest_scale_has_two_buckets() -> None:
    """Scale -11 divides all doubles at one."""
    assert [index(value, -11) for value in (LEAST, 1.0, math.nextafter(1.0, 2.0), MOST)] == [
        -1,
        -1,
        0,
        0,
    ]


@pytest.mark.parametrize("scale", [-10, -1, 0, 1, 8, 20])
def test_smallest_subnormals(scale: int) -> None:
    """Every double of a few bits is in its bucket."""
    for multiple in range(1, 2048):
        assert index(multiple * LEAST, scale) == expected(multiple * LEAST, scale)


@given(values, st.integers(0, 10))
def test_definition(value: float, scale: int) -> None:
    """base^i < value <= base^(i+1), both sides raised to 2^scale: integers."""
    mantissa, exponent = mantissa_and_exponent(value)
    bucket = index(value, scale) - (exponent << scale)
    power, one = mantissa ** (1 << scale), 52 << scale
    assert 1 << one + bucket < power <= 1 << one + bucket + 1


@given(values, scales)
def test_any_value(value: float, scale: int) -> None:
    """The index is that of the bounds made of integers."""
    assert index(value, scale) == expected(value, scale)


@given(
    st.integers(0, 2**FINEST - 1),
    st.integers(-(2**26), 2**26),
    st.integers(-1022, 1023),
    st.integers(1, FINEST),
)
def test_around_bounds(bound: int, distance: int, exponent: int, scale: int) -> None:
    """So it is where the quick way is just sure or just unsure: 2^-26 around a bound."""
    floors, _ = bounds()
    mantissa = floors[bound >> FINEST - scale << FINEST - scale] + distance
    value = math.ldexp(min(max(mantissa, ONE), 2 * ONE - 1), exponent - 52)
    assert index(value, scale) == expected(value, scale)


@given(values, values, scales)
def test_order(one: float, other: float, scale: int) -> None:
    """The greater of two values is in no lower bucket."""
    assert index(min(one, other), scale) <= index(max(one, other), scale)


@given(values, scales, scales)
def test_coarser_scales_merge_buckets(value: float, one: int, other: int) -> None:
    """A scale less halves the index, rounding down."""
    finer, coarser = max(one, other), min(one, other)
    assert index(value, finer) >> finer - coarser == index(value, coarser)


def test_table() -> None:
    """The table holds the parabolas through log2 at the Chebyshev nodes of 256 pieces of [1, 2)."""
    with localcontext() as context:
        context.prec = 40
        half = Decimal(1) / 512
        nodes = [half + half * Decimal(3).sqrt() / 2 * side for side in (-1, 0, 1)]
        for piece, row in enumerate(lib.oshm_log2_pieces):
            first, middle, last = (
                (1 + Decimal(piece) / 256 + node).ln() / Decimal(2).ln() for node in nodes
            )
            rise = (middle - first) / (nodes[1] - nodes[0])
            turn = (last - 2 * middle + first) / (nodes[1] - nodes[0]) ** 2 / 2
            slope = rise - turn * (nodes[0] + nodes[1])
            start = first - rise * nodes[0] + turn * nodes[0] * nodes[1] - Decimal(2) ** -30
            made = (round(start * 2**52), round(slope * 2**31), round(-turn * 2**32))
            assert (row.start, row.slope, row.bend) == made


def test_table_is_near_enough() -> None:
    """A parabola is less than 2^-30 from log2, as the C code's proof has it: less than 0.97 of that at
    64 places of each piece, and between two places their difference bends by less than 0.01 of it."""
    for piece, row in enumerate(lib.oshm_log2_pieces):
        for place in range(65):
            x = place / 64 / 256
            curve = row.start / ONE + row.slope / 2**31 * x - row.bend / 2**32 * x * x
            error = curve + 2**-30 - math.log2(1 + piece / 256 + x)
            assert abs(error) < 0.97 * 2**-30
