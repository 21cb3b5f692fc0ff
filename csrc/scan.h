/* SPDX-License-Identifier: Apache-2.0
 *
 * What a process that reads knows of the buffer's series.
 */
#pragma once

#include "fold.h"

/* A stream that was opened. */
struct oshm_opened {
    uint64_t record;
    struct oshm_stream *stream;
};

struct oshm_scanner {
    struct oshm_buffer *buffer;
    uint64_t *seen;   /* the index cells that were taken up, 0 where none */
    uint32_t *known_at; /* by position of a record / its least size: its place in known, + 1 */
    struct oshm_lanes lanes;
    struct oshm_known *known; /* as many as there are rows */
    oshm_row *rows;
    size_t count, capacity;
    oshm_row *each; /* rows of single lanes */
    size_t each_count, each_capacity;
    struct oshm_opened *streams;
    size_t stream_count, stream_capacity, last_stream;
    struct oshm_counts buckets, scratch;
    uint64_t left_out;
};

/* The stream of a series. Returns: it, or NULL if its record is damaged or there is no memory. */
const struct oshm_stream *oshm_scanner_stream(struct oshm_scanner *scanner, uint64_t record);
