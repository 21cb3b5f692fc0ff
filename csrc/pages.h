/* SPDX-License-Identifier: Apache-2.0
 *
 * Allocation of the file's pages, before anybody touches them.
 */
#pragma once

#include "buffer.h"

/* True if all pages of the range have been allocated. Acquire: what was written before holds. */
bool oshm_pages_ready(const struct oshm_buffer *buffer, uint64_t offset, uint64_t bytes);

/* Allocates those pages of the range that are not.
 * Returns: OSHM_OK or OSHM_FULL_MEMORY. */
int oshm_pages_ensure(struct oshm_buffer *buffer, uint64_t offset, uint64_t bytes);
