/* SPDX-License-Identifier: Apache-2.0
 *
 * The records above the series: the resource, scopes, instruments and their streams.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "records.h"
#include "series.h"
#include "stream.h"

int oshm_resource_claim(struct oshm_buffer *buffer, const uint8_t *key, uint64_t key_bytes,
                        uint64_t *record)
{
    oshm_atomic_u64 *pointer = &buffer->header->resource;
    /* acquire: pairs with the CAS below, so the record is complete */
    uint64_t first = atomic_load_explicit(pointer, memory_order_acquire), mine;
    if (first == 0) {
        struct oshm_key wanted = {.type = OSHM_RESOURCE, .bytes = key, .length = key_bytes};
        int status = oshm_record_append(buffer, &wanted, &mine);
        if (status != OSHM_OK)
            return status;
        if (atomic_compare_exchange_strong_explicit(pointer, &first, mine, memory_order_release,
                                                    memory_order_acquire))
            first = mine;
    }
    *record = first;
    return OSHM_OK;
}

int oshm_scope_claim(struct oshm_buffer *buffer, const uint8_t *key, uint64_t key_bytes,
                     uint64_t *record)
{
    struct oshm_key wanted = {.type = OSHM_SCOPE, .bytes = key, .length = key_bytes};
    return oshm_record_claim(buffer, &wanted, record, NULL);
}

int oshm_instrument_claim(struct oshm_buffer *buffer, uint64_t scope, uint8_t kind, uint8_t fold,
                          const uint8_t *key, uint64_t key_bytes, const double *boundaries,
                          uint32_t boundary_count, uint64_t *record)
{
    struct oshm_key wanted = {.type = OSHM_INSTRUMENT,
                              .kind = kind,
                              .fold = fold,
                              .parent = scope,
                              .bytes = key,
                              .length = key_bytes,
                              .behind = boundary_count ? boundaries : NULL,
                              .behind_bytes = boundary_count * sizeof *boundaries};
    return oshm_record_claim(buffer, &wanted, record, NULL);
}

int64_t oshm_instrument_boundaries(const struct oshm_buffer *buffer, uint64_t instrument,
                                   double *boundaries, uint32_t capacity)
{
    oshm_record record;
    const uint8_t *key;
    if (oshm_record_get(buffer, instrument, &record, &key) != OSHM_OK ||
        record.type != OSHM_INSTRUMENT)
        return OSHM_DAMAGED;
    const void *behind = oshm_record_behind(buffer, instrument, &record, 0);
    if (behind == NULL)
        return OSHM_DAMAGED;
    uint64_t count = (record.bytes - oshm_round_up(sizeof record + record.key_bytes, 8)) / 8;
    if (capacity != 0 && count != 0)
        memcpy(boundaries, behind, (count < capacity ? count : capacity) * sizeof *boundaries);
    return (int64_t)count;
}

/* The beginning of a stream's key, copied and judged. Returns: OSHM_OK or OSHM_DAMAGED. */
static int read_key(const uint8_t *key, uint64_t key_bytes, uint8_t aggregation,
                    oshm_stream_key *out)
{
    if (key_bytes < sizeof *out)
        return OSHM_DAMAGED;
    memcpy(out, key, sizeof *out);
    uint64_t rest = key_bytes - sizeof *out;
    if (out->boundaries > rest / sizeof(double) ||
        (out->boundaries != 0 && aggregation != OSHM_AGGREGATION_EXPLICIT))
        return OSHM_DAMAGED;
    if (aggregation == OSHM_AGGREGATION_EXPONENTIAL &&
        (out->max_size < 2 || out->max_scale > OSHM_MAX_SCALE || out->max_scale < OSHM_MIN_SCALE))
        return OSHM_DAMAGED;
    double last = -INFINITY;
    for (uint32_t i = 0; i < out->boundaries; i++) {
        double boundary;
        memcpy(&boundary, key + sizeof *out + i * sizeof boundary, sizeof boundary);
        if (!(boundary > last) || !isfinite(boundary))
            return OSHM_DAMAGED;
        last = boundary;
    }
    return OSHM_OK;
}

int oshm_stream_claim(struct oshm_buffer *buffer, uint64_t instrument, uint8_t aggregation,
                      uint8_t fold, const uint8_t *key, uint64_t key_bytes, uint64_t limit,
                      uint64_t *record)
{
    oshm_record fixed;
    const uint8_t *ignored;
    oshm_stream_key begin;
    if (oshm_record_get(buffer, instrument, &fixed, &ignored) != OSHM_OK ||
        fixed.type != OSHM_INSTRUMENT ||
        read_key(key, key_bytes, aggregation, &begin) != OSHM_OK)
        return OSHM_DAMAGED;
    struct oshm_key wanted = {.type = OSHM_STREAM,
                              .kind = fixed.kind,
                              .aggregation = aggregation,
                              .fold = fold,
                              .slots = 0,
                              .parent = instrument,
                              .bytes = key,
                              .length = key_bytes,
                              .behind_bytes = sizeof(oshm_stream_state)};
    int status = oshm_record_claim(buffer, &wanted, record, NULL);
    if (status != OSHM_OK)
        return status;

    struct oshm_stream *stream;
    status = oshm_stream_open(buffer, *record, &stream);
    if (status != OSHM_OK)
        return status;
    oshm_stream_state *state = oshm_stream_state_of(buffer, *record);
    uint64_t most = state ? atomic_load_explicit(&state->limit, memory_order_relaxed) : limit;
    while (most < limit && !atomic_compare_exchange_weak_explicit(
                               &state->limit, &most, limit, memory_order_relaxed,
                               memory_order_relaxed))
        ;
    /* Made now, so that there is a place to overflow to when there is no room for anything more. */
    status = oshm_series_claim_overflow(stream);
    oshm_stream_close(stream);
    return status;
}

oshm_stream_state *oshm_stream_state_of(const struct oshm_buffer *buffer, uint64_t record)
{
    oshm_record fixed;
    const uint8_t *ignored;
    if (oshm_record_get(buffer, record, &fixed, &ignored) != OSHM_OK || fixed.type != OSHM_STREAM)
        return NULL;
    return oshm_record_behind(buffer, record, &fixed, sizeof(oshm_stream_state));
}

static uint8_t operation_of(uint8_t kind, uint8_t aggregation)
{
    switch (aggregation) {
    case OSHM_AGGREGATION_LAST:
        return OSHM_SET;
    case OSHM_AGGREGATION_EXPLICIT:
        return OSHM_RECORD_EXPLICIT;
    case OSHM_AGGREGATION_EXPONENTIAL:
        return OSHM_RECORD_EXPONENTIAL;
    default:
        return kind == OSHM_COUNTER || kind == OSHM_HISTOGRAM ? OSHM_ADD : OSHM_ADD_STAMPED;
    }
}

int oshm_stream_open(struct oshm_buffer *buffer, uint64_t record, struct oshm_stream **out)
{
    oshm_record fixed = {.kind = OSHM_COUNTER, .aggregation = OSHM_AGGREGATION_SUM,
                         .fold = OSHM_SUM};
    const uint8_t *key = NULL;
    oshm_stream_key begin = {0};
    if (record != 0 && (oshm_record_get(buffer, record, &fixed, &key) != OSHM_OK ||
                        fixed.type != OSHM_STREAM ||
                        read_key(key, fixed.key_bytes, fixed.aggregation, &begin) != OSHM_OK))
        return OSHM_DAMAGED;
    uint32_t slots = oshm_run_slots(fixed.aggregation, begin.boundaries);
    uint32_t padded = (uint32_t)oshm_round_up(begin.boundaries, OSHM_BOUNDARY_UNIT);
    struct oshm_stream *stream = calloc(1, sizeof *stream + padded * sizeof(double));
    oshm_slot *nowhere = calloc(slots, sizeof *nowhere);
    if (stream == NULL || nowhere == NULL) {
        free(stream);
        free(nowhere);
        return OSHM_ERROR_SYSTEM;
    }
    stream->buffer = buffer;
    stream->record = record;
    stream->collection = &buffer->header->collection;
    stream->kind = fixed.kind;
    stream->aggregation = fixed.aggregation;
    stream->fold = fixed.fold;
    stream->operation = operation_of(fixed.kind, fixed.aggregation);
    stream->slots = slots;
    stream->boundaries = begin.boundaries;
    stream->max_scale = begin.max_scale;
    stream->max_size = begin.max_size;
    stream->signs = oshm_signs(fixed.kind);
    stream->nowhere = nowhere;
    if (begin.boundaries) /* judged above; a hostile process may only have made the buckets wrong */
        memcpy(stream->boundary, key + sizeof begin, begin.boundaries * sizeof(double));
    for (uint32_t i = begin.boundaries; i < padded; i++)
        stream->boundary[i] = INFINITY;
    *out = stream;
    return OSHM_OK;
}

void oshm_stream_close(struct oshm_stream *stream)
{
    free(stream->nowhere);
    free(stream);
}

void oshm_kinds_keep(struct oshm_buffer *buffer, uint64_t kinds)
{
    atomic_fetch_or(&buffer->header->kept_kinds, kinds); /* seq_cst: before any claim of a series */
}
