/* SPDX-License-Identifier: Apache-2.0
 *
 * One process's view of a buffer: where its regions are mapped. For the core's own files; Python sees
 * binding.h.
 */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "slot.h"

#include "binding.h"

/* Where each region lies, from the four sizes; all in bytes. */
struct oshm_geometry {
    uint64_t readers, lane_table, page_map, index, records, mailboxes, lanes, baselines; /* offsets */
    uint64_t page_map_words, cells, slots;                /* counts; slots of one lane */
    uint64_t lane_bytes, file_bytes;
};

/* Process-local; nothing in it is shared with other processes but through base. */
struct oshm_buffer {
    unsigned char *base; /* the whole file */
    oshm_header *header;
    oshm_reader *readers;
    oshm_lane *lane_table;
    oshm_atomic_u64 *page_map;
    oshm_atomic_u64 *index;
    struct oshm_geometry at;
    uint64_t page_bytes, series, lanes, record_bytes; /* copies: the file may change them */
    _Atomic int file;          /* the one descriptor; ask oshm_descriptor for it */
    dev_t device;              /* which file that is */
    ino_t inode;
    char *path;                /* absolute; NULL for an anonymous buffer */
    enum oshm_part part;
    pid_t pid;                 /* of the process that took the lane */
    _Atomic uint64_t lane;      /* the lane behind the window */
    _Atomic uint64_t next_lane; /* the lane that will be, else the same; seq_cst, as window_used */
    uint64_t generation;        /* of the lane, when this process took it */
    _Atomic uint32_t holding;   /* changes with the lane: what was held before is not given back */
    _Atomic bool keeping;       /* a thread is making sure of the lane, or taking another */
    unsigned char *window;     /* this process's lane, mapped a second time */
    _Atomic bool *window_used; /* a page of the window each: an address in it was given out */
    unsigned char *fork_guard; /* a page the kernel wipes in a forked child: 1 = not forked since */
    bool collecting;           /* this process holds the collector lock, as far as it knows */
    bool leaving;              /* ... and makes its last export */
    uint64_t leaving_collection; /* number of the first collection it began since; 0 = none */
};

static inline uint64_t oshm_round_up(uint64_t bytes, uint64_t unit)
{
    return (bytes + unit - 1) / unit * unit;
}

/* Runs oshm_buffer_after_fork if the process was forked since: one load. */
static inline void oshm_notice_fork(struct oshm_buffer *buffer)
{
    if (OSHM_UNLIKELY(*(volatile unsigned char *)buffer->fork_guard == 0))
        oshm_buffer_after_fork(buffer);
}
