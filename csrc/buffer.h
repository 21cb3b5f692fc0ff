/* SPDX-License-Identifier: Apache-2.0
 *
 * One process's view of a buffer: where its regions are mapped, and the pieces that take care of
 * them (pages.c, lanes.c, records.c). For the core's own files; Python sees binding.h.
 */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "slot.h"

#include "binding.h"

/* Where each region lies, from the four sizes; all in bytes. */
struct oshm_geometry {
    uint64_t lane_table, page_map, index, records, lanes; /* offsets */
    uint64_t page_map_words, cells, slots;                /* counts; slots of one lane */
    uint64_t lane_bytes, file_bytes;
};

/* Process-local; nothing in it is shared with other processes but through base. */
struct oshm_buffer {
    unsigned char *base; /* the whole file */
    oshm_header *header;
    oshm_lane *lane_table;
    oshm_atomic_u64 *page_map;
    oshm_atomic_u64 *index;
    struct oshm_geometry at;
    uint64_t page_bytes, series, lanes, record_bytes; /* copies: the file may change them */
    int file;                  /* the one descriptor of this process and file */
    pid_t pid;                 /* of the process that took the lane */
    uint64_t lane;             /* the lane behind the window */
    unsigned char *window;     /* this process's lane, mapped a second time */
    _Atomic bool *window_used; /* a page of the window each: an address in it was given out */
    unsigned char *fork_guard; /* a page the kernel wipes in a forked child: 1 = not forked since */
    bool collecting;           /* this process holds the collector lock, as far as it knows */
    oshm_slot nowhere[4];      /* the run of a series that has no place at all; nobody reads it */
};

static inline uint64_t oshm_round_up(uint64_t bytes, uint64_t unit)
{
    return (bytes + unit - 1) / unit * unit;
}

/* pages.c: allocation of the file's pages. */

/* True if all pages of the range have been allocated. Acquire: what was written before holds. */
bool oshm_pages_ready(const struct oshm_buffer *buffer, uint64_t offset, uint64_t bytes);

/* Allocates those pages of the range that are not.
 * Returns: OSHM_OK, OSHM_FULL_MEMORY or OSHM_ERROR_NO_ALLOCATE. */
int oshm_pages_ensure(struct oshm_buffer *buffer, uint64_t offset, uint64_t bytes);

/* lanes.c: owning a lane, and the window onto it. */

/* Takes a free lane (0 if there is none, or no memory for it) and maps the window onto it; every
 * address that was given out stays usable. Returns: OSHM_OK, or OSHM_ERROR_SYSTEM with the window as
 * it was. */
int oshm_lane_take(struct oshm_buffer *buffer);

/* True if the lane is published and its owner is alive. */
bool oshm_lane_live(const struct oshm_buffer *buffer, uint64_t lane);

/* The address this process uses for a run of slots: in lane 0 for the fold rule "last" and where its
 * lane's page cannot be allocated, else in its window. */
oshm_slot *oshm_lane_run(struct oshm_buffer *buffer, uint64_t first_slot, uint64_t slots,
                         uint8_t fold);

/* The run in a given lane, or NULL if its pages are not allocated: for reading. */
oshm_slot *oshm_lane_slots(const struct oshm_buffer *buffer, uint64_t lane, uint64_t first_slot,
                           uint64_t slots);

/* lock.c: the kernel's byte-range locks. */

/* Takes the lock without waiting. Returns: true if this process holds it now. */
bool oshm_lock_try(const struct oshm_buffer *buffer, uint64_t byte);
void oshm_lock_release(const struct oshm_buffer *buffer, uint64_t byte);

/* True if another process holds it. */
bool oshm_lock_elsewhere(const struct oshm_buffer *buffer, uint64_t byte);

/* An index cell is tag << 40 | position of the record in the records region. */
#define OSHM_CELL_TAG_SHIFT 40
#define OSHM_CELL_POSITION (((uint64_t)1 << OSHM_CELL_TAG_SHIFT) - 1)

/* records.c: what identifies a record (type, kind, parent, bytes), and the rest of a new one. */
struct oshm_key {
    uint8_t type, kind;
    uint64_t parent;
    const uint8_t *bytes;
    uint32_t length;
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

/* Wall clock. */
uint64_t oshm_now_unix_nano(void);

/* Runs oshm_buffer_after_fork if the process was forked since: one load. */
static inline void oshm_notice_fork(struct oshm_buffer *buffer)
{
    if (OSHM_UNLIKELY(*(volatile unsigned char *)buffer->fork_guard == 0))
        oshm_buffer_after_fork(buffer);
}
