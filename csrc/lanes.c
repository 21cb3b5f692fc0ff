/* SPDX-License-Identifier: Apache-2.0
 *
 * Owning a lane, and the window onto it: see LANES in layout.h.
 */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <unistd.h>

#include "lanes.h"
#include "lock.h"
#include "pages.h"
#include "records.h"

static uint64_t lane_offset(const struct oshm_buffer *buffer, uint64_t lane)
{
    return buffer->at.lanes + lane * buffer->at.lane_bytes;
}

oshm_slot *oshm_lane_slots(const struct oshm_buffer *buffer, uint64_t lane, uint64_t first_slot,
                           uint64_t slots)
{
    uint64_t offset = lane_offset(buffer, lane) + first_slot * sizeof(oshm_slot);
    if (!oshm_pages_ready(buffer, offset, slots * sizeof(oshm_slot)))
        return NULL;
    return (oshm_slot *)(void *)(buffer->base + offset);
}

bool oshm_lane_live(const struct oshm_buffer *buffer, uint64_t lane)
{
    if (lane == 0)
        return true; /* nobody's lane: what it holds cannot be told from what the living added */
    /* acquire: pairs with the release in publish_lane, so the slots are seen clean */
    if (atomic_load_explicit(&buffer->lane_table[lane].state, memory_order_acquire) !=
        OSHM_LANE_LIVE)
        return false;
    return lane == buffer->lane || oshm_lock_elsewhere(buffer, OSHM_LOCK_LANES + lane);
}

oshm_slot *oshm_lane_run(struct oshm_buffer *buffer, uint64_t first_slot, uint64_t slots,
                         uint8_t fold)
{
    uint64_t offset = first_slot * sizeof(oshm_slot), bytes = slots * sizeof(oshm_slot);
    if (fold == OSHM_LAST || buffer->lane == 0 ||
        oshm_pages_ensure(buffer, lane_offset(buffer, buffer->lane) + offset, bytes) != OSHM_OK)
        return (oshm_slot *)(void *)(buffer->base + lane_offset(buffer, 0) + offset);

    uint64_t last = (offset + bytes - 1) / buffer->page_bytes;
    for (uint64_t page = offset / buffer->page_bytes; page <= last; page++)
        /* relaxed: read by this process's forked child only, which has one thread */
        atomic_store_explicit(&buffer->window_used[page], true, memory_order_relaxed);
    return (oshm_slot *)(void *)(buffer->window + offset);
}

/* Zeroes what the dead owner of a lane left in slots that count only while their owner lives. */
static void clean_lane(struct oshm_buffer *buffer, uint64_t lane)
{
    for (uint64_t i = 0; i < buffer->at.cells; i++) {
        if (!oshm_pages_ready(buffer, buffer->at.index + i * 8, 8)) {
            i |= buffer->page_bytes / 8 - 1; /* on to the next page */
            continue;
        }
        uint64_t cell = atomic_load_explicit(&buffer->index[i], memory_order_acquire);
        oshm_record record;
        const uint8_t *key;
        if (cell == 0 ||
            oshm_record_get(buffer, cell & OSHM_CELL_POSITION, &record, &key) != OSHM_OK ||
            record.type != OSHM_SERIES || record.fold == OSHM_SUM || record.fold == OSHM_LAST)
            continue;
        oshm_slot *run = oshm_lane_slots(buffer, lane, record.first_slot, record.slots);
        for (uint64_t s = 0; run && s < record.slots; s++)
            atomic_store_explicit(&run[s].word, 0, memory_order_relaxed);
    }
}

static void publish_lane(struct oshm_buffer *buffer, uint64_t lane)
{
    oshm_lane *entry = &buffer->lane_table[lane];
    if (atomic_load_explicit(&entry->state, memory_order_acquire) != OSHM_LANE_UNUSED) {
        atomic_store_explicit(&entry->state, OSHM_LANE_CLEANING, memory_order_release);
        clean_lane(buffer, lane);
    }
    uint64_t used = atomic_load_explicit(&buffer->header->lanes_used, memory_order_relaxed);
    while (used <= lane && !atomic_compare_exchange_weak_explicit(
                               &buffer->header->lanes_used, &used, lane + 1, memory_order_release,
                               memory_order_relaxed))
        ;
    atomic_fetch_add_explicit(&entry->generation, 1, memory_order_relaxed);
    atomic_store_explicit(&entry->pid, (uint64_t)getpid(), memory_order_relaxed);
    /* release: who sees LIVE sees the clean slots */
    atomic_store_explicit(&entry->state, OSHM_LANE_LIVE, memory_order_release);
}

/* Allocates those pages of a lane that the window has given out addresses in. */
static bool allocate_used_pages(struct oshm_buffer *buffer, uint64_t lane)
{
    for (uint64_t page = 0; page < buffer->at.lane_bytes / buffer->page_bytes; page++)
        if (atomic_load_explicit(&buffer->window_used[page], memory_order_relaxed) &&
            oshm_pages_ensure(buffer, lane_offset(buffer, lane) + page * buffer->page_bytes, 1))
            return false;
    return true;
}

int oshm_lane_take(struct oshm_buffer *buffer)
{
    uint64_t lane = 1;
    while (lane < buffer->lanes && !oshm_lock_try(buffer, OSHM_LOCK_LANES + lane))
        lane++;
    if (lane == buffer->lanes) {
        lane = 0; /* more processes than lanes */
    } else if (!allocate_used_pages(buffer, lane)) {
        oshm_lock_release(buffer, OSHM_LOCK_LANES + lane);
        lane = 0; /* no memory: in lane 0 all pages of published series are allocated */
    } else {
        publish_lane(buffer, lane);
    }

    void *window = mmap(buffer->window, buffer->at.lane_bytes, PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_NORESERVE | (buffer->window ? MAP_FIXED : 0),
                        buffer->file, (off_t)lane_offset(buffer, lane));
    if (window == MAP_FAILED) {
        if (lane != 0)
            oshm_lock_release(buffer, OSHM_LOCK_LANES + lane);
        return OSHM_ERROR_SYSTEM;
    }
    buffer->window = window;
    buffer->lane = lane;
    return OSHM_OK;
}
