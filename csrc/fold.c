/* SPDX-License-Identifier: Apache-2.0
 *
 * One series over all lanes: its total, or what a delta reader has not had of it.
 *
 * The words of a total are kept as they would lie in a run, so the same numbers are what goes into a
 * baseline, and a delta is the difference of two runs.
 */
#include "fold.h"

#include <stdlib.h>
#include <string.h>

#include "histogram.h"
#include "lanes.h"
#include "records.h"
#include "series.h"

struct oshm_known oshm_known_series(uint64_t position, const oshm_record *record)
{
    return (struct oshm_known){
        .position = position,
        .stream = record->parent,
        .first_slot = record->first_slot,
        .generation =
            oshm_generation(atomic_load_explicit(&record->state, memory_order_relaxed)),
        .slots = record->slots,
        .kind = record->kind,
        .aggregation = record->aggregation,
        .fold = record->fold};
}

oshm_row oshm_new_row(const struct oshm_known *series)
{
    return (oshm_row){.series = series->position,
                      .stream = series->stream,
                      .generation = series->generation,
                      .kind = series->kind,
                      .aggregation = series->aggregation};
}

void oshm_lanes_find(struct oshm_buffer *buffer, struct oshm_lanes *lanes)
{
    lanes->first = 0;
    /* acquire: pairs with publish_lane */
    lanes->count = atomic_load_explicit(&buffer->header->lanes_used, memory_order_acquire);
    if (lanes->count < 1)
        lanes->count = 1;
    if (lanes->count > buffer->lanes)
        lanes->count = buffer->lanes;
    for (uint64_t lane = 0; lane < lanes->count; lane++)
        lanes->live[lane] = oshm_lane_live(buffer, lane);
}

static uint64_t read_word(const oshm_slot *slot)
{
    return atomic_load_explicit(&slot->word, memory_order_relaxed);
}

static void write_word(oshm_slot *slot, uint64_t word)
{
    atomic_store_explicit(&slot->word, word, memory_order_relaxed);
}

static bool is_observable(uint8_t kind)
{
    return kind == OSHM_OBSERVABLE_GAUGE || kind == OSHM_OBSERVABLE_COUNTER ||
           kind == OSHM_OBSERVABLE_UP_DOWN_COUNTER;
}

/* The two numbers of one run or of several together, and when they were last measured. */
struct numbers {
    __int128 whole;
    double real;
    bool is_float;  /* there is a real part */
    bool is_there;  /* there is a value at all */
    uint64_t stamp; /* the highest */
};

/* What one lane has of a series. A last value is one of the two words, a sum is both. */
static struct numbers read_run(const struct oshm_known *series, const oshm_slot *run)
{
    /* acquire: pairs with oshm_observed, so the values read next are that observation's */
    uint64_t stamp = atomic_load_explicit(&run[OSHM_STAMP].word, memory_order_acquire);
    uint64_t real = read_word(&run[OSHM_FLOAT]), whole = read_word(&run[OSHM_INT]);
    struct numbers out = {.is_float = real != 0, .is_there = true, .stamp = stamp};
    if (real != 0)
        out.real = oshm_word_float(real);
    if (series->aggregation == OSHM_AGGREGATION_LAST) {
        out.is_there = real != 0 || whole != 0;
        whole = real != 0 ? 0 : whole ^ OSHM_SIGN;
    }
    out.whole = (int64_t)whole;
    return out;
}

/* Collections for which an observation in lane 0 counts: who observes there has no entry to answer in, so
 * nobody waits for it. */
#define LAST_IN_LANE_0 8

/* True if the owner of a lane has observed a series, in this collection or, if it has not answered to
 * that, in the last one that it answered to. */
static bool is_observed(const struct oshm_folding *folding, uint64_t lane, uint64_t stamp)
{
    const oshm_lane *entry = &folding->buffer->lane_table[lane];
    if (stamp >= folding->collection)
        return true;
    if (lane == 0)
        return stamp != 0 && folding->collection - stamp <= LAST_IN_LANE_0;
    uint64_t answered = atomic_load_explicit(&entry->answered, memory_order_acquire);
    return stamp != 0 && stamp >= answered && answered < folding->collection &&
           atomic_load_explicit(&entry->publishes, memory_order_relaxed) != 0;
}

static double as_double(const struct numbers *numbers)
{
    return numbers->real + (double)numbers->whole;
}

/* Takes one more lane into a value. */
static void fold_in(const struct oshm_known *series, const struct numbers *one,
                    struct numbers *out)
{
    uint64_t stamp = one->stamp > out->stamp ? one->stamp : out->stamp;
    switch (series->fold) {
    case OSHM_SUM:
    case OSHM_LIVE_SUM:
        out->whole += one->whole;
        out->real += one->real;
        out->is_float = out->is_float || one->is_float;
        break;
    case OSHM_LOWEST:
        if (!out->is_there || as_double(one) < as_double(out))
            *out = *one;
        break;
    case OSHM_HIGHEST:
        if (!out->is_there || as_double(one) > as_double(out))
            *out = *one;
        break;
    default: /* the first one */
        if (!out->is_there)
            *out = *one;
    }
    out->is_there = true;
    out->stamp = stamp;
}

/* The value of a series: of all lanes that its rule takes, or of one of them. A sum that was started has a
 * value even where no lane of the living has a part in it. */
static struct numbers fold_numbers(const struct oshm_folding *folding,
                                   const struct oshm_known *series, uint64_t first_lane,
                                   uint64_t lanes)
{
    bool observable = is_observable(series->kind), observed = false;
    bool is_sum = series->aggregation == OSHM_AGGREGATION_SUM, stays = is_sum && series->fold == OSHM_SUM;
    struct numbers out = {.is_there = false};
    for (uint64_t lane = first_lane; lane < first_lane + lanes; lane++) {
        bool live = folding->lanes.live[lane];
        if (!live && series->fold != OSHM_SUM)
            continue;
        const oshm_slot *run =
            oshm_lane_slots(folding->buffer, lane, series->first_slot, series->slots);
        if (run == NULL)
            continue;
        struct numbers one = read_run(series, run);
        bool seen = observable && live && is_observed(folding, lane, one.stamp);
        observed = observed || seen;
        /* A live_sum is of what is observed. But a process that got its lane late has what it once put into
         * lane 0 taken off in its own (see observed.c), so those count together. */
        if (lane == 0 && is_sum && series->fold == OSHM_LIVE_SUM)
            stays = one.whole != 0 || one.is_float;
        if (one.is_there && (stays || !observable || seen))
            fold_in(series, &one, &out);
    }
    if (series->aggregation != OSHM_AGGREGATION_LAST && !observable)
        out.is_there = true;
    else if (observable)
        out.is_there = out.is_there && observed;
    if (out.whole > INT64_MAX || out.whole < INT64_MIN) {
        out.real += (double)out.whole; /* the lanes together are past int64 */
        out.whole = 0;
        out.is_float = true;
    }
    return out;
}

/* How many lanes are asked for a series' value: lane 0 alone where all write there. */
static uint64_t lanes_of(const struct oshm_folding *folding, const struct oshm_known *series)
{
    if (series->fold == OSHM_LAST)
        return folding->lanes.first == 0;
    return folding->lanes.count - folding->lanes.first;
}

static void put_numbers(oshm_row *row, __int128 whole, double real, bool is_float)
{
    row->is_float = is_float || whole > INT64_MAX || whole < INT64_MIN;
    if (row->is_float)
        row->float_value = real + (double)whole;
    else
        row->int_value = (int64_t)whole;
}

/* Puts what a reader has not had of a sum, and notes what it will have had.
 * Returns: whether the words changed. */
static bool subtract(const struct oshm_folding *folding, const struct oshm_known *series,
                     const struct numbers *now, oshm_row *row)
{
    const oshm_slot *old = folding->baseline.old + series->first_slot;
    oshm_slot *new = folding->baseline.new + series->first_slot;
    uint64_t whole = read_word(&old[OSHM_INT]), real = read_word(&old[OSHM_FLOAT]);
    uint64_t real_now = now->is_float ? oshm_float_word(now->real) : 0;
    write_word(&new[OSHM_INT], (uint64_t)(int64_t)now->whole);
    write_word(&new[OSHM_FLOAT], real_now);
    __int128 difference = now->whole - (int64_t)whole;
    double rest = now->is_float ? now->real - (real ? oshm_word_float(real) : 0.0) : 0.0;
    /* A live_sum falls because a process died: what that one had is taken off, as with any sum that may
     * fall. Else counting began anew. */
    if (series->kind == OSHM_OBSERVABLE_COUNTER && series->fold != OSHM_LIVE_SUM &&
        rest + (double)difference < 0)
        put_numbers(row, now->whole, now->real, now->is_float);
    else
        put_numbers(row, difference, rest, now->is_float);
    return difference != 0 || real != real_now;
}

/* What a reader has had of the first words of a run stays as it was. */
static void carry_over(const struct oshm_folding *folding, const struct oshm_known *series,
                       uint32_t words)
{
    for (uint32_t i = 0; i < words; i++)
        write_word(&folding->baseline.new[series->first_slot + i],
                   read_word(&folding->baseline.old[series->first_slot + i]));
}

static void fold_number_row(struct oshm_folding *folding, const struct oshm_known *series,
                            oshm_row *row)
{
    struct numbers now =
        fold_numbers(folding, series, folding->lanes.first, lanes_of(folding, series));
    bool observable = is_observable(series->kind);
    row->has_value = now.is_there;
    if (folding->reader < 0) {
        put_numbers(row, now.whole, now.real, now.is_float);
        return;
    }
    bool first = folding->baseline.collection == 0;
    bool stamped = now.stamp >= folding->baseline.collection && now.stamp != 0;
    if (!row->has_value) {
        carry_over(folding, series, series->slots);
        return;
    }
    if (series->aggregation == OSHM_AGGREGATION_LAST) {
        put_numbers(row, now.whole, now.real, now.is_float);
        row->has_value = observable || first || stamped;
    } else {
        bool changed = subtract(folding, series, &now, row);
        row->has_value = observable || first || changed || stamped;
    }
    if (folding->baseline.time_unix_nano != 0)
        row->start_time_unix_nano = folding->baseline.time_unix_nano;
}

/* Makes room for more counts. Returns: their place, zeroed, or NULL without memory. */
static uint64_t *more_counts(struct oshm_counts *counts, size_t more)
{
    if (more > counts->capacity - counts->used) {
        size_t capacity = (counts->used + more) * 2;
        uint64_t *at = realloc(counts->at, capacity * sizeof *at);
        if (at == NULL)
            return NULL;
        counts->at = at;
        counts->capacity = capacity;
    }
    uint64_t *place = counts->at + counts->used;
    memset(place, 0, more * sizeof *place);
    counts->used += more;
    return place;
}

/* Counts that lie in slots: the sum of all lanes, or what the reader has not had of it. */
static uint64_t fold_counts(const struct oshm_folding *folding, uint64_t first_slot, size_t count,
                            uint64_t *out)
{
    uint64_t total = 0;
    for (uint64_t lane = folding->lanes.first; lane < folding->lanes.count; lane++) {
        const oshm_slot *slots = oshm_lane_slots(folding->buffer, lane, first_slot, count);
        for (size_t i = 0; slots && i < count; i++)
            out[i] += read_word(&slots[i]);
    }
    for (size_t i = 0; i < count; i++) {
        if (folding->reader >= 0) {
            uint64_t had = read_word(&folding->baseline.old[first_slot + i]);
            write_word(&folding->baseline.new[first_slot + i], out[i]);
            out[i] = out[i] > had ? out[i] - had : 0;
        }
        total += out[i];
    }
    return total;
}

static void fold_extremes(struct oshm_folding *folding, const struct oshm_known *series,
                          oshm_row *row)
{
    oshm_slot extremes[2] = {0};
    bool delta = folding->reader >= 0;
    for (uint64_t lane = folding->lanes.first; lane < folding->lanes.count; lane++) {
        oshm_slot *run =
            oshm_lane_slots(folding->buffer, lane, series->first_slot, series->slots);
        if (run == NULL)
            continue;
        if (delta) {
            oshm_baseline_take_extremes(folding->buffer, series->first_slot, run);
            continue;
        }
        uint64_t low = read_word(&run[OSHM_MIN]), high = read_word(&run[OSHM_MAX]);
        if (low != 0)
            oshm_extend(&extremes[0].word, oshm_word_float(low), true);
        if (high != 0)
            oshm_extend(&extremes[1].word, oshm_word_float(high), false);
    }
    if (delta) {
        const oshm_slot *old = folding->baseline.old + series->first_slot;
        oshm_slot *new = folding->baseline.new + series->first_slot;
        for (int i = 0; i < 2; i++) {
            write_word(&extremes[i], read_word(&old[OSHM_INTERVAL_MIN + i]));
            write_word(&new[OSHM_INTERVAL_MIN + i], 0);
        }
    }
    uint64_t low = read_word(&extremes[0]), high = read_word(&extremes[1]);
    row->has_min_max = low != 0 && high != 0;
    row->min = row->has_min_max ? oshm_word_float(low) : 0;
    row->max = row->has_min_max ? oshm_word_float(high) : 0;
}

/* The filled blocks of an exponential series for values of one sign. */
struct filled {
    struct {
        bool is_filled;
        size_t place; /* of its counts in the scratch */
        int64_t lowest;
    } block[OSHM_SCALES];
    int64_t low, high; /* buckets at the scale of the coarsest one */
    int32_t scale;     /* of that */
    uint64_t total;
};

/* Folds the blocks of one sign. Returns: false without memory. */
static bool find_filled(struct oshm_folding *folding, const oshm_blocks *blocks,
                        const struct oshm_stream *stream, struct filled *out)
{
    *out = (struct filled){.low = INT64_MAX, .high = INT64_MIN, .scale = stream->max_scale};
    for (int32_t block = 0; stream->max_scale - block >= OSHM_MIN_SCALE; block++) {
        uint32_t count = oshm_block_slots(stream->max_size, stream->max_scale - block);
        /* acquire: pairs with the CAS of block_slots */
        uint64_t first = atomic_load_explicit(&blocks->first_slot[block], memory_order_acquire);
        if (first == 0 || count > folding->buffer->at.slots ||
            first > folding->buffer->at.slots - count)
            continue;
        if (folding->reader >= 0 &&
            !oshm_baseline_ready(folding->buffer, folding->reader, first, count)) {
            folding->left_out++;
            continue;
        }
        size_t place = folding->scratch->used;
        uint64_t *counts = more_counts(folding->scratch, count);
        if (counts == NULL)
            return false;
        uint64_t sum = fold_counts(folding, first, count, counts);
        if (sum == 0)
            continue;
        out->total += sum;
        out->block[block].is_filled = true;
        out->block[block].place = place;
        out->block[block].lowest = oshm_block_lowest(stream, blocks, block);
        if (out->low <= out->high) { /* the finer ones, seen at this scale */
            out->low >>= out->scale - (stream->max_scale - block);
            out->high >>= out->scale - (stream->max_scale - block);
        }
        out->scale = stream->max_scale - block;
        for (uint32_t i = 0; i < count; i++) {
            int64_t bucket = out->block[block].lowest + i;
            if (counts[i] != 0 && bucket < out->low)
                out->low = bucket;
            if (counts[i] != 0 && bucket > out->high)
                out->high = bucket;
        }
    }
    return true;
}

/* Moves to a coarser scale. */
static void coarsen(struct filled *filled, int32_t scale)
{
    if (filled->total != 0) {
        filled->low >>= filled->scale - scale;
        filled->high >>= filled->scale - scale;
    }
    filled->scale = scale;
}

/* Writes the buckets of one sign. Returns: false without memory. */
static bool put_buckets(struct oshm_folding *folding, const struct oshm_stream *stream,
                        const struct filled *filled, uint64_t *first, uint32_t *count,
                        int32_t *offset)
{
    *count = filled->total ? (uint32_t)(filled->high - filled->low + 1) : 0;
    *offset = filled->total ? (int32_t)filled->low : 0;
    *first = folding->buckets->used;
    if (*count == 0)
        return true;
    uint64_t *out = more_counts(folding->buckets, *count);
    if (out == NULL)
        return false;
    for (int32_t block = 0; block < OSHM_SCALES; block++) {
        if (!filled->block[block].is_filled)
            continue;
        int32_t scale = stream->max_scale - block;
        const uint64_t *counts = folding->scratch->at + filled->block[block].place;
        for (uint32_t i = 0; i < oshm_block_slots(stream->max_size, scale); i++) {
            int64_t bucket =
                ((filled->block[block].lowest + i) >> (scale - filled->scale)) - filled->low;
            if (counts[i] != 0 && bucket >= 0 && bucket < *count)
                out[bucket] += counts[i];
        }
    }
    return true;
}

/* The blocks of an exponential series as buckets of one scale, the finest at which those of either sign
 * fit. Returns: false without memory. */
static bool fold_blocks(struct oshm_folding *folding, const struct oshm_known *series,
                        const struct oshm_stream *stream, oshm_row *row)
{
    const oshm_blocks *blocks = oshm_blocks_of(folding->buffer, series->position);
    struct filled filled[2] = {{.total = 0}};
    int32_t scale = stream->max_scale;
    folding->scratch->used = 0;
    for (int32_t sign = 0; blocks && sign < stream->signs; sign++) {
        struct filled *one = &filled[sign];
        if (!find_filled(folding, &blocks[sign], stream, one))
            return false;
        row->count += one->total;
        if (one->total == 0)
            continue;
        int64_t low = one->low, high = one->high;
        int32_t fits = one->scale;
        for (; high - low >= stream->max_size; low >>= 1, high >>= 1)
            fits--;
        if (fits < scale)
            scale = fits;
    }
    row->scale = filled[0].total + filled[1].total ? (int8_t)scale : 0;
    for (int32_t sign = 0; sign < 2; sign++)
        coarsen(&filled[sign], scale < filled[sign].scale ? scale : filled[sign].scale);
    return put_buckets(folding, stream, &filled[0], &row->first_bucket, &row->buckets,
                       &row->offset) &&
           put_buckets(folding, stream, &filled[1], &row->first_negative, &row->negatives,
                       &row->negative_offset);
}

static bool fold_histogram_row(struct oshm_folding *folding, const struct oshm_known *series,
                               const struct oshm_stream *stream, oshm_row *row)
{
    row->count = 0;
    if (series->aggregation == OSHM_AGGREGATION_EXPLICIT) {
        row->buckets = series->slots - OSHM_BUCKETS;
        row->first_bucket = folding->buckets->used;
        uint64_t *counts = more_counts(folding->buckets, row->buckets);
        if (counts == NULL)
            return false;
        row->count = fold_counts(folding, series->first_slot + OSHM_BUCKETS, row->buckets, counts);
    } else {
        row->zero_count = 0;
        row->count = fold_counts(folding, series->first_slot + OSHM_ZERO, 1, &row->zero_count);
        if (!fold_blocks(folding, series, stream, row))
            return false;
    }
    atomic_thread_fence(memory_order_acquire); /* pairs with oshm_count_in */
    if (folding->reader >= 0 && row->count == 0) {
        carry_over(folding, series, OSHM_BUCKETS); /* of a value that is not counted yet */
        return true;
    }
    struct numbers now =
        fold_numbers(folding, series, folding->lanes.first, lanes_of(folding, series));
    if (folding->reader >= 0) {
        subtract(folding, series, &now, row);
        if (folding->baseline.time_unix_nano != 0)
            row->start_time_unix_nano = folding->baseline.time_unix_nano;
    } else {
        put_numbers(row, now.whole, now.real, now.is_float);
    }
    fold_extremes(folding, series, row);
    row->has_value = row->count > 0; /* none: what was measured had no place */
    return true;
}

bool oshm_fold_lane(struct oshm_folding *folding, const struct oshm_known *series, uint64_t lane,
                    oshm_row *row)
{
    struct numbers now = fold_numbers(folding, series, lane, 1);
    *row = oshm_new_row(series);
    row->lane = (uint16_t)lane;
    row->start_time_unix_nano =
        atomic_load_explicit(&oshm_record_at(folding->buffer, series->position)->start_time_unix_nano,
                             memory_order_acquire);
    row->has_value = now.is_there && row->start_time_unix_nano != 0;
    put_numbers(row, now.whole, now.real, now.is_float);
    return row->has_value;
}

bool oshm_fold(struct oshm_folding *folding, const struct oshm_known *series,
               const struct oshm_stream *stream, oshm_row *row)
{
    const oshm_record *record = oshm_record_at(folding->buffer, series->position);
    row->has_value = false;
    row->has_min_max = false;
    row->buckets = 0;
    row->negatives = 0;
    uint64_t state = atomic_load(&record->state);
    if (oshm_generation(state) != series->generation || oshm_series_state(state) == OSHM_RETIRED)
        return true; /* all readers have had it, and another series may be writing there by now */
    /* acquire: pairs with oshm_series_start */
    row->start_time_unix_nano =
        atomic_load_explicit(&record->start_time_unix_nano, memory_order_acquire);
    if (row->start_time_unix_nano == 0 || series->fold == OSHM_EACH)
        return true; /* bound, but never measured; or a row a lane: oshm_fold_lane */
    if (folding->reader >= 0 && !oshm_baseline_ready(folding->buffer, folding->reader,
                                                     series->first_slot, series->slots)) {
        folding->left_out++;
        return true;
    }
    if (series->aggregation == OSHM_AGGREGATION_SUM ||
        series->aggregation == OSHM_AGGREGATION_LAST) {
        fold_number_row(folding, series, row);
        return true;
    }
    return fold_histogram_row(folding, series, stream, row);
}
