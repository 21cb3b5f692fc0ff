/* SPDX-License-Identifier: Apache-2.0
 *
 * The functions of the core that Python calls: set-up, claim, scan. cffi reads this very file, so it
 * holds prototypes only. Functions that return int return 0 or a negative enum oshm_status; after
 * OSHM_ERROR_SYSTEM errno is set.
 */
#pragma once

/* One process's mapping of a buffer. Opaque; freed by oshm_buffer_close. */
struct oshm_buffer;

/* What part a process has in a buffer. The greater may do less. */
enum oshm_part {
    OSHM_MEASURES = 0, /* it has a lane, and may collect */
    OSHM_COLLECTS = 1, /* it has no lane: it collects from outside the service */
    OSHM_READS = 2     /* it looks only: the mapping cannot be written, nor a lock be taken */
};

/* Makes a buffer: an anonymous one where path is NULL, else a new file at path, which appears there
 * complete or not at all. A calling process that measures takes a lane. Not for one that only reads. */
int oshm_buffer_create(const char *path, uint64_t series, uint64_t lanes, uint64_t record_bytes,
                       enum oshm_part part, struct oshm_buffer **out);

/* How large a buffer of these sizes is. *length: of its file, which is sparse; *at_first: what of it is
 * allocated when it is made. Returns OSHM_OK or OSHM_ERROR_SIZES. */
int oshm_buffer_extent(uint64_t series, uint64_t lanes, uint64_t record_bytes, uint64_t *length,
                       uint64_t *at_first);

/* Maps the buffer at path; a process that measures takes a lane of it. reset: a file that no process uses
 * is removed instead. OSHM_ERROR_REPLACED: it was, or is just now, so once more, please. */
int oshm_buffer_attach(const char *path, int reset, enum oshm_part part, struct oshm_buffer **out);

/* Removes the buffer's file from its path if no other process measures in it or collects, and nobody
 * attaches meanwhile.
 * Returns: 1 if it is removed, 0 if it is used, OSHM_ERROR_REPLACED if the path does not name it any more,
 * OSHM_ERROR_SYSTEM. Not for a process that only reads. */
int oshm_buffer_remove(struct oshm_buffer *buffer, const char *path);

/* Unmaps it and gives up the lane and every lock. No slot address of it may be used any more. */
void oshm_buffer_close(struct oshm_buffer *buffer);

/* In a forked child: takes a lane of its own and moves the window onto it. Any number of calls; only
 * the first one after a fork does something. Returns: the lane this process adds to. */
uint64_t oshm_buffer_after_fork(struct oshm_buffer *buffer);

/* The mapped header, for reading. */
const oshm_header *oshm_buffer_header(const struct oshm_buffer *buffer);

/* The number of the lane that this process adds to. 0: the lane shared by all. */
uint64_t oshm_buffer_lane(const struct oshm_buffer *buffer);

/* Which file it is: its device and inode. */
void oshm_buffer_identity(const struct oshm_buffer *buffer, uint64_t device_and_inode[2]);

/* 1 if the program closed the buffer's descriptor and it cannot be opened again: measuring goes on,
 * but this process can neither collect nor own a lane. */
int oshm_buffer_lost(struct oshm_buffer *buffer);

/* Bytes of the file that are allocated, by its page map. */
uint64_t oshm_buffer_allocated(const struct oshm_buffer *buffer);

/* Notes for which kinds of instruments (bit n: kind n) a reader needs every series for ever. */
void oshm_kinds_keep(struct oshm_buffer *buffer, uint64_t kinds);

/* Finds or creates the resource of the service: the first process's stands. */
int oshm_resource_claim(struct oshm_buffer *buffer, const uint8_t *key, uint64_t key_bytes,
                        uint64_t *record);

/* Finds or creates a scope. */
int oshm_scope_claim(struct oshm_buffer *buffer, const uint8_t *key, uint64_t key_bytes,
                     uint64_t *record);

/* Finds or creates an instrument. The first process's fold rule and advised boundaries stand. */
int oshm_instrument_claim(struct oshm_buffer *buffer, uint64_t scope, uint8_t kind, uint8_t fold,
                          const uint8_t *key, uint64_t key_bytes, const double *boundaries,
                          uint32_t boundary_count, uint64_t *record);

/* The boundaries an instrument advises. Returns: how many there are; at most capacity are written. */
int64_t oshm_instrument_boundaries(const struct oshm_buffer *buffer, uint64_t instrument,
                                   double *boundaries, uint32_t capacity);

/* Finds or creates a stream of an instrument and its overflow series. key: an oshm_stream_key and what
 * follows it. limit: most series; the largest that any process asks for stands. */
int oshm_stream_claim(struct oshm_buffer *buffer, uint64_t instrument, uint8_t aggregation,
                      uint8_t fold, const uint8_t *key, uint64_t key_bytes, uint64_t limit,
                      uint64_t *record);

/* What one process keeps of a stream. Opaque. */
struct oshm_stream;

/* Prepares to measure in a stream. Record 0 is a stream that had no room: all it gets is counted as
 * dropped. The buffer must outlive it. */
int oshm_stream_open(struct oshm_buffer *buffer, uint64_t record, struct oshm_stream **out);
void oshm_stream_close(struct oshm_stream *stream);

/* Where the blocks of an exponential series are. Opaque. */
struct oshm_places;

/* Where a series' measurements go. refused is NULL, or the counter to raise with each of them
 * because the run is not the series' own: the overflow series, or nothing at all. */
typedef struct oshm_target {
    oshm_slot *run;
    const struct oshm_stream *stream;
    struct oshm_buffer *buffer; /* of the stream */
    oshm_atomic_u64 *refused;
    struct oshm_places *places; /* exponential, else NULL; owned */
    uint64_t series;            /* position of the record; 0 = nothing at all */
    uint32_t operation;         /* enum oshm_operation */
    uint32_t holding;           /* the buffer's, when the series was held */
} oshm_target;

/* Finds or creates the series of an attribute set and where to add; falls back to the stream's
 * overflow series and, where there is no such (record 0), to a place that nobody reads. target is always
 * usable, and to be released once. With measured, the series is started; else by oshm_series_start.
 * Returns: OSHM_OK, or why the series has no run of its own. */
int oshm_series_claim(const struct oshm_stream *stream, const uint8_t *attributes,
                      uint64_t attribute_bytes, int measured, oshm_target *target);

/* Gives a target back: nothing may be measured with it any more. */
void oshm_target_release(oshm_target *target);

/* What tells a series from the others that have or had its record: its position and, << 40, the record's
 * generation; 0 if there is no such record. */
uint64_t oshm_series_identity(const struct oshm_buffer *buffer, uint64_t position);

/* Notes the first measurement of a claimed series: writes its start time unless it has one. */
void oshm_series_start(const oshm_target *target);

/* What one process remembers of its share in an observed sum; zeroed at first. */
typedef struct oshm_share {
    uint64_t pid;              /* whose it is: a forked child has its parent's at first */
    uint64_t lane, generation; /* where it was published last; lane 0: in one that is shared */
    int64_t base_whole;        /* what else is in the lane, less what this process left in another */
    double base_real;
    int64_t whole; /* what this process observed last */
    double real;
} oshm_share;

/* Publishes what a process observed of a sum, in a collection: an integer, or a double where real is
 * not 0 or is_float. One thread at a time. */
void oshm_observe_sum(const oshm_target *target, oshm_share *share, uint64_t collection,
                      int64_t whole, double real, int is_float);

/* Publishes what a process observed of a last value. */
void oshm_observe_last(const oshm_target *target, uint64_t collection, int64_t whole, double real,
                       int is_float);

/* Copies out the fixed part of a record and points at its key bytes, all checked against the file.
 * Returns: OSHM_OK or OSHM_DAMAGED. */
int oshm_record_get(const struct oshm_buffer *buffer, uint64_t position, oshm_record *fixed,
                    const uint8_t **key);

/* Tries to become, or makes sure to still be, the process that collects. Never blocks. leaving: what
 * it collects from now on is its last export (said before its scan).
 * Returns: 1 if this process holds the collector lock now, else 0. */
int oshm_collector_acquire(struct oshm_buffer *buffer, int leaving);

/* 1 if the process that holds the collector lock will still export what was added up to now. */
int oshm_collector_stays(const struct oshm_buffer *buffer);

/* Gives the collector lock up. exported: all readers of this process collected, to the end, since it began
 * to leave. */
void oshm_collector_release(struct oshm_buffer *buffer, int exported);

/* Begins a collection. Returns: its number, which observables are stamped with. */
uint64_t oshm_collection_begin(struct oshm_buffer *buffer);

/* The number of the last collection begun: a later one has all that this process added before. */
uint64_t oshm_collection_last(const struct oshm_buffer *buffer);

/* 1 if all that a process exported while it left was collected after the given collection. */
int oshm_collector_exported_since(const struct oshm_buffer *buffer, uint64_t collection);

/* Says that this process answers to each collection from now on, or does no more. */
void oshm_answers_announce(struct oshm_buffer *buffer, int answers);

/* Sleeps until another collection than this one is the last begun, at most so many milliseconds.
 * Returns: the number of the last one begun. */
uint64_t oshm_collection_wait(const struct oshm_buffer *buffer, uint64_t collection,
                              uint32_t milliseconds);

/* Wakes all who sleep in oshm_collection_wait. */
void oshm_collection_wake(const struct oshm_buffer *buffer);

/* Leaves a message for a collection in this process's mailbox, and notes that it has answered to it.
 * Returns: OSHM_OK, or OSHM_FULL_MEMORY where there is no room for the message: then only the answer
 * is noted. */
int oshm_answer(struct oshm_buffer *buffer, uint64_t collection, const uint8_t *message,
                uint64_t bytes);

/* Sleeps until all living processes that answer to collections have answered to this one, at most so
 * many milliseconds; one that was late for the last collection that was waited for, and has not answered
 * since, is not waited for. late: a number a lane, 0 at first, for the next call.
 * Returns: the number of those that have not answered. */
int oshm_answers_wait(struct oshm_buffer *buffer, uint64_t collection, uint32_t milliseconds,
                      uint64_t *late);

/* Takes what a lane's owner left in its mailbox. Returns: its length, 0 where there is nothing; at most
 * OSHM_MAILBOX_BYTES. */
uint64_t oshm_mailbox_take(const struct oshm_buffer *buffer, uint64_t lane, uint8_t *message);

/* The series that one process has seen so far, in the order of their records. */
struct oshm_scanner;

/* Returns: NULL where there is no memory. */
struct oshm_scanner *oshm_scanner_new(struct oshm_buffer *buffer);
void oshm_scanner_free(struct oshm_scanner *scanner);

/* Looks for new series, then folds the lanes of every series into a row. Not for two threads at once.
 * reader: number of a delta reader, whose new baselines become valid with oshm_reader_commit; or -1 for
 * the totals. delta_kinds: bit n: the reader wants deltas of kind n, and totals of the others.
 * idle_too: rows of series that have nothing to report too.
 * Returns: the number of rows, or a negative enum oshm_status. */
int64_t oshm_scanner_scan(struct oshm_scanner *scanner, uint64_t collection, int reader,
                          uint64_t delta_kinds, int idle_too);

/* The rows of the last scan; valid until the next. */
const oshm_row *oshm_scanner_rows(const struct oshm_scanner *scanner);

/* The rows of single lanes of the last scan, for series whose fold rule is "each"; valid until the next.
 * Returns: how many. */
uint64_t oshm_scanner_each(const struct oshm_scanner *scanner, oshm_row **rows);

/* The buckets of the last scan, to which the rows refer; valid until the next. */
const uint64_t *oshm_scanner_buckets(const struct oshm_scanner *scanner);

/* Series of the last scan that were left out for want of memory for their baselines. */
uint64_t oshm_scanner_left_out(const struct oshm_scanner *scanner);

/* Finds or creates the entry of a delta reader.
 * Returns: its number, or a negative enum oshm_status: OSHM_FULL_READERS if there are too many. */
int oshm_reader_claim(struct oshm_buffer *buffer, const uint8_t *key, uint64_t key_bytes);

/* The end of a delta reader's last interval; 0 = it has had none. */
uint64_t oshm_reader_time(const struct oshm_buffer *buffer, int reader);

/* What the last scan for a delta reader gave out counts as sent. By the holder of the collector lock. */
void oshm_reader_commit(struct oshm_buffer *buffer, int reader, uint64_t collection,
                        uint64_t time_unix_nano);

/* Retires series that no reader needs any more, in streams that get full, and lets the slots of those
 * retired before be used again. By the holder of the collector lock, after oshm_reader_commit.
 * Returns: how many can be used again. */
int64_t oshm_scanner_retire(struct oshm_scanner *scanner, uint64_t collection, uint64_t now);

/* True if the series of a target is to be let go: asked when oshm_sweep_number has changed. */
int oshm_target_retires(const oshm_target *target);
uint64_t oshm_sweep_number(const struct oshm_buffer *buffer);

/* The rows of the last scan once more, with what one lane has of each series, dead or alive. */
int oshm_scanner_scan_lane(struct oshm_scanner *scanner, uint64_t lane, uint64_t collection);

/* Folds one series. Returns: OSHM_OK or OSHM_DAMAGED. */
int oshm_series_read(struct oshm_buffer *buffer, uint64_t series, uint64_t collection,
                     oshm_row *row);

/* Goes over the published records. cell: 0 at first, moved on with each call.
 * Returns: the position of the next record in the index, which may be damaged; 0 at the end. */
uint64_t oshm_index_next(const struct oshm_buffer *buffer, uint64_t *cell);

/* Copies out what is written down of a lane, or of a delta reader.
 * Returns: OSHM_OK, or OSHM_DAMAGED where there is no such number. */
int oshm_lane_entry(const struct oshm_buffer *buffer, uint64_t lane, oshm_lane *entry);
int oshm_reader_entry(const struct oshm_buffer *buffer, int reader, oshm_reader *entry);

/* Copies out what lies behind the key of a stream. Returns: OSHM_OK or OSHM_DAMAGED. */
int oshm_stream_entry(const struct oshm_buffer *buffer, uint64_t stream, oshm_stream_state *entry);

/* Another process that holds a lock of some bytes of the file (see OSHM_LOCK_COLLECTOR).
 * Returns: its pid; 0 if there is none; -1 if it is in a pid namespace that cannot be seen from here. */
int64_t oshm_lock_owner(struct oshm_buffer *buffer, uint64_t first, uint64_t bytes);

/* The same of any byte of an open file, which may be a buffer of another version. */
int64_t oshm_file_owner(int file);
