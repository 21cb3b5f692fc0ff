/* SPDX-License-Identifier: Apache-2.0
 *
 * The functions of the core that Python calls: set-up, claim, scan. cffi reads this very file, so it
 * holds prototypes only. Functions that return int return 0 or a negative enum oshm_status; after
 * OSHM_ERROR_SYSTEM errno is set.
 */
#pragma once

/* One process's mapping of a buffer. Opaque; freed by oshm_buffer_close. */
struct oshm_buffer;

/* Makes a buffer: an anonymous one where path is NULL, else a new file at path, which appears there
 * complete or not at all. The calling process takes a lane. */
int oshm_buffer_create(const char *path, uint64_t series, uint64_t lanes, uint64_t record_bytes,
                       struct oshm_buffer **out);

/* Maps the buffer at path and takes a lane of it. */
int oshm_buffer_attach(const char *path, struct oshm_buffer **out);

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

/* Finds or creates the resource of the service: the first process's stands. */
int oshm_resource_claim(struct oshm_buffer *buffer, const uint8_t *key, uint64_t key_bytes,
                        uint64_t *record);

/* Finds or creates a scope. */
int oshm_scope_claim(struct oshm_buffer *buffer, const uint8_t *key, uint64_t key_bytes,
                     uint64_t *record);

/* Finds or creates an instrument and its overflow series. The first process's fold rule stands. */
int oshm_instrument_claim(struct oshm_buffer *buffer, uint64_t scope, uint8_t kind, uint8_t fold,
                          const uint8_t *key, uint64_t key_bytes, uint64_t *record);

/* Where a series' measurements go. refused is NULL, or the counter to raise with each of them
 * because the run is not the series' own: the overflow series, or nothing at all. */
typedef struct oshm_target {
    oshm_slot *run;
    oshm_atomic_u64 *refused;
    uint64_t series; /* position of the record; 0 = nothing at all */
} oshm_target;

/* Finds or creates the series of an attribute set and where to add; falls back to the instrument's
 * overflow series and, where there is no such (instrument 0), to a place that nobody reads. target
 * is always usable. With measured, the series is started; else by oshm_series_start.
 * Returns: OSHM_OK, or why the series has no run of its own. */
int oshm_series_claim(struct oshm_buffer *buffer, uint64_t instrument, const uint8_t *attributes,
                      uint64_t attribute_bytes, int measured, oshm_target *target);

/* Notes the first measurement of a claimed series: writes its start time unless it has one. */
void oshm_series_start(struct oshm_buffer *buffer, const oshm_target *target);

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

/* Gives the collector lock up. */
void oshm_collector_release(struct oshm_buffer *buffer);

/* Begins a collection. Returns: its number, which observables are stamped with. */
uint64_t oshm_collection_begin(struct oshm_buffer *buffer);

/* The number of the last collection begun: a later one has all that this process added before. */
uint64_t oshm_collection_last(const struct oshm_buffer *buffer);

/* 1 if all that a process exported while it left was collected after the given collection. */
int oshm_collector_exported_since(const struct oshm_buffer *buffer, uint64_t collection);

/* The series that one process has seen so far, in the order of their records. */
struct oshm_scanner;

/* Returns: NULL where there is no memory. */
struct oshm_scanner *oshm_scanner_new(struct oshm_buffer *buffer);
void oshm_scanner_free(struct oshm_scanner *scanner);

/* Looks for new series, then folds the lanes of every series into its row. A series keeps its row
 * number for the life of the scanner. Not for two threads at once.
 * Returns: the number of rows, or a negative enum oshm_status. */
int64_t oshm_scanner_scan(struct oshm_scanner *scanner, uint64_t collection);

/* The rows of the last scan; valid until the next. */
const oshm_row *oshm_scanner_rows(const struct oshm_scanner *scanner);

/* Folds one series. Returns: OSHM_OK or OSHM_DAMAGED. */
int oshm_series_read(struct oshm_buffer *buffer, uint64_t series, uint64_t collection,
                     oshm_row *row);
