/* SPDX-License-Identifier: Apache-2.0
 *
 * A series' place to add: claimed for an attribute set, held while a process may measure with it, and
 * given back.
 *
 * Who holds a series says so in its own lane, so that a process that dies lets go of all it held. The
 * mark is made before the series' state is looked at, and a collector that wants to retire the series
 * sets the state before it looks at the marks; with sequential consistency on both sides at least one
 * of them sees the other.
 */
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "lanes.h"
#include "records.h"
#include "series.h"

/* The attributes of an overflow series, {"otel.metric.overflow": true}, as an OTLP KeyValueList:
 * field 1 (26 bytes) { field 1, key (20 bytes); field 2, value (2 bytes) { field 2, bool: true } }. */
static const uint8_t OVERFLOW_ATTRIBUTES[] = "\x0a\x1a\x0a\x14" "otel.metric.overflow" "\x12\x02\x10\x01";
#define OVERFLOW_BYTES (sizeof OVERFLOW_ATTRIBUTES - 1)

static struct oshm_key series_key(const struct oshm_stream *stream, const uint8_t *attributes,
                                  uint64_t bytes)
{
    bool exponential = stream->aggregation == OSHM_AGGREGATION_EXPONENTIAL;
    return (struct oshm_key){.type = OSHM_SERIES,
                             .kind = stream->kind,
                             .aggregation = stream->aggregation,
                             .fold = stream->fold,
                             .slots = stream->slots,
                             .parent = stream->record,
                             .bytes = attributes,
                             .length = bytes,
                             .behind_bytes = exponential ? (uint64_t)stream->signs * sizeof(oshm_blocks)
                                                         : 0};
}

bool oshm_is_overflow(const uint8_t *attributes, uint64_t bytes)
{
    return bytes == OVERFLOW_BYTES && memcmp(attributes, OVERFLOW_ATTRIBUTES, bytes) == 0;
}

int oshm_series_claim_overflow(const struct oshm_stream *stream)
{
    struct oshm_key key = series_key(stream, OVERFLOW_ATTRIBUTES, OVERFLOW_BYTES);
    uint64_t position;
    return oshm_record_claim(stream->buffer, &key, &position, NULL);
}

void oshm_series_start(const oshm_target *target)
{
    if (target->series == 0)
        return;
    oshm_atomic_u64 *start =
        &oshm_record_at(target->buffer, target->series)->start_time_unix_nano;
    uint64_t none = 0;
    if (atomic_load_explicit(start, memory_order_relaxed) == 0)
        /* release: pairs with the acquire of a scan; the first measurer's time stands */
        atomic_compare_exchange_strong_explicit(start, &none, oshm_now_unix_nano(),
                                                memory_order_release, memory_order_relaxed);
}

static struct oshm_places *new_places(const struct oshm_stream *stream)
{
    struct oshm_places *places = calloc((size_t)stream->signs, sizeof *places);
    for (int32_t sign = 0; places && sign < stream->signs; sign++)
        atomic_init(&places[sign].block, -1);
    return places;
}

/* Claims the series of a key and resolves its address. */
static int place(const struct oshm_stream *stream, struct oshm_key *key, int measured,
                 oshm_target *target)
{
    struct oshm_buffer *buffer = stream->buffer;
    uint64_t position, state;
    oshm_record record;
    const uint8_t *ignored;
    oshm_slot *run;
    uint32_t holding;
    struct oshm_places *places = NULL;
    if (stream->aggregation == OSHM_AGGREGATION_EXPONENTIAL && (places = new_places(stream)) == NULL)
        return OSHM_FULL_MEMORY;
    for (int pass = 0;; pass++) {
        int status = oshm_record_claim(buffer, key, &position, &state);
        /* Read again, and so judged again: a hostile process may have written meanwhile. */
        if (status == OSHM_OK && (oshm_record_get(buffer, position, &record, &ignored) != OSHM_OK ||
                                  record.type != OSHM_SERIES || record.slots < stream->slots ||
                                  pass == OSHM_CLAIM_PASSES))
            status = OSHM_DAMAGED;
        if (status != OSHM_OK) {
            free(places);
            return status;
        }
        holding = buffer->holding;
        run = oshm_lane_run(buffer, record.first_slot, record.slots, record.fold);
        atomic_fetch_add(&run[OSHM_HELD].word, 1); /* seq_cst: before the state is read */
        /* As it was claimed: else it was retired before it was held, and may be another series by now. */
        if (atomic_load(&oshm_record_at(buffer, position)->state) == state)
            break;
        if (buffer->holding == holding)
            atomic_fetch_sub(&run[OSHM_HELD].word, 1);
    }
    *target = (oshm_target){.run = run,
                            .stream = stream,
                            .buffer = buffer,
                            .places = places,
                            .series = position,
                            .operation = stream->operation,
                            .holding = holding};
    if (measured)
        oshm_series_start(target);
    return OSHM_OK;
}

int oshm_series_place_overflow(const struct oshm_stream *stream, int measured, oshm_target *target)
{
    struct oshm_key key = series_key(stream, OVERFLOW_ATTRIBUTES, OVERFLOW_BYTES);
    int status = place(stream, &key, measured, target);
    if (status == OSHM_OK)
        target->refused = &stream->buffer->header->overflowed;
    return status;
}

int oshm_series_claim(const struct oshm_stream *stream, const uint8_t *attributes,
                      uint64_t attribute_bytes, int measured, oshm_target *target)
{
    struct oshm_buffer *buffer = stream->buffer;
    oshm_notice_fork(buffer);
    *target = (oshm_target){.run = stream->nowhere,
                            .stream = stream,
                            .buffer = buffer,
                            .refused = &buffer->header->dropped,
                            .operation = OSHM_ADD};
    if (stream->record == 0)
        return OSHM_FULL_RECORDS;
    oshm_stream_state *state = oshm_stream_state_of(buffer, stream->record);
    if (state == NULL)
        return OSHM_DAMAGED;

    struct oshm_key key = series_key(stream, attributes, attribute_bytes);
    key.counts[0] = &buffer->header->series_count;
    key.most[0] = buffer->series;
    key.counts[1] = &state->series;
    key.most[1] = atomic_load_explicit(&state->limit, memory_order_relaxed);
    key.reusable = &state->reusable;
    key.start_time_unix_nano = measured ? oshm_now_unix_nano() : 0;
    int status = place(stream, &key, measured, target);
    if (status == OSHM_OK)
        return OSHM_OK;
    if (status == OSHM_FULL_SERIES &&
        atomic_load_explicit(&state->series, memory_order_relaxed) >= key.most[1])
        status = OSHM_FULL_STREAM;
    oshm_series_place_overflow(stream, measured, target);
    return status;
}

void oshm_target_release(oshm_target *target)
{
    free(target->places); /* nothing of the stream is touched: it may be gone */
    /* What was held in another lane is not given back in this one: see hold_inherited. */
    if (target->series != 0 && target->holding == target->buffer->holding)
        /* seq_cst, as above: what was added with it comes before */
        atomic_fetch_sub(&target->run[OSHM_HELD].word, 1);
    target->series = 0;
}
