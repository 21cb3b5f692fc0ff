/* SPDX-License-Identifier: Apache-2.0
 *
 * The atomic word of the buffer, and what this code demands of the machine.
 */
#pragma once

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "otel_shm needs a little-endian machine: the buffer's bytes are little-endian"
#endif
#if UINTPTR_MAX != 0xffffffffffffffffu
#error "otel_shm needs a 64-bit machine: the buffer maps more than fits in 32 bits"
#endif
#if ATOMIC_LLONG_LOCK_FREE != 2
#error "otel_shm needs lock-free 64-bit atomics: a lock would be left behind by a killed process"
#endif

typedef _Atomic uint64_t oshm_atomic_u64;
_Static_assert(sizeof(oshm_atomic_u64) == 8, "an atomic word is just the word");

#include "layout.h"

_Static_assert(sizeof(oshm_slot) == 8, "a slot is one word");
_Static_assert(sizeof(oshm_lane) == 64, "a lane's entry is one cache line");
_Static_assert(offsetof(oshm_header, record_cursor) == 128, "cursors start on their own cache line");
_Static_assert(offsetof(oshm_header, overflowed) % 64 == 0, "counters are off the cursors' lines");
_Static_assert(sizeof(oshm_header) == 448, "the header has no hidden padding");
_Static_assert(sizeof(oshm_record) == 64, "a record's fixed part has no hidden padding");
_Static_assert(sizeof(oshm_reader) == 64, "a reader's entry is one cache line");
_Static_assert(sizeof(oshm_stream_key) == 16, "a stream's boundaries start on 8 bytes");
_Static_assert(sizeof(oshm_row) == 120, "a row has no hidden padding");
_Static_assert(OSHM_MAX_SCALE - OSHM_MIN_SCALE + 1 == OSHM_SCALES, "a block for every scale");

/* What is worked out anew for each caller, and what is kept out of the callers' way. */
#define OSHM_INLINE static inline __attribute__((always_inline))
#define OSHM_APART static __attribute__((noinline))

/* Branch hints for the paths that are taken once a series. */
#define OSHM_LIKELY(x) __builtin_expect(!!(x), 1)
#define OSHM_UNLIKELY(x) __builtin_expect(!!(x), 0)
