/* SPDX-License-Identifier: Apache-2.0
 *
 * The operations on the numbers of one series' run of slots.
 *
 * All of them are lock-free, may run in any number of threads and processes at once, and may be cut
 * short by SIGKILL anywhere: an update is made whole or not at all. The orders are relaxed: a word
 * carries nothing but its own value, and the record that makes it findable was published before.
 * (The one pair that needs an order, an observed value and its stamp, says so.)
 *
 * A stamp is the number of the last collection begun. It is there for readers with delta temporality,
 * which send only what was measured since their last collection, and is written where the words alone
 * may not tell: a set to the same value, an add that changes nothing, +1 and -1. An update just when a collection
 * begins may carry the number before; if it changed the value, it is seen by that all the same.
 *
 * A sum is int slot + float slot.
 *   int    two's complement; fetch_add. Never wraps: see oshm_add_int.
 *   float  bits of the double, sign bit flipped, so that the zero of fresh memory means "no float
 *          was ever added". (That is the pattern of -0.0, which is stored as +0.0.) CAS loop.
 *
 * A gauge is the float slot if that was ever set, else the int slot.
 *   int    value with the sign bit flipped, so that zero means "never set"; the one integer that
 *          would read as zero, INT64_MIN, is stored as a float.
 *   float  as above.
 */
#pragma once

#include <stdbool.h>
#include <string.h>

#include "atomic.h"

#define OSHM_SIGN 0x8000000000000000u

/* The int slot takes plain fetch_adds while it is below QUICK_LIMIT and the amount below QUICK_ADD;
 * it never passes INT_LIMIT. So 2^20 threads that all passed the check and were all held up before
 * their fetch_add still end below 2^63. */
#define OSHM_QUICK_ADD ((int64_t)1 << 40)
#define OSHM_QUICK_LIMIT ((int64_t)1 << 62)
#define OSHM_INT_LIMIT (INT64_MAX - ((int64_t)1 << 60))

static inline uint64_t oshm_float_word(double value)
{
    uint64_t bits;
    value += 0.0; /* -0.0 becomes +0.0 */
    memcpy(&bits, &value, sizeof bits);
    return bits ^ OSHM_SIGN;
}

static inline double oshm_word_float(uint64_t word)
{
    double value;
    word ^= OSHM_SIGN;
    memcpy(&value, &word, sizeof value);
    return value;
}

/* Adds to the float part of a sum. Returns: whether that changed it. */
static inline bool oshm_add_float(oshm_slot *run, double amount)
{
    oshm_atomic_u64 *slot = &run[OSHM_FLOAT].word;
    uint64_t old = atomic_load_explicit(slot, memory_order_relaxed);
    uint64_t new;
    do {
        new = oshm_float_word((old == 0 ? 0.0 : oshm_word_float(old)) + amount);
    } while (!atomic_compare_exchange_weak_explicit(slot, &old, new, memory_order_relaxed,
                                                    memory_order_relaxed));
    return new != old;
}

/* The rare part of oshm_add_int: a large amount or a large sum. Adds exactly where the result stays
 * within OSHM_INT_LIMIT, and to the float part where it does not. */
static inline bool oshm_add_large(oshm_slot *run, int64_t amount)
{
    oshm_atomic_u64 *slot = &run[OSHM_INT].word;
    uint64_t old = atomic_load_explicit(slot, memory_order_relaxed);
    int64_t new;
    do {
        if (__builtin_add_overflow((int64_t)old, amount, &new) || new > OSHM_INT_LIMIT ||
            new < -OSHM_INT_LIMIT) {
            return oshm_add_float(run, (double)amount);
        }
    } while (!atomic_compare_exchange_weak_explicit(slot, &old, (uint64_t)new, memory_order_relaxed,
                                                    memory_order_relaxed));
    return amount != 0;
}

/* Adds to the int part of a sum. Returns: whether that changed the sum. */
static inline bool oshm_add_int(oshm_slot *run, int64_t amount)
{
    oshm_atomic_u64 *slot = &run[OSHM_INT].word;
    int64_t now = (int64_t)atomic_load_explicit(slot, memory_order_relaxed);
    if (OSHM_LIKELY(now < OSHM_QUICK_LIMIT && now > -OSHM_QUICK_LIMIT && amount < OSHM_QUICK_ADD &&
                    amount > -OSHM_QUICK_ADD))
        atomic_fetch_add_explicit(slot, (uint64_t)amount, memory_order_relaxed);
    else
        return oshm_add_large(run, amount);
    return amount != 0;
}

/* Sets a gauge to a double. From then on the series is a double for every process. */
static inline void oshm_set_float(oshm_slot *run, double value)
{
    atomic_store_explicit(&run[OSHM_FLOAT].word, oshm_float_word(value), memory_order_relaxed);
}

/* Sets a gauge to an integer. */
static inline void oshm_set_int(oshm_slot *run, int64_t value)
{
    if (OSHM_UNLIKELY(value == INT64_MIN) ||
        OSHM_UNLIKELY(atomic_load_explicit(&run[OSHM_FLOAT].word, memory_order_relaxed) != 0))
        oshm_set_float(run, (double)value);
    else
        atomic_store_explicit(&run[OSHM_INT].word, (uint64_t)value ^ OSHM_SIGN, memory_order_relaxed);
}

/* Notes that a series was measured in this collection. */
static inline void oshm_stamp(oshm_slot *run, const oshm_atomic_u64 *collection)
{
    atomic_store_explicit(&run[OSHM_STAMP].word,
                          atomic_load_explicit(collection, memory_order_relaxed),
                          memory_order_relaxed);
}

/* Notes that an observable's value, set just before, belongs to this collection. Release: who reads
 * the stamp with acquire reads that value or a later one. */
static inline void oshm_observed(oshm_slot *run, uint64_t collection)
{
    atomic_store_explicit(&run[OSHM_STAMP].word, collection, memory_order_release);
}

/* Counts one event in a counter about ourselves. */
static inline void oshm_count(oshm_atomic_u64 *counter)
{
    atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}
