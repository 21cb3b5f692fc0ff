/* SPDX-License-Identifier: Apache-2.0
 *
 * Records and the index that publishes them.
 */
#pragma once

#include "buffer.h"

/* An index cell is tag << 40 | position of the record in the records region. */
#define OSHM_CELL_TAG_SHIFT 40
#define OSHM_CELL_POSITION (((uint64_t)1 << OSHM_CELL_TAG_SHIFT) - 1)
/* The cell of a record that is gone: it can be used again, and probing goes on behind it. */
#define OSHM_CELL_GONE 1

/* How often a claim begins anew. Only other claims make it do so, and each of those gets somewhere; but in
 * a hostile file it might never end. */
#define OSHM_CLAIM_PASSES 1000

/* What identifies a record (type, kind, aggregation, parent, bytes), and the rest of a new one. */
struct oshm_key {
    uint8_t type, kind, aggregation, fold;
    uint32_t slots;
    uint64_t parent;
    const uint8_t *bytes;
    uint64_t length;
    const void *behind; /* what its type has more; NULL: zeros */
    uint64_t behind_bytes;
    uint64_t start_time_unix_nano;
    oshm_atomic_u64 *counts[2];    /* are raised when the record is published; NULL: none */
    uint64_t most[2];              /* ... and it is not made if they have reached this */
    oshm_atomic_u64 *reusable;     /* retired records of the same length of run; NULL: none */
};

/* Finds or publishes the record of a key. state: NULL, or gets its state word, which tells later whether
 * the record is still the key's.
 * Returns: OSHM_OK or why there is no place (OSHM_FULL_*, OSHM_DAMAGED). */
int oshm_record_claim(struct oshm_buffer *buffer, const struct oshm_key *key, uint64_t *position,
                      uint64_t *state);

/* Writes a record without publishing it: for the resource, which the header points to. */
int oshm_record_append(struct oshm_buffer *buffer, const struct oshm_key *key, uint64_t *position);

/* Lets the record and slots of a series that is retired, and in no cell any more, be used again. */
void oshm_record_recycle(const struct oshm_buffer *buffer, oshm_atomic_u64 *reusable,
                         uint64_t position);

/* True if a record is still what oshm_record_get has copied: else it is being written anew, and the copy
 * and what was read behind it may be of two series. */
bool oshm_record_unchanged(const struct oshm_buffer *buffer, uint64_t position,
                           const oshm_record *fixed);

/* Takes slots that no series has. Returns: OSHM_OK or OSHM_FULL_*. */
int oshm_slots_reserve(struct oshm_buffer *buffer, uint64_t count, uint64_t *first);

/* What a record has behind its key: NULL if that is less than wanted. */
void *oshm_record_behind(const struct oshm_buffer *buffer, uint64_t position,
                         const oshm_record *fixed, uint64_t wanted);

/* The least length of a run. */
static inline uint32_t oshm_run_slots(uint8_t aggregation, uint32_t boundaries)
{
    return aggregation == OSHM_AGGREGATION_EXPLICIT      ? OSHM_BUCKETS + boundaries + 1
           : aggregation == OSHM_AGGREGATION_EXPONENTIAL ? OSHM_ZERO + 1
                                                         : OSHM_HELD + 1;
}

/* The live record behind a position that oshm_record_get has accepted. */
static inline oshm_record *oshm_record_at(const struct oshm_buffer *buffer, uint64_t position)
{
    return (oshm_record *)(void *)(buffer->base + buffer->at.records + position);
}

/* The parts of a record's state word. */
static inline uint64_t oshm_generation(uint64_t state)
{
    return state >> 8;
}

static inline enum oshm_series_state oshm_series_state(uint64_t state)
{
    return (enum oshm_series_state)(state & 0xff);
}

static inline uint64_t oshm_state_word(uint64_t generation, enum oshm_series_state state)
{
    return generation << 8 | (uint64_t)state;
}
