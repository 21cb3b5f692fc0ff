/* SPDX-License-Identifier: Apache-2.0
 *
 * What delta readers have had: see BASELINES in layout.h.
 */
#pragma once

#include "buffer.h"

/* The baseline arrays of one delta reader during one collection. */
struct oshm_baseline {
    const oshm_slot *old; /* what the reader had at its last collection, by slot number */
    oshm_slot *new;       /* what it will have had after this one */
    uint64_t collection;  /* number of its last one; 0 = it has had none */
    uint64_t time_unix_nano;
};

/* The arrays of a reader. Nothing in them may be touched before oshm_baseline_ready. */
void oshm_baseline_begin(const struct oshm_buffer *buffer, int reader, struct oshm_baseline *out);

/* Allocates the pages of a run of slots in both arrays. Returns: whether it could. */
bool oshm_baseline_ready(struct oshm_buffer *buffer, int reader, uint64_t first_slot,
                         uint64_t slots);

/* Moves the interval's minimum and maximum out of a lane's run into the valid array of every delta
 * reader there is. */
void oshm_baseline_take_extremes(struct oshm_buffer *buffer, uint64_t first_slot, oshm_slot *run);

/* True if every delta reader has had all of these words: a run's numbers and counts over all lanes. */
bool oshm_baseline_had(const struct oshm_buffer *buffer, uint64_t slot, uint64_t word);

/* Forgets what the readers have had of slots. */
void oshm_baseline_clear(struct oshm_buffer *buffer, uint64_t first_slot, uint64_t slots);
