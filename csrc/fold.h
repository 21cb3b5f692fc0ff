/* SPDX-License-Identifier: Apache-2.0
 *
 * One series over all lanes.
 */
#pragma once

#include "baseline.h"
#include "buffer.h"
#include "stream.h"

/* What is needed to fold a series again, checked once. */
struct oshm_known {
    uint64_t position, stream, first_slot, generation;
    uint64_t retired; /* when it was found retired, in unix nanoseconds; 0 = it was not */
    uint32_t slots;
    uint8_t kind, aggregation, fold;
    bool idle; /* the last scan found nothing to report */
};

/* The lanes there are, for one scan. */
struct oshm_lanes {
    uint64_t first;      /* 0 but for who wants one lane only */
    uint64_t count;      /* that were ever used: the last one + 1 */
    unsigned char *live; /* whether their owners are alive */
};

/* Counts of buckets, as many as it takes. */
struct oshm_counts {
    uint64_t *at;
    size_t used, capacity;
};

/* What a fold needs besides the series. */
struct oshm_folding {
    struct oshm_buffer *buffer;
    struct oshm_lanes lanes;
    uint64_t collection;
    int reader;                    /* a delta reader's number, or -1 */
    struct oshm_baseline baseline; /* of the reader */
    struct oshm_counts *buckets;   /* gets those of all rows */
    struct oshm_counts *scratch;   /* for those of one exponential series */
    uint64_t left_out;             /* series without memory for a baseline */
};

struct oshm_known oshm_known_series(uint64_t position, const oshm_record *record);

/* A row without values. */
oshm_row oshm_new_row(const struct oshm_known *series);

/* Marks the lanes whose owners are alive. live: room for all lanes. */
void oshm_lanes_find(struct oshm_buffer *buffer, struct oshm_lanes *lanes);

/* Folds a series into its row. Returns: false where there is no memory for its buckets. */
bool oshm_fold(struct oshm_folding *folding, const struct oshm_known *series,
               const struct oshm_stream *stream, oshm_row *row);

/* Folds one lane of a series whose fold rule is "each" into a row. Returns: whether it has a value. */
bool oshm_fold_lane(struct oshm_folding *folding, const struct oshm_known *series, uint64_t lane,
                    oshm_row *row);
