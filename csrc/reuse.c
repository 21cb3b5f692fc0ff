/* SPDX-License-Identifier: Apache-2.0
 *
 * Series that no reader needs any more: see REUSE in layout.h.
 *
 * Only the holder of the collector lock is here. What it decides is one CAS of the series' state each
 * time, and a claim decides against it the same way, so a series is either live or retired for all.
 */
#include <stdlib.h>

#include "lanes.h"
#include "records.h"
#include "scan.h"
#include "series.h"

/* A child that was just forked may use its parent's addresses before it has said so. */
#define COOL_DOWN_NANO 1000000000u

int oshm_target_retires(const oshm_target *target)
{
    if (target->series == 0)
        return 0;
    uint64_t state = atomic_load(&oshm_record_at(target->stream->buffer, target->series)->state);
    return oshm_series_state(state) == OSHM_RETIRING;
}

uint64_t oshm_sweep_number(const struct oshm_buffer *buffer)
{
    return atomic_load_explicit(&buffer->header->sweep, memory_order_relaxed);
}

/* True if a living process may measure with an address of the run. */
static bool is_held(struct oshm_buffer *buffer, const struct oshm_known *series)
{
    for (uint64_t lane = 0; lane < buffer->lanes; lane++) {
        const oshm_slot *run =
            oshm_lane_slots(buffer, lane, series->first_slot, series->slots);
        /* seq_cst: see series.c. A lane that is nobody's just now is cleaned by its next owner before
         * that looks at the series' state. */
        if (run && atomic_load(&run[OSHM_HELD].word) != 0 && oshm_lane_live(buffer, lane))
            return true;
    }
    return false;
}

static uint64_t sum_of_lanes(const struct oshm_buffer *buffer, uint64_t slot)
{
    uint64_t sum = 0;
    for (uint64_t lane = 0; lane < buffer->lanes; lane++) {
        const oshm_slot *there = oshm_lane_slots(buffer, lane, slot, 1);
        if (there)
            sum += atomic_load_explicit(&there->word, memory_order_relaxed);
    }
    return sum;
}

/* The first slot of a block of an exponential series, all scales of one sign and then of the other;
 * 0 if there is none. */
static uint64_t block_at(const struct oshm_buffer *buffer, const struct oshm_known *series,
                         const struct oshm_stream *stream, int32_t block, uint64_t *count)
{
    const oshm_blocks *blocks = oshm_blocks_of(buffer, series->position);
    int32_t scale = stream->max_scale - block % OSHM_SCALES;
    if (blocks == NULL || scale < OSHM_MIN_SCALE)
        return 0;
    *count = oshm_block_slots(stream->max_size, scale);
    /* acquire: pairs with the CAS of block_slots */
    uint64_t at = atomic_load_explicit(
        &blocks[block / OSHM_SCALES].first_slot[block % OSHM_SCALES], memory_order_acquire);
    return *count > buffer->at.slots || at > buffer->at.slots - *count ? 0 : at;
}

/* True if all delta readers have had a sum. Its float part is not compared as a sum of words but as the
 * sum that fold.c makes of them. */
static bool is_sum_exported(const struct oshm_scanner *scanner, const struct oshm_known *series)
{
    const struct oshm_buffer *buffer = scanner->buffer;
    uint64_t first = series->first_slot;
    double real = 0;
    bool is_float = false;
    for (uint64_t lane = 0; lane < scanner->lanes.count; lane++) {
        const oshm_slot *run = oshm_lane_slots(buffer, lane, first, series->slots);
        uint64_t word =
            run ? atomic_load_explicit(&run[OSHM_FLOAT].word, memory_order_relaxed) : 0;
        if (word != 0) {
            is_float = true;
            real += oshm_word_float(word);
        }
    }
    return oshm_baseline_had(buffer, first + OSHM_INT, sum_of_lanes(buffer, first + OSHM_INT)) &&
           oshm_baseline_had(buffer, first + OSHM_FLOAT, is_float ? oshm_float_word(real) : 0);
}

/* True if all delta readers have had what is in the run and the blocks. What is in the sum of a histogram
 * and not in its buckets was never counted: its process died. */
static bool is_exported(const struct oshm_scanner *scanner, const struct oshm_known *series,
                        const struct oshm_stream *stream)
{
    struct oshm_buffer *buffer = scanner->buffer;
    uint64_t first = series->first_slot;
    if (series->aggregation == OSHM_AGGREGATION_SUM)
        return is_sum_exported(scanner, series);
    for (uint64_t slot = OSHM_BUCKETS; slot < series->slots; slot++)
        if (!oshm_baseline_had(buffer, first + slot, sum_of_lanes(buffer, first + slot)))
            return false;
    if (series->aggregation != OSHM_AGGREGATION_EXPONENTIAL)
        return true;
    for (int32_t block = 0; block < stream->signs * OSHM_SCALES; block++) {
        uint64_t count, at = block_at(buffer, series, stream, block, &count);
        for (uint64_t slot = at; at != 0 && slot < at + count; slot++)
            if (!oshm_baseline_had(buffer, slot, sum_of_lanes(buffer, slot)))
                return false;
    }
    return true;
}

static void clear_slots(struct oshm_buffer *buffer, uint64_t first, uint64_t count)
{
    for (uint64_t lane = 0; lane < buffer->lanes; lane++) {
        oshm_slot *slots = oshm_lane_slots(buffer, lane, first, count);
        for (uint64_t i = 0; slots && i < count; i++)
            atomic_store_explicit(&slots[i].word, 0, memory_order_relaxed);
    }
    oshm_baseline_clear(buffer, first, count);
}

/* All of a run but the marks of the living: who claimed the series before it retired makes its mark only
 * now, finds out, and takes it back. */
static void clear_run(struct oshm_buffer *buffer, uint64_t first, uint64_t count)
{
    clear_slots(buffer, first, OSHM_HELD);
    clear_slots(buffer, first + OSHM_HELD + 1, count - OSHM_HELD - 1);
    for (uint64_t lane = 0; lane < buffer->lanes; lane++) {
        oshm_slot *held = oshm_lane_slots(buffer, lane, first + OSHM_HELD, 1);
        if (held && atomic_load(&held->word) != 0 && !oshm_lane_live(buffer, lane))
            atomic_store(&held->word, 0);
    }
}

/* Subtracts one from a count of series. A process that was killed may not have counted what it published. */
static void lower(oshm_atomic_u64 *count)
{
    uint64_t now = atomic_load_explicit(count, memory_order_relaxed);
    while (now != 0 && !atomic_compare_exchange_weak_explicit(
                           count, &now, now - 1, memory_order_relaxed, memory_order_relaxed))
        ;
}

/* Empties a retired series and lets another one have its record and slots. A process that is killed in
 * here has lost the record, and nothing else. */
static bool give_back(struct oshm_scanner *scanner, const struct oshm_known *series,
                      const struct oshm_stream *stream)
{
    struct oshm_buffer *buffer = scanner->buffer;
    oshm_stream_state *state = oshm_stream_state_of(buffer, series->stream);
    oshm_record fixed;
    const uint8_t *ignored;
    if (state == NULL || oshm_record_get(buffer, series->position, &fixed, &ignored) != OSHM_OK)
        return false;
    bool gone = false;
    for (uint64_t step = 0; step < buffer->at.cells && !gone; step++) {
        uint64_t i = (fixed.hash + step) & (buffer->at.cells - 1);
        uint64_t cell = scanner->seen[i];
        if (cell != 0 && (cell & OSHM_CELL_POSITION) == series->position)
            gone = atomic_compare_exchange_strong(&buffer->index[i], &cell, OSHM_CELL_GONE);
    }
    if (!gone)
        return false;
    clear_run(buffer, series->first_slot, series->slots);
    if (series->aggregation == OSHM_AGGREGATION_EXPONENTIAL) {
        for (int32_t block = 0; block < stream->signs * OSHM_SCALES; block++) {
            uint64_t count, at = block_at(buffer, series, stream, block, &count);
            if (at != 0)
                clear_slots(buffer, at, count);
        }
    }
    lower(&buffer->header->series_count);
    lower(&state->series);
    oshm_record_recycle(buffer, &state->reusable, series->position);
    return true;
}

/* True if the stream or the buffer gets full, and all its readers want deltas. */
static bool needs_room(const struct oshm_scanner *scanner, const struct oshm_known *series)
{
    const oshm_header *header = scanner->buffer->header;
    if (atomic_load(&header->kept_kinds) >> series->kind & 1)
        return false;
    if ((series->aggregation != OSHM_AGGREGATION_SUM && series->aggregation < OSHM_AGGREGATION_EXPLICIT) ||
        series->kind == OSHM_OBSERVABLE_COUNTER || series->kind == OSHM_OBSERVABLE_GAUGE ||
        series->kind == OSHM_OBSERVABLE_UP_DOWN_COUNTER)
        return false; /* a last value and what is observed is compared with what was before */
    const oshm_stream_state *state = oshm_stream_state_of(scanner->buffer, series->stream);
    return state && (atomic_load_explicit(&state->series, memory_order_relaxed) >
                         atomic_load_explicit(&state->limit, memory_order_relaxed) / 3 ||
                     atomic_load_explicit(&header->series_count, memory_order_relaxed) >
                         scanner->buffer->series / 2);
}

/* Makes a series that no reader has had anything new of retire. An overflow series stays: there must be
 * a place to overflow to when there is no room for anything more. Returns: whether it retires now. */
static bool begin(struct oshm_buffer *buffer, const struct oshm_known *series, uint64_t state)
{
    oshm_record fixed;
    const uint8_t *key;
    if (oshm_record_get(buffer, series->position, &fixed, &key) != OSHM_OK ||
        oshm_is_overflow(key, fixed.key_bytes))
        return false;
    /* seq_cst: before the marks are looked at, see series.c */
    return atomic_compare_exchange_strong(&oshm_record_at(buffer, series->position)->state, &state,
                                          oshm_state_word(series->generation, OSHM_RETIRING));
}

/* One step of a series towards its end, or back. Returns: whether its slots can be used again now. */
static bool step(struct oshm_scanner *scanner, struct oshm_known *series, bool idle, uint64_t now,
                 bool *wanted)
{
    struct oshm_buffer *buffer = scanner->buffer;
    oshm_atomic_u64 *word = &oshm_record_at(buffer, series->position)->state;
    uint64_t state = atomic_load(word), generation = series->generation;
    if (oshm_generation(state) != generation || (series->retired == 0 && !needs_room(scanner, series)))
        return false;
    const struct oshm_stream *stream = oshm_scanner_stream(scanner, series->stream);
    if (stream == NULL || stream->slots != series->slots)
        return false;
    if (oshm_series_state(state) == OSHM_RETIRED) {
        if (series->retired == 0)
            series->retired = now; /* by the collector before */
        if (series->retired == UINT64_MAX || now - series->retired < COOL_DOWN_NANO ||
            is_held(buffer, series))
            return false;
        series->retired = UINT64_MAX;
        return give_back(scanner, series, stream);
    }
    if (!idle) {
        if (oshm_series_state(state) == OSHM_RETIRING)
            atomic_compare_exchange_strong(word, &state, oshm_state_word(generation, OSHM_LIVE));
        return false;
    }
    if (oshm_series_state(state) == OSHM_LIVE) {
        if (!begin(buffer, series, state))
            return false;
        state = oshm_state_word(generation, OSHM_RETIRING);
    }
    if (oshm_series_state(state) != OSHM_RETIRING)
        return false;
    if (is_held(buffer, series)) {
        *wanted = true;
        return false;
    }
    if (!is_exported(scanner, series, stream))
        return false;
    if (atomic_compare_exchange_strong(word, &state, oshm_state_word(generation, OSHM_RETIRED)))
        series->retired = now;
    return false;
}

int64_t oshm_scanner_retire(struct oshm_scanner *scanner, uint64_t collection, uint64_t now)
{
    int64_t count = 0;
    bool wanted = false;
    for (size_t i = 0; i < scanner->count; i++)
        count += step(scanner, &scanner->known[i], scanner->known[i].idle, now, &wanted);
    if (wanted)
        atomic_store(&scanner->buffer->header->sweep, collection);
    return count;
}
