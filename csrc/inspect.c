/* SPDX-License-Identifier: Apache-2.0
 *
 * What people look at and no collection needs: all records, and the entries of lanes, delta readers and
 * streams. Nothing in here writes to the file.
 */
#include "pages.h"
#include "records.h"
#include "series.h"

uint64_t oshm_index_next(const struct oshm_buffer *buffer, uint64_t *cell)
{
    for (; *cell < buffer->at.cells; ++*cell) {
        if (!oshm_pages_ready(buffer, buffer->at.index + *cell * 8, 8)) {
            *cell |= buffer->page_bytes / 8 - 1; /* on to the next page */
            continue;
        }
        /* acquire: pairs with the publishing CAS, so the record is complete */
        uint64_t found = atomic_load_explicit(&buffer->index[*cell], memory_order_acquire);
        if (found != 0 && found != OSHM_CELL_GONE) {
            ++*cell;
            return found & OSHM_CELL_POSITION;
        }
    }
    return 0;
}

static uint64_t load(const oshm_atomic_u64 *word)
{
    return atomic_load_explicit(word, memory_order_relaxed);
}

int oshm_lane_entry(const struct oshm_buffer *buffer, uint64_t lane, oshm_lane *entry)
{
    if (lane >= buffer->lanes)
        return OSHM_DAMAGED;
    const oshm_lane *there = &buffer->lane_table[lane];
    atomic_init(&entry->generation, load(&there->generation));
    atomic_init(&entry->pid, load(&there->pid));
    atomic_init(&entry->publishes, load(&there->publishes));
    atomic_init(&entry->answered, load(&there->answered));
    return OSHM_OK;
}

int oshm_reader_entry(const struct oshm_buffer *buffer, int reader, oshm_reader *entry)
{
    if (reader < 0 || reader >= OSHM_READERS)
        return OSHM_DAMAGED;
    const oshm_reader *there = &buffer->readers[reader];
    atomic_init(&entry->record, load(&there->record));
    /* acquire: pairs with oshm_reader_commit */
    atomic_init(&entry->epoch, atomic_load_explicit(&there->epoch, memory_order_acquire));
    for (int half = 0; half < 2; half++) {
        atomic_init(&entry->time_unix_nano[half], load(&there->time_unix_nano[half]));
        atomic_init(&entry->collection[half], load(&there->collection[half]));
    }
    return OSHM_OK;
}

int oshm_stream_entry(const struct oshm_buffer *buffer, uint64_t stream, oshm_stream_state *entry)
{
    const oshm_stream_state *there = oshm_stream_state_of(buffer, stream);
    if (there == NULL)
        return OSHM_DAMAGED;
    atomic_init(&entry->series, load(&there->series));
    atomic_init(&entry->limit, load(&there->limit));
    atomic_init(&entry->reusable, load(&there->reusable));
    return OSHM_OK;
}
