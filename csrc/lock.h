/* SPDX-License-Identifier: Apache-2.0
 *
 * The kernel's byte-range locks on the buffer's file.
 */
#pragma once

#include "buffer.h"

/* Takes the lock without waiting, for writing or for reading. Returns: true if this process holds it
 * now. */
bool oshm_lock_try(struct oshm_buffer *buffer, uint64_t byte);
bool oshm_lock_try_shared(struct oshm_buffer *buffer, uint64_t byte);
void oshm_lock_release(struct oshm_buffer *buffer, uint64_t byte);

/* True if another process holds it. */
bool oshm_lock_elsewhere(struct oshm_buffer *buffer, uint64_t byte);

/* True if the file system can lock at all. */
bool oshm_lock_works(struct oshm_buffer *buffer);
