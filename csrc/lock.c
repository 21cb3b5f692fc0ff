/* SPDX-License-Identifier: Apache-2.0
 *
 * The kernel's byte-range locks, the only locks there are: they are not in the buffer.
 *
 * POSIX record locks (F_SETLK) and not open-file-description locks or flock(), because they belong to
 * the process: a forked child does not inherit them, and the kernel drops them when the process dies,
 * whatever container or pid namespace it lived in. The price: closing any descriptor of the file drops
 * them all, so a process has one descriptor a file, and whoever holds a lock for long takes it again
 * now and then (taking a lock one has is free).
 */
#include <fcntl.h>
#include <unistd.h>

#include "descriptor.h"
#include "lock.h"

static bool set_lock(struct oshm_buffer *buffer, uint64_t byte, short type)
{
    struct flock lock = {
        .l_type = type, .l_whence = SEEK_SET, .l_start = (off_t)byte, .l_len = 1};
    return fcntl(oshm_descriptor(buffer), F_SETLK, &lock) == 0;
}

bool oshm_lock_try(struct oshm_buffer *buffer, uint64_t byte)
{
    return set_lock(buffer, byte, F_WRLCK);
}

void oshm_lock_release(struct oshm_buffer *buffer, uint64_t byte)
{
    set_lock(buffer, byte, F_UNLCK);
}

static bool get_lock(struct oshm_buffer *buffer, uint64_t byte, struct flock *lock)
{
    *lock = (struct flock){
        .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = (off_t)byte, .l_len = 1};
    return fcntl(oshm_descriptor(buffer), F_GETLK, lock) == 0;
}

bool oshm_lock_elsewhere(struct oshm_buffer *buffer, uint64_t byte)
{
    struct flock lock;
    return get_lock(buffer, byte, &lock) && lock.l_type != F_UNLCK;
}

bool oshm_lock_works(struct oshm_buffer *buffer)
{
    struct flock lock;
    return get_lock(buffer, OSHM_LOCK_COLLECTOR, &lock);
}
