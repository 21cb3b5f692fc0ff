/* SPDX-License-Identifier: Apache-2.0
 *
 * What one process keeps of a stream, and what a measurement does to one of its series.
 *
 * Everything a measurement needs is worked out when the stream is opened or the series is claimed; the
 * inline functions below are what is left for the call.
 */
#pragma once

#include "exponential.h"
#include "histogram.h"

#include "binding.h"

/* Process-local; constant but for what it points to. */
struct oshm_stream {
    struct oshm_buffer *buffer;
    uint64_t record;                   /* 0: the buffer had no room for it */
    const oshm_atomic_u64 *collection; /* number of the last one begun, in the header */
    uint8_t kind, aggregation, fold, operation;
    uint32_t slots;      /* length of a series' run */
    uint32_t boundaries; /* explicit: how many */
    int32_t max_scale;   /* exponential */
    int32_t max_size;
    int32_t signs;       /* exponential: 2 where there are negative values, else 1 */
    oshm_slot *nowhere;  /* the run of a series that has no place at all; nobody reads it */
    double boundary[];   /* and infinities, see oshm_bucket */
};

/* Where one process adds to the blocks of one exponential series, for values of one sign. */
struct oshm_places {
    _Atomic int32_t block; /* the one in use, scale = max_scale - block; -1 = none yet; release */
    struct {
        _Atomic(oshm_slot *) slots; /* NULL: not looked for yet. Relaxed; block publishes it */
        _Atomic int64_t low;        /* the bucket that the first slot is for */
    } at[OSHM_SCALES];
};

/* What an amount does to a run. */
enum oshm_operation {
    OSHM_ADD = 0,         /* a monotonic sum: an add that changes nothing is stamped */
    OSHM_ADD_STAMPED = 1, /* another sum: +1 and -1 leave no trace */
    OSHM_SET = 2,         /* the last value */
    OSHM_RECORD_EXPLICIT = 3,
    OSHM_RECORD_EXPONENTIAL = 4
};

/* Slots of a block of max_size buckets to both sides of the center, or of all there are. */
static inline uint32_t oshm_block_slots(int32_t max_size, int32_t scale)
{
    uint32_t all = scale > 0 ? UINT32_MAX : (2098u >> -scale) + 2, wide = 2 * (uint32_t)max_size;
    return wide < all ? wide : all;
}

/* Records a value whose bucket this process has not used yet, in this series or in the overflow series.
 * whole: it is an integer, which is amount. Cold.
 * Returns: OSHM_OK, or why no block could be had; then all of the value is in the overflow series. */
int oshm_record_slowly(const oshm_target *target, double value, bool whole, int64_t amount);

/* Where a positive value is counted. Returns: NULL if the block in use does not reach it. */
OSHM_INLINE oshm_slot *oshm_in_block(const struct oshm_stream *stream, struct oshm_places *places,
                                     double value)
{
    /* acquire: pairs with find_bucket */
    int32_t block = atomic_load_explicit(&places->block, memory_order_acquire);
    if (OSHM_UNLIKELY(block < 0))
        return NULL;
    int64_t index = oshm_exponential_index(value, stream->max_scale - block) -
                    atomic_load_explicit(&places->at[block].low, memory_order_relaxed);
    if (OSHM_UNLIKELY((uint64_t)index >=
                      oshm_block_slots(stream->max_size, stream->max_scale - block)))
        return NULL;
    return atomic_load_explicit(&places->at[block].slots, memory_order_relaxed) + index;
}

/* The bucket of an exponential histogram. Returns: NULL if this process has not used it yet. */
OSHM_INLINE oshm_slot *oshm_exponential_bucket(const oshm_target *target, double value)
{
    const struct oshm_stream *stream = target->stream;
    bool negative = value < 0;
    if (OSHM_UNLIKELY(value == 0) || (OSHM_UNLIKELY(negative) && stream->signs < 2))
        return &target->run[OSHM_ZERO];
    return oshm_in_block(stream, &target->places[negative], negative ? -value : value);
}

/* Records an integer in a histogram. Its bucket comes last. */
OSHM_INLINE void oshm_record_int(oshm_slot *run, oshm_slot *bucket, int64_t amount)
{
    oshm_add_int(run, amount);
    oshm_widen(run, (double)amount);
    oshm_count_in(bucket);
}

/* The same for a double. */
OSHM_INLINE void oshm_record_float(oshm_slot *run, oshm_slot *bucket, double amount)
{
    oshm_add_float(run, amount);
    oshm_widen(run, amount);
    oshm_count_in(bucket);
}

/* What an integer does to a run; for all operations but OSHM_RECORD_EXPONENTIAL, which needs more. */
OSHM_INLINE void oshm_apply_int(oshm_slot *run, const struct oshm_stream *stream, int64_t amount,
                                  uint32_t operation)
{
    switch (operation) {
    case OSHM_ADD:
        if (OSHM_UNLIKELY(!oshm_add_int(run, amount)))
            oshm_stamp(run, stream->collection);
        return;
    case OSHM_ADD_STAMPED:
        oshm_add_int(run, amount);
        oshm_stamp(run, stream->collection);
        return;
    case OSHM_SET:
        oshm_set_int(run, amount);
        oshm_stamp(run, stream->collection);
        return;
    default: {
        uint32_t bucket = oshm_bucket_int(stream->boundary, stream->boundaries, amount);
        oshm_record_int(run, &run[OSHM_BUCKETS + bucket], amount);
    }
    }
}

/* The same for a double. */
OSHM_INLINE void oshm_apply_float(oshm_slot *run, const struct oshm_stream *stream, double amount,
                                    uint32_t operation)
{
    switch (operation) {
    case OSHM_ADD:
        if (OSHM_UNLIKELY(!oshm_add_float(run, amount)))
            oshm_stamp(run, stream->collection);
        return;
    case OSHM_ADD_STAMPED:
        oshm_add_float(run, amount);
        oshm_stamp(run, stream->collection);
        return;
    case OSHM_SET:
        oshm_set_float(run, amount);
        oshm_stamp(run, stream->collection);
        return;
    default: {
        uint32_t bucket = oshm_bucket(stream->boundary, stream->boundaries, amount);
        oshm_record_float(run, &run[OSHM_BUCKETS + bucket], amount);
    }
    }
}

/* What OSHM_RECORD_EXPONENTIAL does. Returns: OSHM_OK, or why it went to the overflow series. */
static inline int oshm_record_exponential_int(const oshm_target *target, int64_t amount)
{
    oshm_slot *bucket = oshm_exponential_bucket(target, (double)amount);
    if (OSHM_UNLIKELY(bucket == NULL))
        return oshm_record_slowly(target, (double)amount, true, amount);
    oshm_record_int(target->run, bucket, amount);
    return OSHM_OK;
}

/* The same for a double. */
static inline int oshm_record_exponential(const oshm_target *target, double amount)
{
    oshm_slot *bucket = oshm_exponential_bucket(target, amount);
    if (OSHM_UNLIKELY(bucket == NULL))
        return oshm_record_slowly(target, amount, false, 0);
    oshm_record_float(target->run, bucket, amount);
    return OSHM_OK;
}

/* One measurement of an integer. Returns: OSHM_OK, or why it went to the overflow series. */
static inline int oshm_aggregate_int(const oshm_target *target, int64_t amount)
{
    int status = OSHM_OK;
    if (target->operation == OSHM_RECORD_EXPONENTIAL)
        status = oshm_record_exponential_int(target, amount);
    else
        oshm_apply_int(target->run, target->stream, amount, target->operation);
    if (OSHM_UNLIKELY(target->refused != NULL) && status == OSHM_OK)
        oshm_count(target->refused);
    return status;
}

/* One measurement of a double. Returns: OSHM_OK, or why it went to the overflow series. */
static inline int oshm_aggregate_float(const oshm_target *target, double amount)
{
    int status = OSHM_OK;
    if (target->operation == OSHM_RECORD_EXPONENTIAL)
        status = oshm_record_exponential(target, amount);
    else
        oshm_apply_float(target->run, target->stream, amount, target->operation);
    if (OSHM_UNLIKELY(target->refused != NULL) && status == OSHM_OK)
        oshm_count(target->refused);
    return status;
}
