/* SPDX-License-Identifier: Apache-2.0
 *
 * The one descriptor of this process and file: see descriptor.h.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "descriptor.h"

static bool is_our_file(const struct oshm_buffer *buffer, int file)
{
    struct stat info;
    return file >= 0 && fstat(file, &info) == 0 && info.st_dev == buffer->device &&
           info.st_ino == buffer->inode;
}

int oshm_descriptor_open(const struct oshm_buffer *buffer, const char *path)
{
    int access = buffer->part == OSHM_READS ? O_RDONLY : O_RDWR;
    /* O_NONBLOCK: a FIFO at the path must not stop us; whoever called refuses it. */
    return open(path, access | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
}

int oshm_descriptor_remember(struct oshm_buffer *buffer, const char *path)
{
    struct stat info;
    if (fstat(buffer->file, &info) != 0)
        return OSHM_ERROR_SYSTEM;
    buffer->device = info.st_dev;
    buffer->inode = info.st_ino;
    if (path == NULL)
        return OSHM_OK;
    /* Absolute: the program may change its directory. Without it, it just cannot be opened again. */
    buffer->path = realpath(path, NULL);
    return OSHM_OK;
}

int oshm_descriptor(struct oshm_buffer *buffer)
{
    char mapping[64];
    int file = atomic_load_explicit(&buffer->file, memory_order_relaxed), none = file;
    if (OSHM_LIKELY(is_our_file(buffer, file)))
        return file;
    if (buffer->path) {
        file = oshm_descriptor_open(buffer, buffer->path);
    } else {
        /* An anonymous file can be opened through its mapping, if the kernel lets us. */
        snprintf(mapping, sizeof mapping, "/proc/self/map_files/%lx-%lx",
                 (unsigned long)(uintptr_t)buffer->base,
                 (unsigned long)(uintptr_t)(buffer->base + buffer->at.file_bytes));
        file = open(mapping, O_RDWR | O_CLOEXEC);
    }
    if (!is_our_file(buffer, file)) {
        if (file >= 0)
            close(file);
        return -1;
    }
    /* Two threads may have opened it: one descriptor is kept, or closing the other would drop the
     * locks that are taken next. */
    if (!atomic_compare_exchange_strong_explicit(&buffer->file, &none, file, memory_order_relaxed,
                                                 memory_order_relaxed)) {
        close(file);
        return none;
    }
    return file;
}

void oshm_descriptor_close(struct oshm_buffer *buffer)
{
    int file = atomic_load_explicit(&buffer->file, memory_order_relaxed);
    if (is_our_file(buffer, file))
        close(file); /* and with it every lock */
    free(buffer->path);
}
