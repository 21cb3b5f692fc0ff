/* SPDX-License-Identifier: Apache-2.0
 *
 * Who collects: one process at a time, by a kernel lock that frees itself when its holder dies.
 *
 * A process that leaves must not take its last updates with it. If it gets the lock it exports them
 * itself. If another process holds the lock and stays, that one will export them. The one case to wait
 * for is a holder that is leaving too and may have scanned already; it says so in collector_state
 * before its last scan. With sequential consistency on both sides, whoever reads "not leaving" after
 * its own last update made that update before the holder's last scan.
 */
#include "lanes.h"
#include "lock.h"

int oshm_collector_acquire(struct oshm_buffer *buffer)
{
    oshm_notice_fork(buffer);
    /* Asked of the kernel each time: locks that were lost (see lock.c) are found out here. */
    oshm_lane_keep(buffer);
    if (!oshm_lock_try(buffer, OSHM_LOCK_COLLECTOR)) {
        buffer->collecting = false;
        return 0;
    }
    if (!buffer->collecting) {
        buffer->collecting = true;
        oshm_count(&buffer->header->collector_changes);
        atomic_store(&buffer->header->collector_state, OSHM_COLLECTOR_ACTIVE); /* seq_cst */
    }
    return 1;
}

void oshm_collector_leave(struct oshm_buffer *buffer)
{
    atomic_store(&buffer->header->collector_state, OSHM_COLLECTOR_LEAVING); /* seq_cst */
    atomic_thread_fence(memory_order_seq_cst); /* and before the loads of the last scan */
}

int oshm_collector_leaving(const struct oshm_buffer *buffer)
{
    atomic_thread_fence(memory_order_seq_cst); /* this process's updates come before the load */
    return atomic_load(&buffer->header->collector_state) == OSHM_COLLECTOR_LEAVING;
}

void oshm_collector_release(struct oshm_buffer *buffer)
{
    if (!buffer->collecting)
        return;
    buffer->collecting = false;
    atomic_store(&buffer->header->collector_state, OSHM_COLLECTOR_NONE);
    oshm_lock_release(buffer, OSHM_LOCK_COLLECTOR);
}

uint64_t oshm_collection_begin(struct oshm_buffer *buffer)
{
    return atomic_fetch_add_explicit(&buffer->header->collection, 1, memory_order_relaxed) + 1;
}
