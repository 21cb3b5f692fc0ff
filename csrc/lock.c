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

bool oshm_lock_try_shared(struct oshm_buffer *buffer, uint64_t byte)
{
    return set_lock(buffer, byte, F_RDLCK);
}

void oshm_lock_release(struct oshm_buffer *buffer, uint64_t byte)
{
    set_lock(buffer, byte, F_UNLCK);
}

/* Asks for a lock that is in the way; 0 bytes: to the end of the file. */
static bool get_lock(int file, uint64_t first, uint64_t bytes, struct flock *lock)
{
    *lock = (struct flock){.l_type = F_WRLCK,
                           .l_whence = SEEK_SET,
                           .l_start = (off_t)first,
                           .l_len = (off_t)bytes};
    return fcntl(file, F_GETLK, lock) == 0;
}

bool oshm_lock_elsewhere(struct oshm_buffer *buffer, uint64_t byte)
{
    struct flock lock;
    return get_lock(oshm_descriptor(buffer), byte, 1, &lock) && lock.l_type != F_UNLCK;
}

bool oshm_lock_works(struct oshm_buffer *buffer)
{
    struct flock lock;
    return get_lock(oshm_descriptor(buffer), OSHM_LOCK_COLLECTOR, 1, &lock);
}

static int64_t owner_of(int file, uint64_t first, uint64_t bytes)
{
    struct flock lock;
    if (!get_lock(file, first, bytes, &lock) || lock.l_type == F_UNLCK)
        return 0;
    return lock.l_pid > 0 ? lock.l_pid : -1;
}

int64_t oshm_lock_owner(struct oshm_buffer *buffer, uint64_t first, uint64_t bytes)
{
    return owner_of(oshm_descriptor(buffer), first, bytes);
}

int64_t oshm_file_owner(int file)
{
    return owner_of(file, 0, 0);
}
