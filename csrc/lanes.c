/* SPDX-License-Identifier: Apache-2.0
 *
 * Owning a lane, and the window onto it: see LANES in layout.h.
 */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <unistd.h>

#include "descriptor.h"
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

bool oshm_lane_live(struct oshm_buffer *buffer, uint64_t lane)
{
    /* Lane 0 is nobody's: what it holds cannot be told from what the living added. */
    return lane == 0 || lane == buffer->lane || oshm_lock_elsewhere(buffer, OSHM_LOCK_LIVE + lane);
}

/* Makes a run usable in a lane. Returns: whether it is; lane 0 is, for any published series. */
static bool make_usable(struct oshm_buffer *buffer, uint64_t lane, uint64_t offset, uint64_t bytes)
{
    return lane == 0 ||
           oshm_pages_ensure(buffer, lane_offset(buffer, lane) + offset, bytes) == OSHM_OK;
}

oshm_slot *oshm_lane_run(struct oshm_buffer *buffer, uint64_t first_slot, uint64_t slots,
                         uint8_t fold)
{
    uint64_t offset = first_slot * sizeof(oshm_slot), bytes = slots * sizeof(oshm_slot);
    uint64_t last = (offset + bytes - 1) / buffer->page_bytes, lane, next;
    do {
        lane = buffer->lane;
        next = buffer->next_lane;
        if (fold == OSHM_LAST || lane == 0 || !make_usable(buffer, lane, offset, bytes) ||
            !make_usable(buffer, next, offset, bytes))
            return (oshm_slot *)(void *)(buffer->base + lane_offset(buffer, 0) + offset);
        for (uint64_t page = offset / buffer->page_bytes; page <= last; page++)
            buffer->window_used[page] = true;
        /* If neither has changed by now, a thread that changes the lane later (it stores next_lane
         * first) sees the pages marked, and allocates them there before it moves the window. */
    } while (buffer->lane != lane || buffer->next_lane != next);
    return (oshm_slot *)(void *)(buffer->window + offset);
}

/* Calls what for every series that was ever published, with its run in a lane where that is allocated. */
static void for_each_run(struct oshm_buffer *buffer, uint64_t lane,
                         void (*what)(const struct oshm_buffer *, const oshm_record *, oshm_slot *))
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
            record.type != OSHM_SERIES)
            continue;
        oshm_slot *run = oshm_lane_slots(buffer, lane, record.first_slot, record.slots);
        if (run)
            what(buffer, &record, run);
    }
}

/* Zeroes what the dead owner of a lane left in slots that count only while their owner lives, and lets
 * go of the series it held. */
static void clean_run(const struct oshm_buffer *buffer, const oshm_record *record, oshm_slot *run)
{
    (void)buffer;
    atomic_store(&run[OSHM_HELD].word, 0); /* seq_cst: see series.c */
    if (record->fold == OSHM_SUM || record->fold == OSHM_LAST)
        return;
    for (uint64_t s = 0; s < record->slots; s++)
        atomic_store_explicit(&run[s].word, 0, memory_order_relaxed);
}

/* Holds a series whose address this process may have from before it had this lane. */
static void hold_run(const struct oshm_buffer *buffer, const oshm_record *record, oshm_slot *run)
{
    uint64_t page = record->first_slot * sizeof(oshm_slot) / buffer->page_bytes;
    if (record->fold != OSHM_LAST && buffer->window_used[page])
        atomic_fetch_add(&run[OSHM_HELD].word, 1); /* seq_cst: see series.c */
}

/* In a lane that is new to this process: what it held in the one before it holds here, for as long as it
 * lives, or for ever in lane 0. A forked child has copies of all its parent's addresses, and nobody knows
 * which it will use. */
static void hold_inherited(struct oshm_buffer *buffer, uint64_t lane)
{
    const uint64_t reused = (1u << OSHM_COUNTER) | (1u << OSHM_UP_DOWN_COUNTER) |
                            (1u << OSHM_GAUGE) | (1u << OSHM_HISTOGRAM);
    buffer->holding++;
    if ((atomic_load(&buffer->header->kept_kinds) & reused) != reused) /* seq_cst */
        for_each_run(buffer, lane, hold_run); /* else no slots are ever used again */
}

/* Makes a lane whose lock this process holds its own: clean, noted, live. */
static void publish_lane(struct oshm_buffer *buffer, uint64_t lane)
{
    oshm_lane *entry = &buffer->lane_table[lane];
    uint64_t before = atomic_fetch_add_explicit(&entry->generation, 1, memory_order_relaxed);
    buffer->generation = before + 1;
    if (before != 0)
        for_each_run(buffer, lane, clean_run);
    atomic_store(&entry->publishes, 0);
    atomic_store_explicit(&entry->pid, (uint64_t)getpid(), memory_order_relaxed);
    uint64_t used = atomic_load_explicit(&buffer->header->lanes_used, memory_order_relaxed);
    while (used <= lane && !atomic_compare_exchange_weak_explicit(
                               &buffer->header->lanes_used, &used, lane + 1, memory_order_release,
                               memory_order_relaxed))
        ;
    /* The system call orders the zeros before it: who finds the lock held finds them. */
    oshm_lock_try(buffer, OSHM_LOCK_LIVE + lane);
}

/* Allocates those pages of a lane that the window has given out addresses in. */
static bool allocate_used_pages(struct oshm_buffer *buffer, uint64_t lane)
{
    for (uint64_t page = 0; page < buffer->at.lane_bytes / buffer->page_bytes; page++)
        if (buffer->window_used[page] &&
            oshm_pages_ensure(buffer, lane_offset(buffer, lane) + page * buffer->page_bytes, 1))
            return false;
    return true;
}

/* Locks a free lane. Returns: its number, or 0 if there is none. */
static uint64_t lock_free_lane(struct oshm_buffer *buffer)
{
    for (uint64_t lane = 1; lane < buffer->lanes; lane++)
        if (oshm_lock_try(buffer, OSHM_LOCK_LANES + lane))
            return lane;
    return 0;
}

static void unlock_lane(struct oshm_buffer *buffer, uint64_t lane)
{
    if (lane == 0)
        return;
    oshm_lock_release(buffer, OSHM_LOCK_LIVE + lane);
    oshm_lock_release(buffer, OSHM_LOCK_LANES + lane);
}

int oshm_lane_take(struct oshm_buffer *buffer, bool forked)
{
    uint64_t before = buffer->lane, lane = lock_free_lane(buffer);
    buffer->next_lane = lane; /* first of all: see oshm_lane_run */
    if (lane != 0 && !allocate_used_pages(buffer, lane)) {
        /* No memory: in lane 0 all pages of published series are allocated. */
        unlock_lane(buffer, lane);
        buffer->next_lane = lane = 0;
    }
    if (lane == 0 && before == 0 && buffer->window != NULL && !forked) {
        oshm_lock_try_shared(buffer, OSHM_LOCK_LANES); /* it may have been lost: see lock.c */
        return OSHM_OK;
    }
    if (lane != 0)
        publish_lane(buffer, lane);
    if (buffer->window != NULL)
        hold_inherited(buffer, lane);

    void *window = mmap(buffer->window, buffer->at.lane_bytes, PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_NORESERVE | (buffer->window ? MAP_FIXED : 0),
                        oshm_descriptor(buffer), (off_t)lane_offset(buffer, lane));
    if (window == MAP_FAILED) {
        unlock_lane(buffer, lane);
        buffer->next_lane = before;
        return OSHM_ERROR_SYSTEM;
    }
    buffer->window = window;
    buffer->lane = lane;
    if (lane == 0) /* others see that the file is in use, and by how many need not be told */
        oshm_lock_try_shared(buffer, OSHM_LOCK_LANES);
    else if (before == 0)
        oshm_lock_release(buffer, OSHM_LOCK_LANES);
    return OSHM_OK;
}

static void keep_lane(struct oshm_buffer *buffer)
{
    if (buffer->part != OSHM_MEASURES)
        return;
    uint64_t lane = buffer->lane;
    if (lane == 0 || !oshm_lock_try(buffer, OSHM_LOCK_LANES + lane)) {
        /* There was none free, or it was lost to another process: sharing it was correct. */
        if (oshm_descriptor(buffer) >= 0)
            oshm_lane_take(buffer, false);
        return;
    }
    if (atomic_load_explicit(&buffer->lane_table[lane].generation, memory_order_relaxed) ==
        buffer->generation)
        oshm_lock_try(buffer, OSHM_LOCK_LIVE + lane);
    else
        publish_lane(buffer, lane); /* another process had it meanwhile, and is gone */
}

void oshm_lane_keep(struct oshm_buffer *buffer)
{
    /* One thread at a time: to the kernel all threads are the process that has the lock already. */
    if (atomic_exchange(&buffer->keeping, true))
        return;
    keep_lane(buffer);
    buffer->keeping = false;
}
