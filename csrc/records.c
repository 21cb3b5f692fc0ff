/* SPDX-License-Identifier: Apache-2.0
 *
 * Records and the index that publishes them: see CLAIM in layout.h.
 */
#include <string.h>

#include "pages.h"
#include "records.h"

int oshm_record_get(const struct oshm_buffer *buffer, uint64_t position, oshm_record *fixed,
                    const uint8_t **key)
{
    if (position < 8 || position % 8 != 0 || position > buffer->record_bytes - sizeof *fixed ||
        !oshm_pages_ready(buffer, buffer->at.records + position, sizeof *fixed))
        return OSHM_DAMAGED;

    /* Copied once and only then judged: a hostile process may write while we look. */
    oshm_record *there = oshm_record_at(buffer, position);
    fixed->bytes = *(volatile uint32_t *)&there->bytes;
    fixed->key_bytes = *(volatile uint32_t *)&there->key_bytes;
    fixed->type = *(volatile uint8_t *)&there->type;
    fixed->kind = *(volatile uint8_t *)&there->kind;
    fixed->fold = *(volatile uint8_t *)&there->fold;
    fixed->slots = *(volatile uint8_t *)&there->slots;
    fixed->generation = there->generation;
    fixed->hash = *(volatile uint64_t *)&there->hash;
    fixed->parent = *(volatile uint64_t *)&there->parent;
    fixed->first_slot = *(volatile uint64_t *)&there->first_slot;
    /* acquire: pairs with the release of oshm_series_start */
    atomic_init(&fixed->start_time_unix_nano,
                atomic_load_explicit(&there->start_time_unix_nano, memory_order_acquire));

    if (fixed->bytes > buffer->record_bytes - position || fixed->bytes < sizeof *fixed ||
        fixed->key_bytes > fixed->bytes - sizeof *fixed ||
        !oshm_pages_ready(buffer, buffer->at.records + position, fixed->bytes))
        return OSHM_DAMAGED;
    if ((fixed->type == OSHM_SERIES || fixed->type == OSHM_INSTRUMENT) &&
        (fixed->kind < OSHM_COUNTER || fixed->kind > OSHM_OBSERVABLE_GAUGE ||
         fixed->fold < OSHM_SUM || fixed->fold > OSHM_ONE))
        return OSHM_DAMAGED;
    if (fixed->type == OSHM_SERIES && (fixed->slots < oshm_run_slots(fixed->fold) ||
                                       fixed->first_slot > buffer->at.slots - fixed->slots))
        return OSHM_DAMAGED;
    *key = (const uint8_t *)there + sizeof *fixed;
    return OSHM_OK;
}

static uint64_t hash_key(const struct oshm_key *key)
{
    const uint64_t odd = 0x9e3779b97f4a7c15u;
    uint64_t hash = (key->parent << 16 | (uint64_t)key->type << 8 | key->kind) * odd;
    for (uint64_t i = 0; i < key->length; i += 8) {
        uint64_t word = 0;
        memcpy(&word, key->bytes + i, key->length - i < 8 ? key->length - i : 8);
        hash = ((hash << 5 | hash >> 59) ^ word) * odd;
        hash ^= hash >> 32;
    }
    hash = (hash ^ key->length) * odd;
    return hash ^ hash >> 29;
}

static bool matches(const struct oshm_buffer *buffer, uint64_t position, const struct oshm_key *key,
                    uint64_t hash)
{
    oshm_record found;
    const uint8_t *bytes;
    return oshm_record_get(buffer, position, &found, &bytes) == OSHM_OK && found.hash == hash &&
           found.type == key->type && found.kind == key->kind && found.parent == key->parent &&
           found.key_bytes == key->length && memcmp(bytes, key->bytes, key->length) == 0;
}

/* A bump allocator in the buffer: a cursor over units of memory. */
struct arena {
    oshm_atomic_u64 *cursor;
    uint64_t offset, unit, capacity; /* bytes from the file's start, bytes, units */
    int full;                        /* the status when there are no units left */
};

/* Makes sure that count units at a place can be used: they exist and their memory is allocated. */
static int make_room(struct oshm_buffer *buffer, const struct arena *arena, uint64_t at,
                     uint64_t count)
{
    if (at > arena->capacity || count > arena->capacity - at)
        return arena->full;
    return oshm_pages_ensure(buffer, arena->offset + at * arena->unit, count * arena->unit) == OSHM_OK
               ? OSHM_OK
               : OSHM_FULL_MEMORY;
}

/* Moves the cursor over count units. Their memory is allocated before the cursor moves, so a full
 * file system costs nothing but the attempt. */
static int reserve(struct oshm_buffer *buffer, const struct arena *arena, uint64_t count,
                   uint64_t *first)
{
    *first = atomic_load_explicit(arena->cursor, memory_order_relaxed);
    do {
        int status = make_room(buffer, arena, *first, count);
        if (status != OSHM_OK)
            return status;
        /* relaxed: what is reserved gets published by the index, not by the cursor */
    } while (!atomic_compare_exchange_weak_explicit(arena->cursor, first, *first + count,
                                                    memory_order_relaxed, memory_order_relaxed));
    return OSHM_OK;
}

int oshm_record_append(struct oshm_buffer *buffer, const struct oshm_key *key, uint64_t *position)
{
    oshm_header *header = buffer->header;
    const struct arena records = {&header->record_cursor, buffer->at.records, 1,
                                  buffer->record_bytes, OSHM_FULL_RECORDS};
    const struct arena slots = {&header->slot_cursor, buffer->at.lanes, sizeof(oshm_slot),
                                buffer->at.slots, OSHM_FULL_SLOTS};
    uint64_t bytes = oshm_round_up(sizeof(oshm_record) + key->length, 8), first_slot = 0, at;
    if (bytes > UINT32_MAX || key->length > buffer->record_bytes)
        return OSHM_FULL_RECORDS;

    /* Asked first, so that slots are not used up again and again for want of room for a record. */
    int status = make_room(buffer, &records,
                           atomic_load_explicit(records.cursor, memory_order_relaxed), bytes);
    if (status == OSHM_OK && key->slots != 0)
        status = reserve(buffer, &slots, key->slots, &first_slot);
    if (status == OSHM_OK)
        status = reserve(buffer, &records, bytes, &at);
    if (status != OSHM_OK)
        return status;
    if (at < 8 || at % 8 != 0)
        return OSHM_DAMAGED;

    oshm_record *record = oshm_record_at(buffer, at);
    record->bytes = (uint32_t)bytes;
    record->key_bytes = (uint32_t)key->length;
    record->type = key->type;
    record->kind = key->kind;
    record->fold = key->fold;
    record->slots = key->slots;
    record->hash = hash_key(key);
    record->parent = key->parent;
    record->first_slot = first_slot;
    atomic_store_explicit(&record->start_time_unix_nano, key->start_time_unix_nano,
                          memory_order_relaxed);
    memcpy((uint8_t *)record + sizeof *record, key->bytes, key->length);
    *position = at;
    return OSHM_OK;
}

int oshm_record_claim(struct oshm_buffer *buffer, const struct oshm_key *key, uint64_t *position)
{
    oshm_header *header = buffer->header;
    if (key->length > buffer->record_bytes)
        return OSHM_FULL_RECORDS;
    uint64_t hash = hash_key(key), mask = buffer->at.cells - 1, mine = 0;
    for (uint64_t probe = 0; probe <= mask; probe++) {
        uint64_t i = (hash + probe) & mask;
        if (oshm_pages_ensure(buffer, buffer->at.index + i * 8, 8) != OSHM_OK)
            return OSHM_FULL_MEMORY;
        /* acquire: pairs with the release of the CAS below, so the record is complete */
        uint64_t cell = atomic_load_explicit(&buffer->index[i], memory_order_acquire);
        if (cell == 0) {
            if (mine == 0) {
                if (key->limited && atomic_load_explicit(&header->series_count,
                                                         memory_order_relaxed) >= buffer->series)
                    return OSHM_FULL_SERIES;
                int status = oshm_record_append(buffer, key, &mine);
                if (status != OSHM_OK)
                    return status;
            }
            uint64_t publish = (hash >> OSHM_CELL_TAG_SHIFT) << OSHM_CELL_TAG_SHIFT | mine;
            /* release: publishes the record; acquire on failure: the winner's is read next */
            if (atomic_compare_exchange_strong_explicit(&buffer->index[i], &cell, publish,
                                                        memory_order_release,
                                                        memory_order_acquire)) {
                if (key->limited)
                    atomic_fetch_add_explicit(&header->series_count, 1, memory_order_relaxed);
                *position = mine;
                return OSHM_OK;
            }
        }
        if (cell >> OSHM_CELL_TAG_SHIFT == hash >> OSHM_CELL_TAG_SHIFT &&
            matches(buffer, cell & OSHM_CELL_POSITION, key, hash)) {
            *position = cell & OSHM_CELL_POSITION;
            return OSHM_OK;
        }
    }
    return OSHM_FULL_SERIES;
}
