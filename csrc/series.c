/* SPDX-License-Identifier: Apache-2.0
 *
 * What the records are for: the resource, scopes, instruments, and a series' place to add.
 */
#define _GNU_SOURCE
#include "clock.h"
#include "lanes.h"
#include "records.h"

/* The attributes of an overflow series, {"otel.metric.overflow": true}, as an OTLP KeyValueList:
 * field 1 (26 bytes) { field 1, key (20 bytes); field 2, value (2 bytes) { field 2, bool: true } }. */
static const uint8_t OVERFLOW_ATTRIBUTES[] = "\x0a\x1a\x0a\x14" "otel.metric.overflow" "\x12\x02\x10\x01";
#define OVERFLOW_BYTES (sizeof OVERFLOW_ATTRIBUTES - 1)

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
    return oshm_record_claim(buffer, &wanted, record);
}

/* The key of a series of an instrument, as its record has it. */
static struct oshm_key series_key(uint64_t instrument, const oshm_record *record,
                                  const uint8_t *attributes, uint64_t bytes)
{
    return (struct oshm_key){.type = OSHM_SERIES,
                             .kind = record->kind,
                             .parent = instrument,
                             .bytes = attributes,
                             .length = bytes,
                             .fold = record->fold,
                             .slots = oshm_run_slots(record->fold)};
}

int oshm_instrument_claim(struct oshm_buffer *buffer, uint64_t scope, uint8_t kind, uint8_t fold,
                          const uint8_t *key, uint64_t key_bytes, uint64_t *record)
{
    struct oshm_key wanted = {.type = OSHM_INSTRUMENT,
                              .kind = kind,
                              .parent = scope,
                              .bytes = key,
                              .length = key_bytes,
                              .fold = fold};
    int status = oshm_record_claim(buffer, &wanted, record);
    if (status != OSHM_OK)
        return status;
    oshm_record instrument;
    const uint8_t *ignored;
    if (oshm_record_get(buffer, *record, &instrument, &ignored) != OSHM_OK)
        return OSHM_DAMAGED;
    /* Made now, so that there is a place to overflow to when there is no room for anything more. */
    struct oshm_key overflow =
        series_key(*record, &instrument, OVERFLOW_ATTRIBUTES, OVERFLOW_BYTES);
    uint64_t position;
    return oshm_record_claim(buffer, &overflow, &position);
}

void oshm_series_start(struct oshm_buffer *buffer, const oshm_target *target)
{
    if (target->series == 0)
        return;
    oshm_atomic_u64 *start = &oshm_record_at(buffer, target->series)->start_time_unix_nano;
    uint64_t none = 0;
    if (atomic_load_explicit(start, memory_order_relaxed) == 0)
        /* release: pairs with the acquire of a scan; the first measurer's time stands */
        atomic_compare_exchange_strong_explicit(start, &none, oshm_now_unix_nano(),
                                                memory_order_release, memory_order_relaxed);
}

/* Claims the series of a key and resolves its address. */
static int place(struct oshm_buffer *buffer, struct oshm_key *key, int measured,
                 oshm_target *target)
{
    uint64_t position;
    oshm_record record;
    const uint8_t *ignored;
    int status = oshm_record_claim(buffer, key, &position);
    if (status != OSHM_OK)
        return status;
    /* Read again, and so judged again: a hostile process may have written meanwhile. */
    if (oshm_record_get(buffer, position, &record, &ignored) != OSHM_OK ||
        record.slots < key->slots)
        return OSHM_DAMAGED;
    target->run = oshm_lane_run(buffer, record.first_slot, record.slots, record.fold);
    target->series = position;
    target->refused = NULL;
    if (measured)
        oshm_series_start(buffer, target);
    return OSHM_OK;
}

int oshm_series_claim(struct oshm_buffer *buffer, uint64_t instrument, const uint8_t *attributes,
                      uint64_t attribute_bytes, int measured, oshm_target *target)
{
    oshm_notice_fork(buffer);
    *target = (oshm_target){.run = buffer->nowhere, .refused = &buffer->header->dropped};
    if (instrument == 0)
        return OSHM_FULL_RECORDS;
    oshm_record record;
    const uint8_t *ignored;
    if (oshm_record_get(buffer, instrument, &record, &ignored) != OSHM_OK ||
        record.type != OSHM_INSTRUMENT)
        return OSHM_DAMAGED;

    struct oshm_key key = series_key(instrument, &record, attributes, attribute_bytes);
    key.limited = true;
    key.start_time_unix_nano = measured ? oshm_now_unix_nano() : 0;
    int status = place(buffer, &key, measured, target);
    if (status == OSHM_OK)
        return OSHM_OK;

    struct oshm_key overflow = series_key(instrument, &record, OVERFLOW_ATTRIBUTES, OVERFLOW_BYTES);
    if (place(buffer, &overflow, measured, target) == OSHM_OK)
        target->refused = &buffer->header->overflowed;
    return status;
}
