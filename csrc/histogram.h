/* SPDX-License-Identifier: Apache-2.0
 *
 * The operations on a histogram's run of slots. As in slot.h: lock-free, whole or not at all, and relaxed
 * but for one order: a value is counted in its bucket after it went into the sum, the minimum and the
 * maximum, and who reads reads the buckets first. So all that is counted is in the sum, and what is in the
 * sum only will be counted: a delta reader that finds nothing new in the buckets leaves the rest for its
 * next collection. A process that is killed in between has added a value that was never counted, no more.
 *
 * Minima and maxima are words like the float part of a sum: zero means "none". They only move outward,
 * but for the interval's, which a delta collection empties; those are never wider than the ones for
 * ever, so a value inside them needs no further look.
 */
#pragma once

#include "slot.h"

/* Boundaries up to this number are counted through, four at a time and without a branch; more are
 * searched by halves. */
#define OSHM_COUNT_THROUGH 64
#define OSHM_BOUNDARY_UNIT 4

typedef double oshm_two_doubles __attribute__((vector_size(16), aligned(8)));
typedef int64_t oshm_two_words __attribute__((vector_size(16)));

/* The bucket of a value, upper bounds inclusive: the number of boundaries below it. Behind the boundaries
 * infinity fills up a whole number of units. */
static inline uint32_t oshm_bucket(const double *boundaries, uint32_t count, double value)
{
    if (OSHM_LIKELY(count <= OSHM_COUNT_THROUGH)) {
        const oshm_two_doubles both = {value, value};
        oshm_two_words below = {0, 0}, below_too = {0, 0}; /* a comparison that holds is -1 */
        for (uint32_t i = 0; i < count; i += OSHM_BOUNDARY_UNIT) {
            below -= *(const oshm_two_doubles *)(boundaries + i) < both;
            below_too -= *(const oshm_two_doubles *)(boundaries + i + 2) < both;
        }
        below += below_too;
        return (uint32_t)(below[0] + below[1]);
    }
    uint32_t bucket = 0;
    while (count > 0) {
        uint32_t half = count / 2;
        if (boundaries[bucket + half] < value) {
            bucket += half + 1;
            count -= half + 1;
        } else {
            count = half;
        }
    }
    return bucket;
}

/* The same for an integer, exact where it is no double: what it was rounded to may be a boundary that
 * is really below it. */
static inline uint32_t oshm_bucket_int(const double *boundaries, uint32_t count, int64_t value)
{
    double rounded = (double)value;
    uint32_t bucket = oshm_bucket(boundaries, count, rounded);
    if (OSHM_UNLIKELY(bucket < count && boundaries[bucket] == rounded) &&
        rounded < 0x1p63 && (int64_t)rounded < value)
        bucket++;
    return bucket;
}

/* Moves a minimum down or a maximum up to a value. */
static inline void oshm_extend(oshm_atomic_u64 *slot, double value, bool down)
{
    uint64_t old = atomic_load_explicit(slot, memory_order_relaxed);
    while (old == 0 ||
           (down ? value < oshm_word_float(old) : value > oshm_word_float(old)))
        if (atomic_compare_exchange_weak_explicit(slot, &old, oshm_float_word(value),
                                                  memory_order_relaxed, memory_order_relaxed))
            return;
}

/* Notes a value in the minima and maxima. */
static inline void oshm_widen(oshm_slot *run, double value)
{
    uint64_t low = atomic_load_explicit(&run[OSHM_INTERVAL_MIN].word, memory_order_relaxed);
    uint64_t high = atomic_load_explicit(&run[OSHM_INTERVAL_MAX].word, memory_order_relaxed);
    if (OSHM_UNLIKELY(low == 0 || value < oshm_word_float(low))) {
        oshm_extend(&run[OSHM_MIN].word, value, true);
        oshm_extend(&run[OSHM_INTERVAL_MIN].word, value, true);
    }
    if (OSHM_UNLIKELY(high == 0 || value > oshm_word_float(high))) {
        oshm_extend(&run[OSHM_MAX].word, value, false);
        oshm_extend(&run[OSHM_INTERVAL_MAX].word, value, false);
    }
}

/* Counts a value, which is in the sum and the extremes. Release: who sees it there sees it here too. */
static inline void oshm_count_in(oshm_slot *bucket)
{
    atomic_fetch_add_explicit(&bucket->word, 1, memory_order_release);
}
