/* SPDX-License-Identifier: Apache-2.0
 *
 * The bucket of a value in a base-2 exponential histogram.
 *
 * Bucket i of scale s holds the values in (base^i, base^(i+1)], base = 2^(2^-s): with P = log2(value),
 * i = ceil(P * 2^s) - 1. The index is exact, also for the doubles next to a bound. So the buckets of
 * a coarser scale are unions of those of a finer one without exception, and the same value is in the
 * same bucket on every machine: no libm is asked.
 *
 * Scale <= 0. A power of two is the upper bound of its bucket, all other values have the bucket of
 * their exponent; each scale less halves the index. Nothing is rounded.
 *
 * Scale > 0, the quick way. P is the exponent plus log2 of the mantissa m in [1, 2). That is
 * approximated by one of 256 parabolas in fixed point, and kept as L: 52 fractional bits, lowered by
 * 2^-30. The approximation is off by less than 2^-30:
 *   parabola    the one through log2 at the three Chebyshev nodes of its piece, which is
 *               2h = 2^-8 wide: at most h^3/24 * max|log2'''| = 2^-27/24 * 2/ln 2 < 0.962 * 2^-30;
 *   table       half a unit of slope (2^-31) and bend (2^-32) over 2^-8: < 1.01 * 2^-40;
 *   offset      its bits below 2^-40 are dropped, times a slope < 1.443: < 1.45 * 2^-40;
 *   products    the first is cut to 2^-31 and goes times the offset, < 2^-8: < 2 * 2^-40 with the
 *               cut of the second, 2^-52;
 * together < 0.967 * 2^-30. Hence L < P < L + 2^-29, both strictly, and where both ends are in one
 * bucket so is P. Nearly always: one value in 2^(29-s) is too close to a bound.
 *
 * Scale > 0, the sure way. A power of two is an upper bound. For other values P * 2^s is no integer,
 * and its bits are read off by squaring: m^2 >= 2 says the first fractional bit of log2(m) is 1, then
 * m^2 / 2 is squared, else m^2, and so on. Each square is cut to 127 fractional bits and loses less
 * than 2^-125 of itself, so after j squarings less than 2^j * 2^-125 is lost, as if m itself had been
 * too low by 2^-125 of itself. A bit is wrong only if m is above some bound 2^(k / 2^s), and by less
 * than that share. There are 2^20 bounds in [1, 2) up to scale 20, and but for 1 none of them is
 * nearer to a double than 2^-26 of its last bit, 2^-78 (a test looks at all of them).
 */
#pragma once

#include <string.h>

#include "atomic.h"
#include "exponential_table.h"

#define OSHM_MANTISSA_BITS 52
#define OSHM_MANTISSA (((uint64_t)1 << OSHM_MANTISSA_BITS) - 1)
#define OSHM_EXPONENT_BIAS 1023
#define OSHM_LOG2_SPREAD ((int64_t)1 << (OSHM_MANTISSA_BITS - 29)) /* L < P < L + this */

/* The sure way, for a value between 2^exponent and twice that. */
__attribute__((noinline, cold)) static int32_t oshm_exponential_squared(int64_t exponent,
                                                                        uint64_t fraction, int scale)
{
    if (fraction == 0)
        return (int32_t)(exponent * ((int64_t)1 << scale)) - 1;
    /* m with 127 fractional bits. */
    __extension__ typedef unsigned __int128 wide;
    wide m = (wide)(fraction | (OSHM_MANTISSA + 1)) << (127 - OSHM_MANTISSA_BITS);
    int64_t index = exponent;
    for (int bit = 0; bit < scale; bit++) {
        uint64_t high = (uint64_t)(m >> 64), low = (uint64_t)m;
        /* m^2 with 126 fractional bits; less than two of the last are lost. */
        m = (wide)high * high + ((wide)high * low >> 63);
        if (m >> 127) { /* m^2 >= 2: as m^2 / 2 with 127 */
            index = index * 2 + 1;
        } else {
            index = index * 2;
            m <<= 1;
        }
    }
    return (int32_t)index;
}

/* The index of the bucket of a positive finite value, subnormal or not, at a scale from
 * OSHM_MIN_SCALE to OSHM_MAX_SCALE. */
static inline int32_t oshm_exponential_index(double value, int scale)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    int64_t exponent = (int64_t)(bits >> OSHM_MANTISSA_BITS);
    if (OSHM_UNLIKELY(exponent == 0)) { /* subnormal: shift its first bit to where it is implied */
        int shift = __builtin_clzll(bits) - (63 - OSHM_MANTISSA_BITS);
        bits <<= shift;
        exponent = 1 - shift;
    }
    exponent -= OSHM_EXPONENT_BIAS;
    uint64_t fraction = bits & OSHM_MANTISSA;
    if (scale <= 0)
        return (int32_t)(exponent - (fraction == 0)) >> -scale;

    const oshm_log2_piece *piece = &oshm_log2_pieces[fraction >> (OSHM_MANTISSA_BITS - 8)];
    uint64_t offset = fraction >> 12 & UINT32_MAX; /* in the piece, by 2^-40 */
    uint64_t slope = piece->slope - (piece->bend * offset >> 41);
    int64_t log = exponent * ((int64_t)1 << OSHM_MANTISSA_BITS) + piece->start +
                  (int64_t)(slope * offset >> 19);
    int finer = OSHM_MANTISSA_BITS - scale;
    if (OSHM_UNLIKELY((log ^ (log + OSHM_LOG2_SPREAD)) >> finer != 0))
        return oshm_exponential_squared(exponent, fraction, scale);
    return (int32_t)(log >> finer);
}
