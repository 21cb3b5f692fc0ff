/* SPDX-License-Identifier: Apache-2.0
 *
 * Reading: finds the series that were published and folds their lanes into rows.
 *
 * The index is the truth, so a scan goes over its allocated pages and takes up every cell it has not
 * seen. Rows come in the order in which scans found their series, and those of one scan in the order of
 * their records, which is the order they were claimed in.
 */
#include <stdlib.h>
#include <string.h>

#include "pages.h"
#include "records.h"
#include "scan.h"

struct oshm_scanner *oshm_scanner_new(struct oshm_buffer *buffer)
{
    struct oshm_scanner *scanner = calloc(1, sizeof *scanner);
    if (scanner == NULL)
        return NULL;
    scanner->buffer = buffer;
    scanner->seen = calloc(buffer->at.cells, sizeof *scanner->seen);
    scanner->lanes.live = calloc(buffer->lanes, 1);
    scanner->known_at = calloc(buffer->record_bytes / sizeof(oshm_record) + 1, sizeof(uint32_t));
    if (scanner->seen == NULL || scanner->lanes.live == NULL || scanner->known_at == NULL) {
        oshm_scanner_free(scanner);
        return NULL;
    }
    return scanner;
}

void oshm_scanner_free(struct oshm_scanner *scanner)
{
    for (size_t i = 0; i < scanner->stream_count; i++)
        oshm_stream_close(scanner->streams[i].stream);
    free(scanner->streams);
    free(scanner->seen);
    free(scanner->lanes.live);
    free(scanner->known_at);
    free(scanner->known);
    free(scanner->rows);
    free(scanner->each);
    free(scanner->buckets.at);
    free(scanner->scratch.at);
    free(scanner);
}

const oshm_row *oshm_scanner_rows(const struct oshm_scanner *scanner)
{
    return scanner->rows;
}

const uint64_t *oshm_scanner_buckets(const struct oshm_scanner *scanner)
{
    return scanner->buckets.at;
}

uint64_t oshm_scanner_left_out(const struct oshm_scanner *scanner)
{
    return scanner->left_out;
}

static bool grow(struct oshm_scanner *scanner)
{
    size_t capacity = scanner->capacity ? scanner->capacity * 2 : 64;
    struct oshm_known *known = realloc(scanner->known, capacity * sizeof *known);
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
    uint64_t left = ((const struct oshm_known *)a)->position;
    uint64_t right = ((const struct oshm_known *)b)->position;
    return left < right ? -1 : left > right;
}

/* Takes up what a cell of the index that is new says. Returns: false without memory. */
static bool take_up(struct oshm_scanner *scanner, uint64_t at, uint64_t cell)
{
    oshm_record record;
    const uint8_t *key;
    uint64_t position = cell & OSHM_CELL_POSITION;
    if (oshm_record_get(scanner->buffer, position, &record, &key) == OSHM_OK &&
        record.type == OSHM_SERIES) {
        if (oshm_series_state(atomic_load_explicit(&record.state, memory_order_relaxed)) ==
            OSHM_CLAIMED)
            return true; /* its claimer is about to decide: next time */
        if (scanner->known_at[position / sizeof(oshm_record)] == 0) { /* else: see renew */
            if (scanner->count == scanner->capacity && !grow(scanner))
                return false;
            scanner->known[scanner->count++] = oshm_known_series(position, &record);
        }
    }
    scanner->seen[at] = cell;
    return true;
}

/* Takes up the series that were published since the last scan.
 * Returns: whether there was memory for all of them; the others are left for the next scan. */
static bool find_new(struct oshm_scanner *scanner)
{
    struct oshm_buffer *buffer = scanner->buffer;
    uint64_t cells = buffer->at.cells, in_page = buffer->page_bytes / sizeof *buffer->index;
    size_t before = scanner->count;
    bool complete = true;
    for (uint64_t page = 0; complete && page < cells; page += in_page) {
        if (!oshm_pages_ready(buffer, buffer->at.index + page * sizeof *buffer->index, 1))
            continue; /* nothing was ever published in it */
        for (uint64_t i = page; complete && i < page + in_page && i < cells; i++) {
            /* acquire: pairs with the publishing CAS, so the record is complete */
            uint64_t cell = atomic_load_explicit(&buffer->index[i], memory_order_acquire);
            if (cell != 0 && cell != scanner->seen[i])
                complete = take_up(scanner, i, cell);
        }
    }
    if (scanner->count > before)
        qsort(scanner->known + before, scanner->count - before, sizeof *scanner->known,
              by_position);
    for (size_t i = before; i < scanner->count; i++)
        scanner->known_at[scanner->known[i].position / sizeof(oshm_record)] = (uint32_t)i + 1;
    return complete;
}

/* Takes up what became of a known record that was written anew. Its cell may be the very same again, so the
 * generation tells. */
static void renew(const struct oshm_scanner *scanner, struct oshm_known *known)
{
    uint64_t state = atomic_load(&oshm_record_at(scanner->buffer, known->position)->state);
    oshm_record record;
    const uint8_t *key;
    if (oshm_generation(state) == known->generation ||
        (oshm_series_state(state) != OSHM_LIVE && oshm_series_state(state) != OSHM_RETIRING) ||
        oshm_record_get(scanner->buffer, known->position, &record, &key) != OSHM_OK ||
        record.type != OSHM_SERIES || !oshm_record_unchanged(scanner->buffer, known->position, &record))
        return;
    *known = oshm_known_series(known->position, &record);
}

const struct oshm_stream *oshm_scanner_stream(struct oshm_scanner *scanner, uint64_t record)
{
    /* Series come by stream more often than not: the last one first. */
    if (scanner->last_stream < scanner->stream_count &&
        scanner->streams[scanner->last_stream].record == record)
        return scanner->streams[scanner->last_stream].stream;
    for (size_t i = 0; i < scanner->stream_count; i++)
        if (scanner->streams[i].record == record) {
            scanner->last_stream = i;
            return scanner->streams[i].stream;
        }
    if (scanner->stream_count == scanner->stream_capacity) {
        size_t capacity = scanner->stream_capacity ? scanner->stream_capacity * 2 : 16;
        struct oshm_opened *streams = realloc(scanner->streams, capacity * sizeof *streams);
        if (streams == NULL)
            return NULL;
        scanner->streams = streams;
        scanner->stream_capacity = capacity;
    }
    struct oshm_opened *opened = &scanner->streams[scanner->stream_count];
    if (oshm_stream_open(scanner->buffer, record, &opened->stream) != OSHM_OK)
        return NULL;
    opened->record = record;
    scanner->stream_count++;
    return opened->stream;
}

/* True for a series whose run is long enough for what its stream says. */
static bool fits(const struct oshm_known *series, const struct oshm_stream *stream)
{
    return stream && stream->aggregation == series->aggregation && stream->slots == series->slots;
}

/* A row for every lane that has a value of a series. Returns: false without memory. */
static bool fold_each(struct oshm_scanner *scanner, struct oshm_folding *folding,
                      const struct oshm_known *series)
{
    for (uint64_t lane = scanner->lanes.first; lane < scanner->lanes.count; lane++) {
        if (scanner->each_count == scanner->each_capacity) {
            size_t capacity = scanner->each_capacity ? scanner->each_capacity * 2 : 64;
            oshm_row *each = realloc(scanner->each, capacity * sizeof *each);
            if (each == NULL)
                return false;
            scanner->each = each;
            scanner->each_capacity = capacity;
        }
        scanner->each_count +=
            oshm_fold_lane(folding, series, lane, &scanner->each[scanner->each_count]);
    }
    return true;
}

uint64_t oshm_scanner_each(const struct oshm_scanner *scanner, oshm_row **rows)
{
    *rows = scanner->each;
    return scanner->each_count;
}

/* Folds the lanes there are into rows: of every series, or of those that have a value.
 * Returns: how many, or OSHM_ERROR_SYSTEM. */
static int64_t fold_all(struct oshm_scanner *scanner, uint64_t collection, int reader,
                        uint64_t delta_kinds, bool idle_too)
{
    size_t count = 0;
    scanner->buckets.used = 0;
    scanner->each_count = 0;
    struct oshm_folding folding = {.buffer = scanner->buffer,
                                   .lanes = scanner->lanes,
                                   .collection = collection,
                                   .reader = reader,
                                   .buckets = &scanner->buckets,
                                   .scratch = &scanner->scratch};
    if (reader >= 0)
        oshm_baseline_begin(scanner->buffer, reader, &folding.baseline);
    for (size_t i = 0; i < scanner->count; i++) {
        struct oshm_known *series = &scanner->known[i];
        oshm_row *row = &scanner->rows[count];
        const struct oshm_stream *stream = NULL;
        bool readable = true;
        renew(scanner, series);
        *row = oshm_new_row(series);
        if (series->aggregation == OSHM_AGGREGATION_EXPLICIT ||
            series->aggregation == OSHM_AGGREGATION_EXPONENTIAL) {
            stream = oshm_scanner_stream(scanner, series->stream);
            readable = fits(series, stream);
        }
        folding.reader = delta_kinds >> series->kind & 1 ? reader : -1;
        if (readable && !oshm_fold(&folding, series, stream, row))
            return OSHM_ERROR_SYSTEM;
        if (series->fold == OSHM_EACH && !fold_each(scanner, &folding, series))
            return OSHM_ERROR_SYSTEM;
        series->idle = !row->has_value;
        count += row->has_value || idle_too;
    }
    scanner->left_out = folding.left_out;
    return (int64_t)count;
}

int64_t oshm_scanner_scan(struct oshm_scanner *scanner, uint64_t collection, int reader,
                          uint64_t delta_kinds, int idle_too)
{
    if (!find_new(scanner))
        return OSHM_ERROR_SYSTEM;
    oshm_lanes_find(scanner->buffer, &scanner->lanes);
    return fold_all(scanner, collection, reader, delta_kinds, idle_too);
}

int oshm_scanner_scan_lane(struct oshm_scanner *scanner, uint64_t lane, uint64_t collection)
{
    if (lane >= scanner->buffer->lanes)
        return OSHM_DAMAGED;
    scanner->lanes.first = lane;
    scanner->lanes.count = lane + 1;
    scanner->lanes.live[lane] = true; /* what a dead process left is looked at too */
    return fold_all(scanner, collection, -1, 0, true) < 0 ? OSHM_ERROR_SYSTEM : OSHM_OK;
}

int oshm_series_read(struct oshm_buffer *buffer, uint64_t series, uint64_t collection,
                     oshm_row *row)
{
    oshm_record record;
    const uint8_t *key;
    unsigned char live[4096];
    if (oshm_record_get(buffer, series, &record, &key) != OSHM_OK || record.type != OSHM_SERIES)
        return OSHM_DAMAGED;
    struct oshm_known known = oshm_known_series(series, &record);
    *row = oshm_new_row(&known);
    if (known.aggregation != OSHM_AGGREGATION_SUM && known.aggregation != OSHM_AGGREGATION_LAST)
        return OSHM_OK; /* a histogram is no one number */
    struct oshm_folding folding = {
        .buffer = buffer, .lanes = {.live = live}, .collection = collection, .reader = -1};
    oshm_lanes_find(buffer, &folding.lanes);
    oshm_fold(&folding, &known, NULL, row);
    return OSHM_OK;
}
