/* SPDX-License-Identifier: Apache-2.0
 *
 * What delta readers have had: see baseline.h. All of it but oshm_reader_claim is for the holder of the
 * collector lock alone, so plain loads and stores would do but for the one that makes a half valid.
 */
#include "baseline.h"
#include "histogram.h"
#include "lanes.h"
#include "pages.h"
#include "records.h"

int oshm_reader_claim(struct oshm_buffer *buffer, const uint8_t *key, uint64_t key_bytes)
{
    struct oshm_key wanted = {.type = OSHM_READER, .bytes = key, .length = key_bytes};
    uint64_t position;
    int status = oshm_record_claim(buffer, &wanted, &position, NULL);
    if (status != OSHM_OK)
        return status;
    for (int i = 0; i < OSHM_READERS; i++) {
        uint64_t there = 0;
        if (atomic_compare_exchange_strong(&buffer->readers[i].record, &there, position) ||
            there == position) /* seq_cst */
            return i;
    }
    return OSHM_FULL_READERS;
}

/* Which half of a reader's entry and arrays is valid. */
static unsigned valid_half(const struct oshm_buffer *buffer, int reader)
{
    /* acquire: pairs with oshm_reader_commit, in this process or the one before */
    return (unsigned)atomic_load_explicit(&buffer->readers[reader].epoch, memory_order_acquire) & 1;
}

static uint64_t array_offset(const struct oshm_buffer *buffer, int reader, unsigned half)
{
    return buffer->at.baselines + ((uint64_t)reader * 2 + half) * buffer->at.lane_bytes;
}

static oshm_slot *array(const struct oshm_buffer *buffer, int reader, unsigned half)
{
    return (oshm_slot *)(void *)(buffer->base + array_offset(buffer, reader, half));
}

void oshm_baseline_begin(const struct oshm_buffer *buffer, int reader, struct oshm_baseline *out)
{
    unsigned half = valid_half(buffer, reader);
    const oshm_reader *entry = &buffer->readers[reader];
    out->old = array(buffer, reader, half);
    out->new = array(buffer, reader, half ^ 1);
    out->collection = atomic_load_explicit(&entry->collection[half], memory_order_relaxed);
    out->time_unix_nano = atomic_load_explicit(&entry->time_unix_nano[half], memory_order_relaxed);
}

bool oshm_baseline_ready(struct oshm_buffer *buffer, int reader, uint64_t first_slot,
                         uint64_t slots)
{
    for (unsigned half = 0; half < 2; half++)
        if (oshm_pages_ensure(buffer,
                              array_offset(buffer, reader, half) + first_slot * sizeof(oshm_slot),
                              slots * sizeof(oshm_slot)) != OSHM_OK)
            return false;
    return true;
}

static void take(struct oshm_buffer *buffer, uint64_t slot, oshm_atomic_u64 *word, bool down)
{
    uint64_t found = atomic_load_explicit(word, memory_order_relaxed);
    while (found != 0) {
        for (int reader = 0; reader < OSHM_READERS; reader++) {
            if (atomic_load_explicit(&buffer->readers[reader].record, memory_order_relaxed) == 0)
                break;
            if (oshm_baseline_ready(buffer, reader, slot, 1))
                oshm_extend(&array(buffer, reader, valid_half(buffer, reader))[slot].word,
                            oshm_word_float(found), down);
        }
        /* It may have moved outward meanwhile: then that is taken too. release: an emptied word means
         * that the readers have what was in it. */
        if (atomic_compare_exchange_weak_explicit(word, &found, 0, memory_order_release,
                                                  memory_order_relaxed))
            return;
    }
}

void oshm_baseline_take_extremes(struct oshm_buffer *buffer, uint64_t first_slot, oshm_slot *run)
{
    take(buffer, first_slot + OSHM_INTERVAL_MIN, &run[OSHM_INTERVAL_MIN].word, true);
    take(buffer, first_slot + OSHM_INTERVAL_MAX, &run[OSHM_INTERVAL_MAX].word, false);
}

uint64_t oshm_reader_time(const struct oshm_buffer *buffer, int reader)
{
    return atomic_load_explicit(
        &buffer->readers[reader].time_unix_nano[valid_half(buffer, reader)], memory_order_relaxed);
}

void oshm_reader_commit(struct oshm_buffer *buffer, int reader, uint64_t collection,
                        uint64_t time_unix_nano)
{
    oshm_reader *entry = &buffer->readers[reader];
    uint64_t epoch = atomic_load_explicit(&entry->epoch, memory_order_relaxed) + 1;
    atomic_store_explicit(&entry->collection[epoch & 1], collection, memory_order_relaxed);
    atomic_store_explicit(&entry->time_unix_nano[epoch & 1], time_unix_nano, memory_order_relaxed);
    /* release: who sees the epoch sees its half of the entry and of the arrays */
    atomic_store_explicit(&entry->epoch, epoch, memory_order_release);
}

/* The slots of an array, or NULL if their pages are not allocated. */
static oshm_slot *slots_of(const struct oshm_buffer *buffer, int reader, unsigned half,
                           uint64_t first_slot, uint64_t slots)
{
    uint64_t offset = array_offset(buffer, reader, half) + first_slot * sizeof(oshm_slot);
    if (!oshm_pages_ready(buffer, offset, slots * sizeof(oshm_slot)))
        return NULL;
    return (oshm_slot *)(void *)(buffer->base + offset);
}

bool oshm_baseline_had(const struct oshm_buffer *buffer, uint64_t slot, uint64_t word)
{
    for (int reader = 0; reader < OSHM_READERS; reader++) {
        if (atomic_load_explicit(&buffer->readers[reader].record, memory_order_relaxed) == 0)
            break;
        const oshm_slot *had = slots_of(buffer, reader, valid_half(buffer, reader), slot, 1);
        if ((had ? atomic_load_explicit(&had->word, memory_order_relaxed) : 0) != word)
            return false;
    }
    return true;
}

void oshm_baseline_clear(struct oshm_buffer *buffer, uint64_t first_slot, uint64_t slots)
{
    for (int reader = 0; reader < OSHM_READERS; reader++)
        for (unsigned half = 0; half < 2; half++) {
            oshm_slot *had = slots_of(buffer, reader, half, first_slot, slots);
            for (uint64_t i = 0; had && i < slots; i++)
                atomic_store_explicit(&had[i].word, 0, memory_order_relaxed);
        }
}
