/* SPDX-License-Identifier: Apache-2.0
 *
 * The one descriptor of this process and file.
 *
 * Programs close descriptors that are not theirs (daemons close all of them), and the number then
 * belongs to another file. So whoever needs the descriptor asks here, and gets it only if it still is
 * the buffer's file.
 */
#pragma once

#include "buffer.h"

/* Remembers which file the descriptor is, and under what path it can be opened again (or NULL).
 * Returns: OSHM_OK or OSHM_ERROR_SYSTEM. */
int oshm_descriptor_remember(struct oshm_buffer *buffer, const char *path);

/* Opens the file of a path, as the process's part in the buffer wants it. Returns: as open(). */
int oshm_descriptor_open(const struct oshm_buffer *buffer, const char *path);

/* The descriptor, opened again if it was closed behind our back: then all locks are gone.
 * Returns: it, or -1 where that is not possible. */
int oshm_descriptor(struct oshm_buffer *buffer);

/* Closes it, unless the number is another file's by now. */
void oshm_descriptor_close(struct oshm_buffer *buffer);
