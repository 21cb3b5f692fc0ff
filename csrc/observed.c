/* SPDX-License-Identifier: Apache-2.0
 *
 * What an observable's callbacks say: absolute values, each known to one process.
 *
 * A process that has its lane for itself puts the value there, on top of what the lane's dead owners left
 * (their shares of a sum stay). So the value is exactly what was observed, however often. In a lane that
 * is shared it adds the difference to what it observed before. A process that has another lane than before
 * left its share in the old one; where that still counts it is taken off in the new one.
 */
#include "buffer.h"
#include "series.h"

static bool in_own_lane(const struct oshm_buffer *buffer, const oshm_slot *run)
{
    const unsigned char *at = (const unsigned char *)run;
    return buffer->lane != 0 && at >= buffer->window && at < buffer->window + buffer->at.lane_bytes;
}

static uint64_t read_word(const oshm_slot *slot)
{
    return atomic_load_explicit(&slot->word, memory_order_relaxed);
}

/* Finds out what a value is put on top of. own: this process has the lane for itself. */
static void find_base(const oshm_target *target, oshm_share *share, bool own)
{
    const struct oshm_buffer *buffer = target->stream->buffer;
    uint64_t lane = own ? buffer->lane : 0, generation = own ? buffer->generation : 0;
    bool stays = target->stream->fold == OSHM_SUM;
    if (share->pid != (uint64_t)buffer->pid)
        *share = (oshm_share){.pid = (uint64_t)buffer->pid};
    if (share->lane == lane && share->generation == generation)
        return;
    if (!stays && share->lane != 0) { /* in a lane that was lost, which does not count any more */
        share->whole = 0;
        share->real = 0;
    }
    share->lane = lane;
    share->generation = generation;
    share->base_whole = 0;
    share->base_real = 0;
    if (!own)
        return;
    if (stays) { /* else the lane was cleaned */
        uint64_t real = read_word(&target->run[OSHM_FLOAT]);
        share->base_whole = (int64_t)read_word(&target->run[OSHM_INT]);
        share->base_real = real ? oshm_word_float(real) : 0;
    }
    share->base_real -= share->real;
    if (__builtin_sub_overflow(share->base_whole, share->whole, &share->base_whole))
        share->base_real += share->whole < 0 ? 0x1p64 : -0x1p64; /* it wrapped */
}

void oshm_observe_sum(const oshm_target *target, oshm_share *share, uint64_t collection,
                      int64_t whole, double real, int is_float)
{
    oshm_slot *run = target->run;
    int64_t sum;
    if (target->series == 0) {
        oshm_count(target->refused);
        return;
    }
    bool own = in_own_lane(target->stream->buffer, run);
    find_base(target, share, own);
    if (own) {
        double sum_real = share->base_real + real;
        if (__builtin_add_overflow(share->base_whole, whole, &sum)) {
            sum_real += (double)share->base_whole + (double)whole;
            sum = 0;
            is_float = 1;
        }
        atomic_store_explicit(&run[OSHM_INT].word, (uint64_t)sum, memory_order_relaxed);
        if (is_float || sum_real != 0 || read_word(&run[OSHM_FLOAT]) != 0)
            atomic_store_explicit(&run[OSHM_FLOAT].word, oshm_float_word(sum_real),
                                  memory_order_relaxed);
    } else {
        if (__builtin_sub_overflow(whole, share->whole, &sum))
            oshm_add_float(run, (double)whole - (double)share->whole);
        else
            oshm_add_int(run, sum);
        if (is_float || real != share->real)
            oshm_add_float(run, real - share->real);
    }
    share->whole = whole;
    share->real = real;
    oshm_observed(run, collection);
    if (target->refused)
        oshm_count(target->refused);
}

void oshm_observe_last(const oshm_target *target, uint64_t collection, int64_t whole, double real,
                       int is_float)
{
    if (is_float)
        oshm_set_float(target->run, real);
    else
        oshm_set_int(target->run, whole);
    oshm_observed(target->run, collection);
    if (target->refused)
        oshm_count(target->refused);
}
