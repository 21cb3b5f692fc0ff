/* SPDX-License-Identifier: Apache-2.0
 *
 * Asking the other processes for what only they know: see ANSWERS in layout.h.
 *
 * A futex compares 32 bits: the lower half of a number that only grows. Who sleeps wakes up by itself
 * after its time, so a wake-up that is lost with a killed process costs only that.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "clock.h"
#include "lanes.h"
#include "pages.h"

#define HEADER_BYTES sizeof(oshm_mailbox)

static long futex(const oshm_atomic_u64 *word, int operation, uint32_t value,
                  const struct timespec *timeout)
{
    return syscall(SYS_futex, (const void *)word, operation, value, timeout, NULL, 0);
}

static void sleep_on(const oshm_atomic_u64 *word, uint64_t seen, uint32_t milliseconds)
{
    const struct timespec timeout = {.tv_sec = milliseconds / 1000,
                                     .tv_nsec = (long)(milliseconds % 1000) * 1000000};
    futex(word, FUTEX_WAIT, (uint32_t)seen, &timeout);
}

void oshm_collection_wake(const struct oshm_buffer *buffer)
{
    futex(&buffer->header->collection, FUTEX_WAKE, INT_MAX, NULL);
}

uint64_t oshm_collection_wait(const struct oshm_buffer *buffer, uint64_t collection,
                              uint32_t milliseconds)
{
    const oshm_atomic_u64 *word = &buffer->header->collection;
    uint64_t now = atomic_load(word); /* seq_cst */
    if (now == collection) {
        sleep_on(word, now, milliseconds);
        now = atomic_load(word);
    }
    return now;
}

void oshm_answers_announce(struct oshm_buffer *buffer, int answers)
{
    oshm_notice_fork(buffer);
    if (buffer->lane == 0)
        return; /* nobody's: there is no entry for those that share it */
    oshm_lane *entry = &buffer->lane_table[buffer->lane];
    uint64_t last = atomic_load(&buffer->header->collection);
    atomic_store_explicit(&entry->answered, last, memory_order_release);
    atomic_store(&entry->publishes, answers ? 1 : 0); /* seq_cst */
}

static oshm_mailbox *mailbox(const struct oshm_buffer *buffer, uint64_t lane)
{
    return (oshm_mailbox *)(void *)(buffer->base + buffer->at.mailboxes +
                                    lane * OSHM_MAILBOX_BYTES);
}

/* Puts a message into a mailbox, behind what nobody has taken yet. */
static int put_message(struct oshm_buffer *buffer, uint64_t lane, uint64_t collection,
                       const uint8_t *message, uint64_t bytes)
{
    uint64_t offset = buffer->at.mailboxes + lane * OSHM_MAILBOX_BYTES, kept = 0;
    if (bytes > OSHM_MAILBOX_BYTES - HEADER_BYTES ||
        oshm_pages_ensure(buffer, offset, HEADER_BYTES + bytes) != OSHM_OK)
        return OSHM_FULL_MEMORY;
    oshm_mailbox *box = mailbox(buffer, lane);
    uint64_t before = atomic_exchange(&box->collection, 0);
    if (before != 0)
        kept = atomic_load_explicit(&box->bytes, memory_order_relaxed);
    if (kept > OSHM_MAILBOX_BYTES - HEADER_BYTES - bytes ||
        oshm_pages_ensure(buffer, offset, HEADER_BYTES + kept + bytes) != OSHM_OK) {
        atomic_store(&box->collection, before); /* there is no room for more */
        return OSHM_FULL_MEMORY;
    }
    memcpy((uint8_t *)box + HEADER_BYTES + kept, message, bytes);
    atomic_store_explicit(&box->bytes, kept + bytes, memory_order_relaxed);
    /* release: who sees the number sees the message */
    atomic_store_explicit(&box->collection, collection, memory_order_release);
    return OSHM_OK;
}

int oshm_answer(struct oshm_buffer *buffer, uint64_t collection, const uint8_t *message,
                uint64_t bytes)
{
    uint64_t lane = buffer->lane;
    int status = OSHM_OK;
    if (lane == 0)
        return OSHM_FULL_MEMORY;
    if (bytes != 0) /* never as of 0, which is a mailbox without content: not all may have answered yet */
        status = put_message(buffer, lane, collection ? collection : 1, message, bytes);
    atomic_store(&buffer->lane_table[lane].publishes, 1); /* the lane may be another than it was */
    /* release: who sees the answer sees what was observed and the message */
    atomic_store_explicit(&buffer->lane_table[lane].answered, collection, memory_order_release);
    atomic_fetch_add(&buffer->header->answers, 1); /* seq_cst: before the wake-up */
    futex(&buffer->header->answers, FUTEX_WAKE, INT_MAX, NULL);
    return status;
}

/* Counts those that have not answered. over: this was the time they had, and it is noted who was late. */
static int missing(struct oshm_buffer *buffer, uint64_t collection, uint64_t *late, bool over)
{
    uint64_t used =
        atomic_load_explicit(&buffer->header->lanes_used, memory_order_acquire);
    int count = 0;
    for (uint64_t lane = 1; lane < used && lane < buffer->lanes; lane++) {
        oshm_lane *entry = &buffer->lane_table[lane];
        /* This process's own too: who asks has answered, but it may have other providers. */
        if (atomic_load(&entry->publishes) == 0) /* seq_cst */
            continue;
        /* acquire: pairs with oshm_answer */
        uint64_t answered = atomic_load_explicit(&entry->answered, memory_order_acquire);
        if (answered >= collection)
            continue;
        if (late[lane] == answered + 1 && !over)
            continue; /* it has not answered to anything since */
        if (!oshm_lane_live(buffer, lane))
            continue;
        if (over)
            late[lane] = answered + 1;
        count++;
    }
    return count;
}

int oshm_answers_wait(struct oshm_buffer *buffer, uint64_t collection, uint32_t milliseconds,
                      uint64_t *late)
{
    uint64_t until = oshm_now_monotonic_milli() + milliseconds, now;
    for (;;) {
        uint64_t answers = atomic_load(&buffer->header->answers); /* before it is counted */
        if (missing(buffer, collection, late, false) == 0)
            break;
        now = oshm_now_monotonic_milli();
        if (now >= until)
            break;
        /* Woken up now and then to see who has died. */
        sleep_on(&buffer->header->answers, answers,
                 (uint32_t)(until - now < 100 ? until - now : 100));
    }
    return missing(buffer, collection, late, true);
}

uint64_t oshm_mailbox_take(const struct oshm_buffer *buffer, uint64_t lane, uint8_t *message)
{
    uint64_t offset = buffer->at.mailboxes + lane * OSHM_MAILBOX_BYTES;
    if (lane == 0 || lane >= buffer->lanes || !oshm_pages_ready(buffer, offset, HEADER_BYTES))
        return 0;
    oshm_mailbox *box = mailbox(buffer, lane);
    /* acquire: pairs with put_message */
    uint64_t collection = atomic_load_explicit(&box->collection, memory_order_acquire);
    uint64_t bytes = atomic_load_explicit(&box->bytes, memory_order_relaxed);
    if (collection == 0 || bytes == 0 || bytes > OSHM_MAILBOX_BYTES - HEADER_BYTES ||
        !oshm_pages_ready(buffer, offset, HEADER_BYTES + bytes))
        return 0;
    memcpy(message, (const uint8_t *)box + HEADER_BYTES, bytes);
    /* seq_cst. Its owner may put more behind it just now, and somebody else may take it: whoever sets the
     * number to 0 has what was there. */
    return atomic_compare_exchange_strong(&box->collection, &collection, 0) ? bytes : 0;
}
