/* SPDX-License-Identifier: Apache-2.0
 *
 * Who collects: one process at a time, by a kernel lock that frees itself when its holder dies.
 *
 * A process that leaves must not take its last updates with it. If it gets the lock it exports them
 * itself. If another process holds the lock and stays, that one will export them. The one case to wait
 * for is a holder that is not staying (collector_state is not ACTIVE): it may have scanned already. The
 * holder says that it leaves before its last scan, so with sequential consistency on both sides whoever
 * reads ACTIVE after its own last update made that update before the holder's last scan.
 *
 * Nor should the exports of processes that leave together queue up. A leaving process notes the number
 * of the last collection begun; if the lock then comes to it from one whose first collection while
 * leaving was a later one, the exports of all its readers had everything, and none is left to make. A process
 * that has none left to make itself does not say so of its own: of its readers some may have collected once
 * more by themselves before it found out, and others not.
 */
#include "lanes.h"
#include "lock.h"

int oshm_collector_acquire(struct oshm_buffer *buffer, int leaving)
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
        buffer->leaving_collection = 0;
        oshm_count(&buffer->header->collector_changes);
    }
    buffer->leaving = leaving;
    atomic_store(&buffer->header->collector_state,
                 leaving ? OSHM_COLLECTOR_LEAVING : OSHM_COLLECTOR_ACTIVE); /* seq_cst */
    atomic_thread_fence(memory_order_seq_cst); /* and before the loads of the next scan */
    return 1;
}

int oshm_collector_stays(const struct oshm_buffer *buffer)
{
    atomic_thread_fence(memory_order_seq_cst); /* this process's updates come before the load */
    return atomic_load(&buffer->header->collector_state) == OSHM_COLLECTOR_ACTIVE;
}

void oshm_collector_release(struct oshm_buffer *buffer, int exported)
{
    if (!buffer->collecting)
        return;
    buffer->collecting = false;
    if (exported && buffer->leaving_collection != 0)
        atomic_store(&buffer->header->last_export, buffer->leaving_collection); /* seq_cst */
    atomic_store(&buffer->header->collector_state, OSHM_COLLECTOR_NONE);
    oshm_lock_release(buffer, OSHM_LOCK_COLLECTOR);
}

uint64_t oshm_collection_begin(struct oshm_buffer *buffer)
{
    /* seq_cst, and before the loads of the scan: see oshm_collection_last */
    uint64_t number = atomic_fetch_add(&buffer->header->collection, 1) + 1;
    atomic_thread_fence(memory_order_seq_cst);
    if (buffer->collecting && buffer->leaving && buffer->leaving_collection == 0)
        buffer->leaving_collection = number;
    oshm_collection_wake(buffer);
    return number;
}

uint64_t oshm_collection_last(const struct oshm_buffer *buffer)
{
    atomic_thread_fence(memory_order_seq_cst); /* this process's updates come before the load */
    return atomic_load(&buffer->header->collection);
}

int oshm_collector_exported_since(const struct oshm_buffer *buffer, uint64_t collection)
{
    return atomic_load(&buffer->header->last_export) > collection;
}
