/* SPDX-License-Identifier: Apache-2.0
 *
 * Owning a lane, and the window onto it.
 */
#pragma once

#include "buffer.h"

/* Takes a free lane (0 if there is none, or no memory for it) and maps the window onto it; every
 * address that was given out stays usable. forked: this process has copies of its parent's. Returns:
 * OSHM_OK, or OSHM_ERROR_SYSTEM with the window as it was. */
int oshm_lane_take(struct oshm_buffer *buffer, bool forked);

/* Takes the lane's locks again, should the program have made the kernel drop them; if another process
 * was faster, takes another lane. */
void oshm_lane_keep(struct oshm_buffer *buffer);

/* True if the lane is published and its owner is alive. */
bool oshm_lane_live(struct oshm_buffer *buffer, uint64_t lane);

/* The address this process uses for a run of slots: in lane 0 for the fold rule "last" and where its
 * lane's page cannot be allocated, else in its window. */
oshm_slot *oshm_lane_run(struct oshm_buffer *buffer, uint64_t first_slot, uint64_t slots,
                         uint8_t fold);

/* The run in a given lane, or NULL if its pages are not allocated: for reading. */
oshm_slot *oshm_lane_slots(const struct oshm_buffer *buffer, uint64_t lane, uint64_t first_slot,
                           uint64_t slots);
