/* SPDX-License-Identifier: Apache-2.0
 *
 * Allocation of the file's pages: each page is really allocated before anybody touches it, so a full
 * file system is an error code here and never a SIGBUS somewhere else.
 *
 * The page map has a bit a page. It is set after fallocate() succeeded (release) and never cleared.
 * Two processes may allocate the same page at once, and one may die in between: fallocate() of an
 * allocated page changes nothing, so doing it again is harmless.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>

#include "descriptor.h"
#include "pages.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* in C libraries since 2.35 */
#endif

static bool page_ready(const struct oshm_buffer *buffer, uint64_t page)
{
    /* acquire: pairs with the release in oshm_pages_ensure */
    uint64_t word = atomic_load_explicit(&buffer->page_map[page / 64], memory_order_acquire);
    return word >> (page % 64) & 1;
}

bool oshm_pages_ready(const struct oshm_buffer *buffer, uint64_t offset, uint64_t bytes)
{
    uint64_t last = (offset + bytes - 1) / buffer->page_bytes;
    for (uint64_t page = offset / buffer->page_bytes; page <= last; page++)
        if (!page_ready(buffer, page))
            return false;
    return true;
}

/* Allocates one page. Without a descriptor the kernel does it through the mapping (Linux 5.14), and
 * answers with an error too where it cannot. */
static bool allocate(struct oshm_buffer *buffer, uint64_t offset)
{
    int file = oshm_descriptor(buffer), failed;
    do
        failed = file >= 0 ? fallocate(file, 0, (off_t)offset, (off_t)buffer->page_bytes)
                           : madvise(buffer->base + offset, buffer->page_bytes,
                                     MADV_POPULATE_WRITE);
    while (failed && errno == EINTR);
    return !failed;
}

int oshm_pages_ensure(struct oshm_buffer *buffer, uint64_t offset, uint64_t bytes)
{
    uint64_t last = (offset + bytes - 1) / buffer->page_bytes;
    for (uint64_t page = offset / buffer->page_bytes; page <= last; page++) {
        if (page_ready(buffer, page))
            continue;
        if (!allocate(buffer, page * buffer->page_bytes))
            return OSHM_FULL_MEMORY;
        /* release: who sees the bit may touch the page */
        atomic_fetch_or_explicit(&buffer->page_map[page / 64], (uint64_t)1 << (page % 64),
                                 memory_order_release);
    }
    return OSHM_OK;
}

uint64_t oshm_buffer_allocated(const struct oshm_buffer *buffer)
{
    uint64_t pages = 0;
    for (uint64_t i = 0; i < buffer->at.page_map_words; i++)
        pages += (uint64_t)__builtin_popcountll(
            atomic_load_explicit(&buffer->page_map[i], memory_order_relaxed));
    return pages * buffer->page_bytes;
}
