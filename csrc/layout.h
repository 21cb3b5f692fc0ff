/* SPDX-License-Identifier: Apache-2.0
 *
 * The bytes of an otel_shm buffer: the one definition, included by C and read by cffi as it is.
 *
 * PURPOSE
 *
 * A buffer is a file (a path on tmpfs, or a memfd) that every process of a service maps. It answers
 * two questions without a lock: "which slot does this series add to?" and "what is the total of
 * every series?". A process that is killed at any instruction leaves nothing that anybody has to
 * wait for or repair.
 *
 * REGIONS, in file order, each starting on a page
 *
 *   header       struct oshm_header
 *   reader table struct oshm_reader, one a delta reader
 *   lane table   struct oshm_lane, one a lane
 *   page map     one bit a page of the file: 1 = the file system has given us this page
 *   index        64-bit cells, open addressing: tag << 40 | record position; 0 = free
 *   records      append-only: resource, scopes, instruments, streams, series, readers
 *   mailboxes    struct oshm_mailbox, one a lane
 *   lane 0       64-bit slots
 *   lane 1 ...   the same slot numbers again, one such array a lane
 *   baselines    the same slot numbers again, two such arrays a delta reader
 *
 * The sizes of all regions follow from four numbers in the header (series, lanes, record_bytes,
 * page_bytes). Whoever attaches computes them again and refuses a file of another length. The file
 * is sparse and mapped once at its full length, so nothing is ever remapped to grow: memory is used
 * for touched pages only. Before the first word of a page is touched its page is allocated with
 * fallocate() and then its bit in the page map is set, so a full file system shows as an error code
 * and never as SIGBUS; nobody touches a page whose bit is not set. All-zero memory means "empty"
 * everywhere, so nothing needs initialising.
 *
 * CLAIM: attributes -> series
 *
 * A key (type, kind, parent, key bytes) is hashed and looked for in the index. If it is not there,
 * the record is written completely and then published with one compare-and-swap of a free index cell
 * (release; readers load the cell with acquire). Who loses the race uses the winner's record. The
 * index cell is the truth: a record without a cell does not exist. A crash in between leaks one
 * record and its slots, never more. Cells are used again, and then hardly one is ever free; so the header
 * says how far from its first cell a key has to be looked for.
 *
 * LANES: who adds where
 *
 * A series owns a run of slot numbers; each lane has those slots once. A process owns one lane, so
 * two processes never write the same cache line; the value of a series is the fold of its lanes.
 * Ownership is a kernel byte-range lock (POSIX F_SETLK) on the lane's number, which the kernel drops
 * when the process dies. Lane 0 belongs to nobody and is everybody's: it holds the series whose rule
 * is "the last write wins", and it is where a process adds that got no lane, or no page in its lane.
 * No sum is ever wrong by that, because every update is one atomic operation; it is only slower, and
 * what is there counts as live for ever. (A process that collects from outside the service, or only looks,
 * has no lane and adds nowhere.) A published series has its page in lane 0 allocated, so lane
 * 0 can never fail.
 *
 * Each process maps its lane a second time, at an address of its own: its window. The slot addresses
 * a process keeps point into the window (or into lane 0), so a forked child moves all of them to a
 * lane of its own with one mmap(MAP_FIXED). Until it has done so it adds to its parent's lane, which
 * is correct too.
 *
 * Slots of dead processes stay and count ("sum" rule): a new owner of the lane goes on adding. For a
 * "live_sum" series the new owner first stores zeros (twice is harmless) and then takes a second lock,
 * which says that the lane is live. Both die with their owner, so there is no moment at which a dead
 * process's share is taken for the next one's.
 *
 * STREAMS: what becomes of a measurement
 *
 * A measurement of an instrument goes to each of the instrument's streams: one for every view that
 * matches it, or one without a view, times the aggregations the readers ask for. A stream is a
 * record: what comes out (name, unit, description), how it is aggregated, which attributes are kept.
 * Series belong to streams, so whoever reads the file knows what to export without knowing the
 * views. The boundaries that an instrument advises, and the most series a stream may have, are the
 * wishes of the process that comes first (behind the key, and so no part of the identity).
 *
 * HISTOGRAMS
 *
 * The count is the sum of the buckets. Minimum and maximum are there twice: for ever, and since the
 * last delta collection, see BASELINES. Explicit buckets lie in the run. Exponential ones lie in
 * blocks, one a scale, in slot numbers of their own: a block spans max_size buckets to both sides of
 * the bucket of the first value that any process recorded (center), so every value that still
 * belongs at this scale has a place. A value that does not goes to a block of the next scale that has
 * one. Nothing is ever moved: buckets of a finer scale are exactly halves of coarser ones, so who
 * reads adds the blocks of all lanes up at the finest scale at which they fit into max_size, which is
 * the scale that the SDK arrives at by downscaling.
 *
 * BASELINES: delta without a reset
 *
 * No collection ever zeroes a sum or a bucket. A reader that wants deltas subtracts the totals of its
 * last collection, which lie in the file, so a collector that takes over subtracts the same. There
 * are two arrays a reader: a collection reads one and writes the other, and then makes the other one
 * valid with one store of the epoch. Who dies before that store has collected nothing; after it the
 * interval counts as sent. Minima and maxima cannot be subtracted: a collection first lowers the valid
 * array's of every delta reader by what it finds in the lane (twice is harmless) and then empties
 * the lane's with a CAS.
 *
 * REUSE: series that no reader needs any more
 *
 * A cumulative reader needs every series for ever. Where all readers want deltas a set of attributes that
 * is not measured any more needs no slots, so when a stream gets full the collector retires such series.
 * It marks one as retiring; the processes let go of it, unless it is bound; when nobody holds it and
 * every reader has had all of it, it is retired, and some time later its record and slots, zeroed, are
 * there for another set of attributes of the same stream. Whoever measures it meanwhile makes it live
 * again. Who holds a series has said so in its own lane (OSHM_HELD), so a stale address never adds to
 * somebody else's series; and who dies holds nothing, but what it held in lane 0 is held for ever.
 *
 * ANSWERS: what only one process knows
 *
 * Callbacks of observables and reservoirs of exemplars belong to their process. A process that has some
 * says so in its lane's entry, and has a thread that sleeps until a collection begins (a futex on its
 * number), puts what it knows into its lane and its mailbox, and notes the number. The collector waits
 * for the living ones, but not for long, and not again for one that has not answered since. Who is late has
 * its observations in the next collection, and its exemplars too.
 *
 * WHAT A READER MAY EXPECT
 *
 * Every word is read whole. Words of different series, or the two words of one series, may be a few
 * updates apart: a scan may miss an update in flight, the next scan has it. A later scan by the same
 * process never shows less of a monotonic sum than an earlier one.
 *
 * THE FILE MAY BE HOSTILE
 *
 * Record positions, lengths and slot numbers are copied out, checked against the region they must
 * lie in, and only then used (oshm_record_read). Sizes are checked once, at attach.
 *
 * Hardware: little-endian, 64-bit, lock-free 64-bit atomics. Anything else is refused at compile
 * time. Any change of size, order or meaning below bumps OSHM_VERSION.
 */
#pragma once

/* "OTEL_SHM", little-endian. */
#define OSHM_MAGIC 0x4d48535f4c45544f
#define OSHM_VERSION 2

/* Slots reserved in each lane for one series of capacity: the mean run length the file is sized for. */
#define OSHM_SLOTS_PER_SERIES 16

/* Readers with delta temporality that have their baselines in the buffer. */
#define OSHM_READERS 8

/* Room for what one process tells the collector in one collection: exemplars. */
#define OSHM_MAILBOX_BYTES 65536

/* The sizes a buffer may have. */
#define OSHM_SERIES_MIN 1
#define OSHM_SERIES_MAX 16777216
#define OSHM_LANES_MIN 2 /* one is nobody's */
#define OSHM_LANES_MAX 4096
#define OSHM_RECORD_BYTES_MIN 4096
#define OSHM_RECORD_BYTES_MAX 68719476736

/* Kernel locks: byte 0 of the file is the collector's. Byte OSHM_LOCK_LANES + n makes lane n a
 * process's own; OSHM_LOCK_LIVE + n says that it has been cleaned and counts as live. Byte
 * OSHM_LOCK_LANES + 0 is held for reading by each process for which there was no lane. */
#define OSHM_LOCK_COLLECTOR 0
#define OSHM_LOCK_LANES 1
#define OSHM_LOCK_LIVE 8192
/* Held for reading by whoever attaches, and for writing by whoever removes a buffer that nobody uses. */
#define OSHM_LOCK_ATTACH 16384

/* What a record describes. */
enum oshm_type {
    OSHM_RESOURCE = 1,   /* key: OTLP ResourceMetrics without metrics */
    OSHM_SCOPE = 2,      /* key: OTLP ScopeMetrics without metrics */
    OSHM_INSTRUMENT = 3, /* key: OTLP Metric without data; parent: its scope; behind it: boundaries */
    OSHM_SERIES = 4,     /* key: OTLP KeyValueList, sorted by key; parent: its stream */
    OSHM_STREAM = 5,     /* key: oshm_stream_key and what follows it; parent: its instrument */
    OSHM_READER = 6      /* key: what tells the readers of one process apart */
};

/* Instrument kinds. */
enum oshm_kind {
    OSHM_COUNTER = 1,
    OSHM_UP_DOWN_COUNTER = 2,
    OSHM_GAUGE = 3,
    OSHM_OBSERVABLE_GAUGE = 4,
    OSHM_HISTOGRAM = 5,
    OSHM_OBSERVABLE_COUNTER = 6,
    OSHM_OBSERVABLE_UP_DOWN_COUNTER = 7
};

/* How the measurements of a stream are aggregated. */
enum oshm_aggregation {
    OSHM_AGGREGATION_SUM = 1,
    OSHM_AGGREGATION_LAST = 2,        /* the last value */
    OSHM_AGGREGATION_EXPLICIT = 3,    /* histogram with explicit boundaries */
    OSHM_AGGREGATION_EXPONENTIAL = 4  /* base-2 exponential histogram */
};

/* How the lanes of a series fold into its value. A live lane has a value if that was set, or observed in
 * this collection; of a process that did not answer in time, in the last one that it answered to; of one
 * without a lane, in one of the last few. */
enum oshm_fold {
    OSHM_SUM = 1,      /* all lanes, dead processes included */
    OSHM_LIVE_SUM = 2, /* lane 0 and lanes of live processes */
    OSHM_LAST = 3,     /* lane 0 only: all processes write there, the last write wins */
    OSHM_ONE = 4,      /* the lowest live lane that has a value */
    OSHM_LOWEST = 5,   /* the lowest value of the live lanes that have one */
    OSHM_HIGHEST = 6,  /* the highest */
    OSHM_EACH = 7      /* each live lane that has a value is a row of its own */
};

/* Words of a run of slots. A sum adds OSHM_INT and OSHM_FLOAT; a last value is OSHM_FLOAT once that
 * was ever set, else OSHM_INT. */
#define OSHM_INT 0
#define OSHM_FLOAT 1
#define OSHM_STAMP 2 /* number of the last collection begun, where a value alone may not tell of its update */
#define OSHM_HELD 3  /* handles to the series in the lane's process: its slots cannot be used again */
/* Histograms have more; of an exponential one the blocks are elsewhere. */
#define OSHM_MIN 4
#define OSHM_MAX 5
#define OSHM_INTERVAL_MIN 6 /* since the last delta collection */
#define OSHM_INTERVAL_MAX 7
#define OSHM_ZERO 8    /* exponential: how many zeros */
#define OSHM_BUCKETS 8 /* explicit: the first bucket */

/* Scales of an exponential histogram, finest first: scale = max_scale - number of the block. At the
 * coarsest there are two buckets for all doubles: up to 1 and above. */
#define OSHM_SCALES 32
enum oshm_scale { OSHM_MIN_SCALE = -11, OSHM_MAX_SCALE = 20 };

/* One 64-bit word that processes update; see slot.h for what each kind stores in it. */
typedef struct oshm_slot {
    oshm_atomic_u64 word;
} oshm_slot;

/* What is written down of a lane, by its owner. Who owns it and whether it is live are kernel locks. */
typedef struct oshm_lane {
    oshm_atomic_u64 generation; /* how many processes have owned it; relaxed */
    oshm_atomic_u64 pid;        /* of the owner, in its own pid namespace: for people, not for logic */
    oshm_atomic_u64 publishes;  /* not 0: its owner answers to each collection; owner; seq_cst */
    oshm_atomic_u64 answered;   /* number of the last collection it answered to; owner; release */
    uint64_t reserved[4];       /* zero */
} oshm_lane;

/* What a lane's owner tells the collector: exemplars, as otel_shm/exemplar_message.py encodes them. Written
 * by the owner before it answers to a collection; what was not taken by then is kept in front of it. */
typedef struct oshm_mailbox {
    oshm_atomic_u64 collection; /* that the content belongs to, 0 = it is taken, or being written; whoever
                                   sets it to 0 has the content; CAS, acquire and release */
    oshm_atomic_u64 bytes;      /* length of the content */
    /* the content follows */
} oshm_mailbox;

/* A reader that wants deltas. Written by the holder of the collector lock only, but for record. */
typedef struct oshm_reader {
    oshm_atomic_u64 record; /* position of its record; any process, CAS from 0 */
    oshm_atomic_u64 epoch;  /* deltas collected; its parity is the valid half of all below; release */
    oshm_atomic_u64 time_unix_nano[2]; /* end of the last interval */
    oshm_atomic_u64 collection[2];     /* number of the last collection */
    uint64_t reserved[2];              /* zero */
} oshm_reader;

/* What the holder of the collector lock is doing. */
enum oshm_collector_state {
    OSHM_COLLECTOR_NONE = 0,   /* nothing any more: it is about to unlock */
    OSHM_COLLECTOR_ACTIVE = 1, /* collects now and then; what is added now it will still export */
    OSHM_COLLECTOR_LEAVING = 2 /* makes its last export */
};

typedef struct oshm_header {
    /* Written by the creator before the file can be found; constant from then on. */
    uint64_t magic;             /* OSHM_MAGIC */
    oshm_atomic_u64 version;    /* OSHM_VERSION; stored last, with release */
    uint64_t page_bytes;        /* the creator's page size */
    uint64_t file_bytes;        /* the whole file */
    uint64_t series;            /* capacity */
    uint64_t lanes;             /* capacity, lane 0 included */
    uint64_t record_bytes;      /* capacity of the records region */
    uint64_t created_unix_nano; /* wall clock */
    uint8_t boot_id[40];        /* text of the kernel's boot id, zero-padded */
    uint64_t reserved_constant[3]; /* zero; ends the second cache line */

    /* Cursors, each on its own cache line. Any process; CAS, relaxed (the index publishes). */
    oshm_atomic_u64 record_cursor; /* next free byte of the records region; starts at 8 */
    uint64_t pad_record[7];
    oshm_atomic_u64 slot_cursor; /* next free slot number */
    uint64_t pad_slot[7];
    oshm_atomic_u64 series_count; /* series records published; fetch_add, relaxed */
    uint64_t pad_series[7];

    /* Set once or rarely. */
    oshm_atomic_u64 resource;        /* position of the resource record; CAS from 0, release */
    oshm_atomic_u64 lanes_used;      /* lanes 0..n-1 were ever owned; only grows, CAS */
    oshm_atomic_u64 collector_state; /* enum oshm_collector_state; lock holder only; seq_cst */
    oshm_atomic_u64 collection;      /* number of the last collection begun; fetch_add, seq_cst; those who
                                        answer sleep on it */
    oshm_atomic_u64 last_export;     /* number of the first collection of a holder that left; seq_cst */
    oshm_atomic_u64 kept_kinds; /* bit n: a cumulative reader needs all series of kind n; fetch_or */
    oshm_atomic_u64 sweep; /* changes when processes should let go of series that retire; seq_cst */
    oshm_atomic_u64 answers; /* answers to collections; fetch_add, release; the collector sleeps on it */

    /* Counters about ourselves. Any process; fetch_add, relaxed. */
    oshm_atomic_u64 overflowed;        /* measurements that went to an overflow series */
    oshm_atomic_u64 dropped;           /* measurements of instruments that have no record */
    oshm_atomic_u64 attached;          /* processes that ever attached */
    oshm_atomic_u64 collector_changes; /* times the collector lock was taken */
    oshm_atomic_u64 reach; /* no record is in a cell farther from its key's first one; only grows, CAS,
                              seq_cst */
    uint64_t pad_counters[3];
} oshm_header;

/* What a stream's key begins with. Then come the boundaries (doubles), an OTLP Metric without data
 * (name, unit and description of what comes out), and what tells which attributes are kept. */
typedef struct oshm_stream_key {
    uint32_t boundaries;   /* explicit: their number, else 0 */
    uint32_t metric_bytes; /* length of the Metric */
    uint16_t max_size;     /* exponential: most buckets that come out, else 0 */
    int8_t max_scale;      /* exponential: finest scale, else 0 */
    uint8_t flags;         /* enum oshm_stream_flag */
    uint32_t limit;        /* the view's cardinality limit, 0 = the readers' */
} oshm_stream_key;

enum oshm_stream_flag {
    OSHM_DEFAULTED = 1,  /* a reader's default aggregation, so for readers with that default only */
    OSHM_NO_MIN_MAX = 2, /* minimum and maximum do not come out */
    OSHM_FILTERED = 4    /* only some attributes are kept */
};

/* What lies behind the key of a stream. Any process; relaxed, but for reusable. */
typedef struct oshm_stream_state {
    oshm_atomic_u64 series;   /* how many there are; fetch_add */
    oshm_atomic_u64 limit;    /* most series, further ones go to the overflow series; only grows, CAS */
    oshm_atomic_u64 reusable; /* records of retired series: tag << 40 | position of the first; CAS */
} oshm_stream_state;

/* What lies behind the key of a series of an exponential histogram: for positive values, and behind that
 * for negative ones where the kind of instrument has them. Any process; CAS from 0. */
typedef struct oshm_blocks {
    oshm_atomic_u64 center; /* bucket of the first value at max_scale, + 2^40; 0 = none yet; relaxed */
    oshm_atomic_u64 first_slot[OSHM_SCALES]; /* of the block of each scale; 0 = none yet; release */
} oshm_blocks;

/* Whether a series may be found. */
enum oshm_series_state {
    OSHM_LIVE = 0,
    OSHM_CLAIMED = 1,  /* published, but its claimer has not yet looked for another of the same key */
    OSHM_RETIRING = 2, /* no reader needs it; whoever wants to measure makes it live again */
    OSHM_RETIRED = 3   /* for ever, under this key */
};

/* A record's fixed part; the key bytes follow it, and behind them, from the next multiple of 8, what
 * its type has more. Written by its claimer before it is published and constant from then on, but for
 * the atomic words and for a retired series' whole record, which is written anew for another key. */
typedef struct oshm_record {
    uint32_t bytes;      /* whole record, a multiple of 8 */
    uint32_t key_bytes;  /* length of the key behind this struct */
    uint8_t type;        /* enum oshm_type */
    uint8_t kind;        /* enum oshm_kind; instruments, streams and series, else 0 */
    uint8_t fold;        /* enum oshm_fold; instruments, streams and series, else 0 */
    uint8_t aggregation; /* enum oshm_aggregation; streams and series, else 0 */
    uint32_t slots;      /* length of the series' run of slots, else 0 */
    uint64_t hash;       /* of type, kind, aggregation, parent and key */
    uint64_t parent;     /* position of the parent record, 0 for none */
    uint64_t first_slot; /* series: its slot number, else 0 */
    oshm_atomic_u64 start_time_unix_nano; /* series: first measurement, 0 = none yet; CAS from 0 */
    oshm_atomic_u64 state; /* series: generation << 8 | enum oshm_series_state; CAS, seq_cst */
    oshm_atomic_u64 next;  /* retired series: the next one that can be used again */
} oshm_record;

/* What a scan says of one series; process-local, never in the file. */
typedef struct oshm_row {
    uint64_t series;               /* position of its record */
    uint64_t stream;               /* position of its stream's record */
    uint64_t generation;           /* of the record: another one is another series */
    uint64_t start_time_unix_nano; /* of the series, or of the interval; 0 = never measured */
    int64_t int_value;             /* int part of the value or sum */
    double float_value;            /* float part; holds all of it where is_float */
    double min, max;               /* histograms, where has_min_max */
    uint64_t count, zero_count;    /* histograms */
    uint64_t first_bucket;         /* place of its buckets in oshm_scanner_buckets */
    uint64_t first_negative;       /* exponential: place of those for negative values */
    uint32_t buckets, negatives;   /* how many */
    int32_t offset, negative_offset; /* exponential: index of the first one */
    int8_t scale;                  /* exponential */
    uint8_t kind;                  /* enum oshm_kind */
    uint8_t aggregation;           /* enum oshm_aggregation */
    uint8_t has_value;             /* 0: leave the series out of this collection */
    uint8_t is_float;              /* value or sum is a double */
    uint8_t has_min_max;
    uint16_t lane;                 /* OSHM_EACH: whose value it is */
} oshm_row;

/* What the set-up functions return: 0, or one of these. */
enum oshm_status {
    OSHM_OK = 0,
    OSHM_ERROR_SYSTEM = -1,      /* a system call failed: see errno */
    OSHM_ERROR_SIZES = -2,       /* series, lanes or record_bytes out of range */
    OSHM_ERROR_EXISTS = -3,      /* create: the path is taken */
    OSHM_ERROR_SYMLINK = -4,     /* the path is a symbolic link */
    OSHM_ERROR_NOT_REGULAR = -5, /* the path is no regular file */
    OSHM_ERROR_OWNER = -6,       /* the file belongs to another user */
    OSHM_ERROR_MODE = -7,        /* group or others may access the file */
    OSHM_ERROR_SHORT = -8,       /* the file is shorter than a header */
    OSHM_ERROR_MAGIC = -9,       /* not one of our buffers */
    OSHM_ERROR_VERSION = -10,    /* another version of this layout */
    OSHM_ERROR_PAGE = -11,       /* made on a machine with another page size */
    OSHM_ERROR_LENGTH = -12,     /* the length is not what the header says: truncated or damaged */
    OSHM_ERROR_NO_ALLOCATE = -13, /* the file system cannot allocate pages */
    OSHM_ERROR_NO_LOCKS = -14,    /* the file system cannot lock */
    OSHM_ERROR_REPLACED = -15,    /* the file at the path is being removed, or is another one by now */
    /* What a claim returns where it cannot place a series. */
    OSHM_FULL_SERIES = -20,  /* the buffer holds as many series as it was made for */
    OSHM_FULL_RECORDS = -21, /* no room for the record */
    OSHM_FULL_SLOTS = -22,   /* no slots left */
    OSHM_FULL_MEMORY = -23,  /* the file system is full */
    OSHM_FULL_READERS = -25, /* as many delta readers as there may be */
    OSHM_FULL_STREAM = -26,  /* the stream has as many series as it may have */
    OSHM_DAMAGED = -24       /* the index or a record is not what it must be */
};
