/* SPDX-License-Identifier: Apache-2.0
 *
 * Reading: finds the series that were published and folds their lanes into rows.
 *
 * The index is the truth, so a scan goes over its allocated pages and takes up every cell it has not
 * seen. A series keeps its row for the life of the scanner, so the caller can keep what it worked out
 * about row n. New rows come in the order of their records, which is the order they were claimed in.
 */
#include <stdlib.h>
#include <string.h>

#include "lanes.h"
#include "pages.h"
#include "records.h"

/* What is needed to fold a series again, checked once. */
struct known {
    uint64_t position, instrument, first_slot;
    uint8_t kind, fold, slots;
};

struct oshm_scanner {
    struct oshm_buffer *buffer;
    uint64_t *seen; /* the index cells that were taken up, 0 where none */
    unsigned char *live;
    struct known *known;
    oshm_row *rows;
    size_t count, capacity;
};

struct oshm_scanner *oshm_scanner_new(struct oshm_buffer *buffer)
{
    struct oshm_scanner *scanner = calloc(1, sizeof *scanner);
    if (scanner == NULL)
        return NULL;
    scanner->buffer = buffer;
    scanner->seen = calloc(buffer->at.cells, sizeof *scanner->seen);
    scanner->live = calloc(buffer->lanes, 1);
    if (scanner->seen == NULL || scanner->live == NULL) {
        oshm_scanner_free(scanner);
        return NULL;
    }
    return scanner;
}

void oshm_scanner_free(struct oshm_scanner *scanner)
{
    free(scanner->seen);
    free(scanner->live);
    free(scanner->known);
    free(scanner->rows);
    free(scanner);
}

const oshm_row *oshm_scanner_rows(const struct oshm_scanner *scanner)
{
    return scanner->rows;
}

static struct known known_series(uint64_t position, const oshm_record *record)
{
    return (struct known){.position = position,
                          .instrument = record->parent,
                          .first_slot = record->first_slot,
                          .kind = record->kind,
                          .fold = record->fold,
                          .slots = record->slots};
}

static oshm_row new_row(const struct known *series)
{
    return (oshm_row){
        .series = series->position, .instrument = series->instrument, .kind = series->kind};
}

static bool grow(struct oshm_scanner *scanner)
{
    size_t capacity = scanner->capacity ? scanner->capacity * 2 : 64;
    struct known *known = realloc(scanner->known, capacity * sizeof *known);
    if (known == NULL)
        return false;
    scanner->known = known;
    oshm_row *rows = realloc(scanner->rows, capacity * sizeof *rows);
    if (rows == NULL)
        return false;
    scanner->rows = rows;
    scanner->capacity = capacity;
    return true;
}

static int by_position(const void *a, const void *b)
{
    uint64_t left = ((const struct known *)a)->position, right = ((const struct known *)b)->position;
    return left < right ? -1 : left > right;
}

/* Takes up the series that were published since the last scan.
 * Returns: whether there was memory for all of them; the others are left for the next scan. */
static bool find_new(struct oshm_scanner *scanner)
{
    struct oshm_buffer *buffer = scanner->buffer;
    size_t before = scanner->count;
    bool complete = true;
    for (uint64_t i = 0; i < buffer->at.cells; i++) {
        if (i % (buffer->page_bytes / 8) == 0 &&
            !oshm_pages_ready(buffer, buffer->at.index + i * 8, 8)) {
            i += buffer->page_bytes / 8 - 1; /* nothing was ever published in this page */
            continue;
        }
        /* acquire: pairs with the publishing CAS, so the record is complete */
        uint64_t cell = atomic_load_explicit(&buffer->index[i], memory_order_acquire);
        if (cell == 0 || scanner->seen[i] != 0)
            continue; /* a cell is written once: if it changes again, that is no news to us */
        oshm_record record;
        const uint8_t *key;
        uint64_t position = cell & OSHM_CELL_POSITION;
        if (oshm_record_get(buffer, position, &record, &key) == OSHM_OK &&
            record.type == OSHM_SERIES) {
            complete = scanner->count < scanner->capacity || grow(scanner);
            if (!complete)
                break;
            scanner->known[scanner->count++] = known_series(position, &record);
        }
        scanner->seen[i] = cell;
    }
    if (scanner->count > before)
        qsort(scanner->known + before, scanner->count - before, sizeof *scanner->known,
              by_position);
    for (size_t i = before; i < scanner->count; i++)
        scanner->rows[i] = new_row(&scanner->known[i]);
    return complete;
}

/* Marks the lanes whose owners are alive. Returns: the number of lanes that were ever used. */
static uint64_t find_live(struct oshm_buffer *buffer, unsigned char *live)
{
    /* acquire: pairs with publish_lane */
    uint64_t used = atomic_load_explicit(&buffer->header->lanes_used, memory_order_acquire);
    if (used < 1)
        used = 1;
    if (used > buffer->lanes)
        used = buffer->lanes;
    for (uint64_t lane = 0; lane < used; lane++)
        live[lane] = oshm_lane_live(buffer, lane);
    return used;
}

static void read_sum(const struct oshm_buffer *buffer, const struct known *series, uint64_t lanes,
                     const unsigned char *live, oshm_row *row)
{
    __int128 total = 0;
    row->is_float = false;
    row->float_value = 0.0;
    for (uint64_t lane = 0; lane < lanes; lane++) {
        if (series->fold == OSHM_LIVE_SUM && !live[lane])
            continue;
        oshm_slot *run = oshm_lane_slots(buffer, lane, series->first_slot, series->slots);
        if (run == NULL)
            continue;
        total += (int64_t)atomic_load_explicit(&run[OSHM_INT].word, memory_order_relaxed);
        uint64_t word = atomic_load_explicit(&run[OSHM_FLOAT].word, memory_order_relaxed);
        if (word != 0) {
            row->is_float = true;
            row->float_value += oshm_word_float(word);
        }
    }
    if (total > INT64_MAX || total < INT64_MIN)
        row->is_float = true; /* the lanes together are past int64 */
    if (row->is_float)
        row->float_value += (double)total;
    else
        row->int_value = (int64_t)total;
    row->has_value = row->start_time_unix_nano != 0;
}

/* A gauge in one lane. Returns: whether it was ever set there. */
static bool read_gauge(const oshm_slot *run, oshm_row *row)
{
    uint64_t float_word = atomic_load_explicit(&run[OSHM_FLOAT].word, memory_order_relaxed);
    uint64_t int_word = atomic_load_explicit(&run[OSHM_INT].word, memory_order_relaxed);
    row->is_float = float_word != 0;
    if (row->is_float)
        row->float_value = oshm_word_float(float_word);
    else
        row->int_value = (int64_t)(int_word ^ OSHM_SIGN);
    return float_word != 0 || int_word != 0;
}

static void fold(const struct oshm_buffer *buffer, const struct known *series, uint64_t lanes,
                 const unsigned char *live, uint64_t collection, oshm_row *row)
{
    /* acquire: pairs with oshm_series_start */
    row->start_time_unix_nano = atomic_load_explicit(
        &oshm_record_at(buffer, series->position)->start_time_unix_nano, memory_order_acquire);
    row->has_value = false;
    if (series->kind != OSHM_GAUGE && series->kind != OSHM_OBSERVABLE_GAUGE) {
        read_sum(buffer, series, lanes, live, row);
        return;
    }
    for (uint64_t lane = 0; lane < (series->fold == OSHM_LAST ? 1 : lanes); lane++) {
        const oshm_slot *run = oshm_lane_slots(buffer, lane, series->first_slot, series->slots);
        if (run == NULL || !live[lane])
            continue;
        /* acquire: pairs with oshm_observed, so the value read next is that observation's */
        if (series->fold == OSHM_ONE &&
            atomic_load_explicit(&run[OSHM_OBSERVED].word, memory_order_acquire) != collection)
            continue;
        row->has_value = read_gauge(run, row) && row->start_time_unix_nano != 0;
        if (row->has_value)
            return;
    }
}

int64_t oshm_scanner_scan(struct oshm_scanner *scanner, uint64_t collection)
{
    struct oshm_buffer *buffer = scanner->buffer;
    if (!find_new(scanner))
        return OSHM_ERROR_SYSTEM;
    uint64_t lanes = find_live(buffer, scanner->live);
    for (size_t i = 0; i < scanner->count; i++)
        fold(buffer, &scanner->known[i], lanes, scanner->live, collection, &scanner->rows[i]);
    return (int64_t)scanner->count;
}

int oshm_series_read(struct oshm_buffer *buffer, uint64_t series, uint64_t collection,
                     oshm_row *row)
{
    oshm_record record;
    const uint8_t *key;
    unsigned char live[4096];
    if (oshm_record_get(buffer, series, &record, &key) != OSHM_OK || record.type != OSHM_SERIES)
        return OSHM_DAMAGED;
    struct known known = known_series(series, &record);
    *row = new_row(&known);
    fold(buffer, &known, find_live(buffer, live), live, collection, row);
    return OSHM_OK;
}
