/* SPDX-License-Identifier: Apache-2.0
 *
 * Records and the index that publishes them.
 */
#pragma once

#include "buffer.h"

/* An index cell is tag << 40 | position of the record in the records region. */
#define OSHM_CELL_TAG_SHIFT 40
#define OSHM_CELL_POSITION (((uint64_t)1 << OSHM_CELL_TAG_SHIFT) - 1)

/* What identifies a record (type, kind, parent, bytes), and the rest of a new one. */
struct oshm_key {
    uint8_t type, kind;
    uint64_t parent;
    const uint8_t *bytes;
    uint64_t length;
    uint8_t fold, slots;
    bool limited; /* counts against the buffer's capacity of series */
    uint64_t start_time_unix_nano;
};

/* Finds or publishes the record of a key.
 * Returns: OSHM_OK or why there is no place (OSHM_FULL_*, OSHM_DAMAGED). */
int oshm_record_claim(struct oshm_buffer *buffer, const struct oshm_key *key, uint64_t *position);

/* Writes a record without publishing it: for the resource, which the header points to. */
int oshm_record_append(struct oshm_buffer *buffer, const struct oshm_key *key, uint64_t *position);

/* The least length of a run: the stamp is there where the fold rule asks for it. */
static inline uint8_t oshm_run_slots(uint8_t fold)
{
    return fold == OSHM_ONE ? OSHM_OBSERVED + 1 : OSHM_FLOAT + 1;
}

/* The live record behind a position that oshm_record_get has accepted. */
static inline oshm_record *oshm_record_at(const struct oshm_buffer *buffer, uint64_t position)
{
    return (oshm_record *)(void *)(buffer->base + buffer->at.records + position);
}
