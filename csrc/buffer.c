/* SPDX-License-Identifier: Apache-2.0
 *
 * Making a buffer, attaching to one, and letting go of it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "clock.h"
#include "descriptor.h"
#include "lanes.h"
#include "lock.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8u /* in C libraries since 2.38 */
#endif

/* Works out where everything lies. Returns: OSHM_OK or OSHM_ERROR_SIZES. */
static int geometry(uint64_t series, uint64_t lanes, uint64_t record_bytes, uint64_t page,
                    struct oshm_geometry *at)
{
    if (series < OSHM_SERIES_MIN || series > OSHM_SERIES_MAX || lanes < OSHM_LANES_MIN ||
        lanes > OSHM_LANES_MAX || record_bytes < OSHM_RECORD_BYTES_MIN ||
        record_bytes > OSHM_RECORD_BYTES_MAX)
        return OSHM_ERROR_SIZES;
    at->cells = 1024; /* room for scopes and instruments too; a power of two, at most 1/2 full */
    while (at->cells < series * 2)
        at->cells *= 2;
    at->slots = series * OSHM_SLOTS_PER_SERIES;
    at->lane_bytes = oshm_round_up(at->slots * sizeof(oshm_slot), page);
    at->slots = at->lane_bytes / sizeof(oshm_slot);

    uint64_t index_bytes = oshm_round_up(at->cells * 8, page);
    uint64_t mailbox_bytes = lanes * OSHM_MAILBOX_BYTES;
    uint64_t behind_map = index_bytes + oshm_round_up(record_bytes, page) +
                          oshm_round_up(mailbox_bytes, page) +
                          (lanes + 2 * OSHM_READERS) * at->lane_bytes;
    at->readers = oshm_round_up(sizeof(oshm_header), 64);
    at->lane_table = at->readers + OSHM_READERS * sizeof(oshm_reader);
    at->page_map = oshm_round_up(at->lane_table + lanes * sizeof(oshm_lane), page);
    /* One bit for every page behind the map, and for the map and what is before it. */
    uint64_t map_bytes = oshm_round_up((at->page_map + behind_map) / page / 8 * 9 / 8 + 64, page);
    at->page_map_words = map_bytes / 8;
    at->index = at->page_map + map_bytes;
    at->records = at->index + index_bytes;
    at->mailboxes = at->records + oshm_round_up(record_bytes, page);
    at->lanes = at->mailboxes + oshm_round_up(mailbox_bytes, page);
    at->baselines = at->lanes + lanes * at->lane_bytes;
    at->file_bytes = at->baselines + 2 * OSHM_READERS * at->lane_bytes;
    return OSHM_OK;
}

int oshm_buffer_extent(uint64_t series, uint64_t lanes, uint64_t record_bytes, uint64_t *length,
                       uint64_t *at_first)
{
    struct oshm_geometry at;
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    int status = geometry(series, lanes, record_bytes, page, &at);
    if (status != OSHM_OK)
        return status;
    *length = at.file_bytes;
    *at_first = at.index;
    return OSHM_OK;
}

/* Maps the file and sets the pointers. The sizes in buffer are set already. */
static int map_file(struct oshm_buffer *buffer)
{
    int access = buffer->part == OSHM_READS ? PROT_READ : PROT_READ | PROT_WRITE;
    unsigned char *base = mmap(NULL, buffer->at.file_bytes, access, MAP_SHARED | MAP_NORESERVE,
                               buffer->file, 0);
    if (base == MAP_FAILED)
        return OSHM_ERROR_SYSTEM;
    madvise(base, buffer->at.file_bytes, MADV_DONTDUMP); /* a core file is no place for it */
    buffer->base = base;
    buffer->header = (oshm_header *)(void *)base;
    buffer->readers = (oshm_reader *)(void *)(base + buffer->at.readers);
    buffer->lane_table = (oshm_lane *)(void *)(base + buffer->at.lane_table);
    buffer->page_map = (oshm_atomic_u64 *)(void *)(base + buffer->at.page_map);
    buffer->index = (oshm_atomic_u64 *)(void *)(base + buffer->at.index);
    return OSHM_OK;
}

/* The process-local part of attaching: guard page, and for who measures lane and window. */
static int enter(struct oshm_buffer *buffer)
{
    buffer->fork_guard = mmap(NULL, buffer->page_bytes, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (buffer->fork_guard == MAP_FAILED) {
        buffer->fork_guard = NULL;
        return OSHM_ERROR_SYSTEM;
    }
    /* Without MADV_WIPEONFORK (before Linux 4.14) only the interpreter's at-fork hook notices. */
    madvise(buffer->fork_guard, buffer->page_bytes, MADV_WIPEONFORK);
    *buffer->fork_guard = 1;
    buffer->pid = getpid();
    if (!oshm_lock_works(buffer))
        return OSHM_ERROR_NO_LOCKS;
    if (buffer->part != OSHM_MEASURES)
        return OSHM_OK;
    buffer->window_used = calloc(buffer->at.lane_bytes / buffer->page_bytes, 1);
    if (buffer->window_used == NULL)
        return OSHM_ERROR_SYSTEM;
    int status = oshm_lane_take(buffer, false);
    if (status == OSHM_OK)
        oshm_count(&buffer->header->attached);
    return status;
}

void oshm_buffer_close(struct oshm_buffer *buffer)
{
    int saved = errno;
    if (buffer->window)
        munmap(buffer->window, buffer->at.lane_bytes);
    if (buffer->fork_guard)
        munmap(buffer->fork_guard, buffer->page_bytes);
    if (buffer->base)
        munmap(buffer->base, buffer->at.file_bytes);
    oshm_descriptor_close(buffer);
    free((void *)buffer->window_used);
    free(buffer);
    errno = saved;
}

/* A file that nobody can name. Kernels since 6.3 want to be told that it is not to be executed, and some
 * containers forbid any other; older kernels know no such flag. */
static int open_anonymous(void)
{
    int file = memfd_create("otel_shm", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
    if (file < 0 && errno == EINVAL)
        file = memfd_create("otel_shm", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    return file;
}

/* Where a new file is made before it has its name. Without O_TMPFILE (some network and overlay file
 * systems), or without /proc, by which it gets its name, a temporary name beside the path stands in:
 * *temporary, to be unlinked. */
static int open_nameless(const char *path, char temporary[PATH_MAX])
{
    temporary[0] = 0;
    if (path == NULL)
        return open_anonymous();
    const char *slash = strrchr(path, '/');
    int length = slash ? (int)(slash - path) + 1 : 0;
    if (strlen(path) + 8 > PATH_MAX) {
        errno = ENAMETOOLONG;
        return -1;
    }
    snprintf(temporary, PATH_MAX, "%.*s.", length, path);
    int file = -1;
    if (access("/proc/self/fd", X_OK) == 0)
        file = open(temporary, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    else
        errno = EOPNOTSUPP;
    if (file >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != ENOENT)) {
        temporary[0] = 0;
        return file;
    }
    snprintf(temporary, PATH_MAX, "%s.XXXXXX", path);
    return mkostemp(temporary, O_CLOEXEC);
}

/* Gives the finished file its name, unless that is taken: link() does not overwrite. */
static int publish_file(const struct oshm_buffer *buffer, const char *path, const char *temporary)
{
    char self[64];
    int failed;
    if (path == NULL) {
        /* The size is for ever, so no process with the descriptor can make us fault. */
        fcntl(buffer->file, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
        return OSHM_OK;
    }
    if (temporary[0]) {
        failed = link(temporary, path);
    } else {
        snprintf(self, sizeof self, "/proc/self/fd/%d", buffer->file);
        failed = linkat(AT_FDCWD, self, AT_FDCWD, path, AT_SYMLINK_FOLLOW);
    }
    if (!failed)
        return OSHM_OK;
    return errno == EEXIST ? OSHM_ERROR_EXISTS : OSHM_ERROR_SYSTEM;
}

static void read_boot_id(uint8_t boot_id[40])
{
    int file = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return;
    if (read(file, boot_id, 36) != 36)
        memset(boot_id, 0, 40);
    close(file);
}

static int fill_new_file(struct oshm_buffer *buffer)
{
    if (fchmod(buffer->file, 0600) != 0 || ftruncate(buffer->file, (off_t)buffer->at.file_bytes) != 0)
        return OSHM_ERROR_SYSTEM;
    /* Header, lane table and page map are touched by everybody: allocated from the start. */
    int failed;
    do
        failed = fallocate(buffer->file, 0, 0, (off_t)buffer->at.index);
    while (failed && errno == EINTR);
    if (failed)
        return errno == EOPNOTSUPP ? OSHM_ERROR_NO_ALLOCATE : OSHM_ERROR_SYSTEM;
    int status = map_file(buffer);
    if (status != OSHM_OK)
        return status;
    for (uint64_t page = 0; page < buffer->at.index / buffer->page_bytes; page++)
        atomic_fetch_or_explicit(&buffer->page_map[page / 64], (uint64_t)1 << (page % 64),
                                 memory_order_relaxed);

    oshm_header *header = buffer->header;
    header->magic = OSHM_MAGIC;
    header->page_bytes = buffer->page_bytes;
    header->file_bytes = buffer->at.file_bytes;
    header->series = buffer->series;
    header->lanes = buffer->lanes;
    header->record_bytes = buffer->record_bytes;
    header->created_unix_nano = oshm_now_unix_nano();
    read_boot_id(header->boot_id);
    /* Position 0 means "none" everywhere. */
    atomic_store_explicit(&header->record_cursor, 8, memory_order_relaxed);
    /* release: who sees the version sees the rest */
    atomic_store_explicit(&header->version, OSHM_VERSION, memory_order_release);
    return OSHM_OK;
}

static struct oshm_buffer *new_handle(enum oshm_part part)
{
    struct oshm_buffer *buffer = calloc(1, sizeof *buffer);
    if (buffer) {
        buffer->file = -1;
        buffer->part = part;
    }
    return buffer;
}

int oshm_buffer_create(const char *path, uint64_t series, uint64_t lanes, uint64_t record_bytes,
                       enum oshm_part part, struct oshm_buffer **out)
{
    char temporary[PATH_MAX] = "";
    struct oshm_buffer *buffer = new_handle(part);
    if (buffer == NULL)
        return OSHM_ERROR_SYSTEM;
    buffer->page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);
    buffer->series = series;
    buffer->lanes = lanes;
    buffer->record_bytes = record_bytes;
    int status = geometry(series, lanes, record_bytes, buffer->page_bytes, &buffer->at);
    if (status == OSHM_OK) {
        buffer->file = open_nameless(path, temporary);
        status = buffer->file < 0 ? OSHM_ERROR_SYSTEM : fill_new_file(buffer);
    }
    if (status == OSHM_OK)
        status = oshm_descriptor_remember(buffer, NULL);
    if (status == OSHM_OK)
        status = enter(buffer);
    if (status == OSHM_OK)
        status = publish_file(buffer, path, temporary);
    if (status == OSHM_OK)
        status = oshm_descriptor_remember(buffer, path);
    if (temporary[0]) {
        int saved = errno;
        unlink(temporary);
        errno = saved;
    }
    if (status != OSHM_OK)
        oshm_buffer_close(buffer);
    else
        *out = buffer;
    return status;
}

/* Refuses everything that is not a complete buffer of this user. */
static int check_file(struct oshm_buffer *buffer)
{
    struct stat info;
    oshm_header header;
    if (fstat(buffer->file, &info) != 0)
        return OSHM_ERROR_SYSTEM;
    if (!S_ISREG(info.st_mode))
        return OSHM_ERROR_NOT_REGULAR;
    /* Who may read it may look, whosever it is. */
    if (buffer->part != OSHM_READS && info.st_uid != geteuid())
        return OSHM_ERROR_OWNER;
    /* Read, not mapped: a short file would fault. */
    ssize_t got = pread(buffer->file, (void *)&header, sizeof header, 0);
    if (got < 0)
        return OSHM_ERROR_SYSTEM;
    if ((size_t)got < sizeof header)
        return OSHM_ERROR_SHORT;
    if (header.magic != OSHM_MAGIC)
        return OSHM_ERROR_MAGIC;
    /* Said of a buffer only: nobody is to change the mode of another file. */
    if (buffer->part != OSHM_READS && info.st_mode & (S_IRWXG | S_IRWXO))
        return OSHM_ERROR_MODE;
    if (atomic_load_explicit(&header.version, memory_order_relaxed) != OSHM_VERSION)
        return OSHM_ERROR_VERSION;
    buffer->page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);
    if (header.page_bytes != buffer->page_bytes)
        return OSHM_ERROR_PAGE;
    buffer->series = header.series;
    buffer->lanes = header.lanes;
    buffer->record_bytes = header.record_bytes;
    if (geometry(buffer->series, buffer->lanes, buffer->record_bytes, buffer->page_bytes,
                 &buffer->at) != OSHM_OK ||
        header.file_bytes != buffer->at.file_bytes ||
        (uint64_t)info.st_size != buffer->at.file_bytes)
        return OSHM_ERROR_LENGTH;
    return OSHM_OK;
}

/* True if the path still names the buffer's file. */
static bool is_at(const struct oshm_buffer *buffer, const char *path)
{
    struct stat info;
    return lstat(path, &info) == 0 && info.st_dev == buffer->device && info.st_ino == buffer->inode;
}

/* True if no process measures, with a lane or without, nor collects. */
static bool is_unused(struct oshm_buffer *buffer)
{
    for (uint64_t lane = 0; lane < buffer->lanes; lane++)
        if (oshm_lock_elsewhere(buffer, OSHM_LOCK_LANES + lane))
            return false;
    return !oshm_lock_elsewhere(buffer, OSHM_LOCK_COLLECTOR);
}

/* Says that this process attaches: nobody removes the file until it has a lane, and is seen to use it.
 * With reset it removes the file itself if nobody uses it, and nobody else attaches meanwhile. */
static int begin_attaching(struct oshm_buffer *buffer, const char *path, bool reset)
{
    if (buffer->part == OSHM_READS)
        return OSHM_OK;
    if (reset && oshm_lock_try(buffer, OSHM_LOCK_ATTACH) && is_unused(buffer) &&
        is_at(buffer, path) && unlink(path) == 0)
        return OSHM_ERROR_REPLACED;
    return oshm_lock_try_shared(buffer, OSHM_LOCK_ATTACH) && is_at(buffer, path)
               ? OSHM_OK
               : OSHM_ERROR_REPLACED;
}

int oshm_buffer_remove(struct oshm_buffer *buffer, const char *path)
{
    if (!oshm_lock_try(buffer, OSHM_LOCK_ATTACH))
        return 0; /* somebody attaches */
    int status = !is_at(buffer, path)  ? OSHM_ERROR_REPLACED
                 : !is_unused(buffer)  ? 0
                 : unlink(path) == 0   ? 1
                                       : OSHM_ERROR_SYSTEM;
    oshm_lock_release(buffer, OSHM_LOCK_ATTACH);
    return status;
}

static int attach_opened(struct oshm_buffer *buffer, const char *path, bool reset)
{
    int status = check_file(buffer);
    if (status == OSHM_OK)
        status = oshm_descriptor_remember(buffer, path);
    if (status == OSHM_OK && !oshm_lock_works(buffer))
        status = OSHM_ERROR_NO_LOCKS;
    if (status == OSHM_OK)
        status = begin_attaching(buffer, path, reset);
    if (status == OSHM_OK)
        status = map_file(buffer);
    if (status == OSHM_OK)
        status = enter(buffer);
    if (status == OSHM_OK && buffer->part != OSHM_READS)
        oshm_lock_release(buffer, OSHM_LOCK_ATTACH);
    return status;
}

int oshm_buffer_attach(const char *path, int reset, enum oshm_part part, struct oshm_buffer **out)
{
    struct oshm_buffer *buffer = new_handle(part);
    if (buffer == NULL)
        return OSHM_ERROR_SYSTEM;
    buffer->file = oshm_descriptor_open(buffer, path);
    int status;
    if (buffer->file < 0)
        status = errno == ELOOP    ? OSHM_ERROR_SYMLINK
                 : errno == EISDIR ? OSHM_ERROR_NOT_REGULAR
                                   : OSHM_ERROR_SYSTEM;
    else
        status = attach_opened(buffer, path, reset);
    if (status != OSHM_OK)
        oshm_buffer_close(buffer);
    else
        *out = buffer;
    return status;
}

uint64_t oshm_buffer_after_fork(struct oshm_buffer *buffer)
{
    if (*buffer->fork_guard == 1 && buffer->pid == getpid())
        return buffer->lane;
    /* First of all: a signal handler or another update in here must not come back to this line. */
    *buffer->fork_guard = 1;
    buffer->pid = getpid();
    buffer->collecting = false; /* the lock stayed with the parent */
    buffer->keeping = false;    /* and so did its threads */
    /* If it fails the window stays on the parent's lane: slower, and correct. */
    if (buffer->part == OSHM_MEASURES && oshm_lane_take(buffer, true) == OSHM_OK)
        oshm_count(&buffer->header->attached);
    return buffer->lane;
}

const oshm_header *oshm_buffer_header(const struct oshm_buffer *buffer)
{
    return buffer->header;
}

uint64_t oshm_buffer_lane(const struct oshm_buffer *buffer)
{
    return buffer->lane;
}

int oshm_buffer_lost(struct oshm_buffer *buffer)
{
    return oshm_descriptor(buffer) < 0;
}

void oshm_buffer_identity(const struct oshm_buffer *buffer, uint64_t device_and_inode[2])
{
    device_and_inode[0] = buffer->device;
    device_and_inode[1] = buffer->inode;
}
