/* SPDX-License-Identifier: Apache-2.0
 *
 * The blocks of an exponential series: see HISTOGRAMS in layout.h.
 *
 * A block belongs to all processes, as a run does: the same slot numbers in each lane. Which block a
 * process uses is its own business. It starts with the finest scale at which the first value it sees
 * lies in reach of the center, and only ever moves to coarser ones.
 */
#include <stdlib.h>

#include "lanes.h"
#include "records.h"
#include "series.h"

#define CENTER_BIAS ((int64_t)1 << 40)

oshm_blocks *oshm_blocks_of(const struct oshm_buffer *buffer, uint64_t series)
{
    oshm_record fixed;
    const uint8_t *ignored;
    if (oshm_record_get(buffer, series, &fixed, &ignored) != OSHM_OK ||
        fixed.aggregation != OSHM_AGGREGATION_EXPONENTIAL)
        return NULL;
    return oshm_record_behind(buffer, series, &fixed,
                              (uint64_t)oshm_signs(fixed.kind) * sizeof(oshm_blocks));
}

/* The bucket that the first slot of a block is for. */
static int64_t lowest(const struct oshm_stream *stream, int64_t center, int32_t block)
{
    int32_t scale = stream->max_scale - block;
    uint32_t slots = oshm_block_slots(stream->max_size, scale);
    if (slots < 2 * (uint32_t)stream->max_size)
        return oshm_exponential_index(0x1p-1074, scale); /* all buckets there are */
    return (center >> block) - stream->max_size + 1;
}

int64_t oshm_block_lowest(const struct oshm_stream *stream, const oshm_blocks *blocks,
                          int32_t block)
{
    uint64_t center = atomic_load_explicit(&blocks->center, memory_order_relaxed);
    return lowest(stream, (int64_t)(center & (2 * CENTER_BIAS - 1)) - CENTER_BIAS, block);
}

/* The slots of a block in this process's lane, made if it is not there yet.
 * Returns: them, or NULL if there is no room: *status says why. */
static oshm_slot *block_slots(const struct oshm_stream *stream, oshm_blocks *blocks, int32_t block,
                              int *status)
{
    struct oshm_buffer *buffer = stream->buffer;
    uint32_t count = oshm_block_slots(stream->max_size, stream->max_scale - block);
    /* acquire: pairs with the CAS below, so the pages of lane 0 are there */
    uint64_t first = atomic_load_explicit(&blocks->first_slot[block], memory_order_acquire), mine;
    if (first == 0) {
        *status = oshm_slots_reserve(buffer, count, &mine);
        if (*status != OSHM_OK)
            return NULL;
        if (atomic_compare_exchange_strong_explicit(&blocks->first_slot[block], &first, mine,
                                                    memory_order_acq_rel, memory_order_acquire))
            first = mine;
    }
    *status = OSHM_DAMAGED;
    if (count > buffer->at.slots || first > buffer->at.slots - count)
        return NULL;
    *status = OSHM_OK;
    return oshm_lane_run(buffer, first, count, stream->fold);
}

/* Finds the bucket of a value that is not 0 in the next block that reaches it.
 * Returns: it, or NULL if there is no room: *status says why. */
static oshm_slot *find_bucket(const oshm_target *target, double value, int *status)
{
    const struct oshm_stream *stream = target->stream;
    oshm_blocks *blocks = oshm_blocks_of(stream->buffer, target->series);
    *status = OSHM_DAMAGED;
    if (blocks == NULL || target->places == NULL)
        return NULL;
    bool negative = value < 0;
    struct oshm_places *places = &target->places[negative];
    blocks += negative;
    if (negative)
        value = -value;
    int64_t finest = oshm_exponential_index(value, stream->max_scale);
    uint64_t center = 0;
    if (atomic_compare_exchange_strong_explicit(&blocks->center, &center,
                                                (uint64_t)(finest + CENTER_BIAS),
                                                memory_order_relaxed, memory_order_relaxed))
        center = (uint64_t)(finest + CENTER_BIAS);
    int64_t middle = (int64_t)(center & (2 * CENTER_BIAS - 1)) - CENTER_BIAS;

    int32_t block = atomic_load_explicit(&places->block, memory_order_acquire);
    for (block = block < 0 ? 0 : block; stream->max_scale - block >= OSHM_MIN_SCALE; block++) {
        int32_t scale = stream->max_scale - block;
        int64_t low = lowest(stream, middle, block);
        int64_t index = oshm_exponential_index(value, scale) - low;
        if ((uint64_t)index >= oshm_block_slots(stream->max_size, scale))
            continue;
        oshm_slot *slots = block_slots(stream, blocks, block, status);
        if (slots == NULL)
            return NULL;
        /* Two threads may do this at once: they write the same. */
        atomic_store_explicit(&places->at[block].low, low, memory_order_relaxed);
        atomic_store_explicit(&places->at[block].slots, slots, memory_order_relaxed);
        int32_t used = atomic_load_explicit(&places->block, memory_order_relaxed);
        while (used < block && !atomic_compare_exchange_weak_explicit(
                                   &places->block, &used, block, memory_order_release,
                                   memory_order_relaxed))
            ;
        return &slots[index];
    }
    return NULL; /* the coarsest block reaches everything: it is damaged */
}

static void record(oshm_slot *run, oshm_slot *bucket, double value, bool whole, int64_t amount)
{
    if (whole)
        oshm_record_int(run, bucket, amount);
    else
        oshm_record_float(run, bucket, value);
}

int oshm_record_slowly(const oshm_target *target, double value, bool whole, int64_t amount)
{
    int status, ignored;
    oshm_slot *bucket = find_bucket(target, value, &status);
    if (bucket != NULL) {
        record(target->run, bucket, value, whole, amount);
        return OSHM_OK;
    }
    /* No slots for a block. Without its bucket a value does not count at all, so all of it goes to the
     * overflow series, or is dropped if that has no room either. */
    oshm_target overflow = {0};
    if (oshm_series_place_overflow(target->stream, 1, &overflow) == OSHM_OK &&
        overflow.series != target->series)
        bucket = find_bucket(&overflow, value, &ignored);
    if (bucket != NULL)
        record(overflow.run, bucket, value, whole, amount);
    oshm_count(bucket != NULL ? &target->stream->buffer->header->overflowed
                              : &target->stream->buffer->header->dropped);
    oshm_target_release(&overflow);
    return status;
}
