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
 *   lane table   struct oshm_lane, one a lane
 *   page map     one bit a page of the file: 1 = the file system has given us this page
 *   index        64-bit cells, open addressing: tag << 40 | record position; 0 = free
 *   records      append-only: resource, scopes, instruments, series
 *   lane 0       64-bit slots
 *   lane 1 ...   the same slot numbers again, one such array a lane
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
 * record and its slots, never more.
 *
 * LANES: who adds where
 *
 * A series owns a run of slot numbers; each lane has those slots once. A process owns one lane, so
 * two processes never write the same cache line; the value of a series is the fold of its lanes.
 * Ownership is a kernel byte-range lock (POSIX F_SETLK) on the lane's number, which the kernel drops
 * when the process dies. Lane 0 belongs to nobody and is everybody's: it holds the series whose rule
 * is "the last write wins", and it is where a process adds that got no lane, or no page in its lane.
 * No sum is ever wrong by that, because every update is one atomic operation; it is only slower, and
 * what is there counts as live for ever. A published series has its page in lane 0 allocated, so lane
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
#define OSHM_VERSION 1

/* Slots reserved in each lane for one series of capacity: the mean run length the file is sized for. */
#define OSHM_SLOTS_PER_SERIES 8

/* Kernel locks: byte 0 of the file is the collector's. Byte OSHM_LOCK_LANES + n makes lane n a
 * process's own; OSHM_LOCK_LIVE + n says that it has been cleaned and counts as live. */
#define OSHM_LOCK_COLLECTOR 0
#define OSHM_LOCK_LANES 1
#define OSHM_LOCK_LIVE 8192

/* What a record describes. */
enum oshm_type {
    OSHM_RESOURCE = 1,   /* key: OTLP ResourceMetrics without metrics */
    OSHM_SCOPE = 2,      /* key: OTLP ScopeMetrics without metrics */
    OSHM_INSTRUMENT = 3, /* key: OTLP Metric without data; parent: its scope */
    OSHM_SERIES = 4      /* key: OTLP KeyValueList, sorted by key; parent: its instrument */
};

/* Instrument kinds. */
enum oshm_kind {
    OSHM_COUNTER = 1,
    OSHM_UP_DOWN_COUNTER = 2,
    OSHM_GAUGE = 3,
    OSHM_OBSERVABLE_GAUGE = 4
};

/* How the lanes of a series fold into its value. */
enum oshm_fold {
    OSHM_SUM = 1,      /* all lanes, dead processes included */
    OSHM_LIVE_SUM = 2, /* lane 0 and lanes of live processes */
    OSHM_LAST = 3,     /* lane 0 only: all processes write there, the last write wins */
    OSHM_ONE = 4       /* the lowest live lane that observed the series in this collection */
};

/* Words of a run of slots. A sum adds OSHM_INT and OSHM_FLOAT; a gauge is OSHM_FLOAT once that was
 * ever set, else OSHM_INT. Under OSHM_ONE a run also notes the collection it was observed in. */
#define OSHM_INT 0
#define OSHM_FLOAT 1
#define OSHM_OBSERVED 2

/* One 64-bit word that processes update; see slot.h for what each kind stores in it. */
typedef struct oshm_slot {
    oshm_atomic_u64 word;
} oshm_slot;

/* What is written down of a lane, by its owner. Who owns it and whether it is live are kernel locks. */
typedef struct oshm_lane {
    oshm_atomic_u64 generation; /* how many processes have owned it; relaxed */
    oshm_atomic_u64 pid;        /* of the owner, in its own pid namespace: for people, not for logic */
    uint64_t reserved[6];       /* zero */
} oshm_lane;

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
    oshm_atomic_u64 collection;      /* number of the last collection begun; fetch_add, seq_cst */
    oshm_atomic_u64 last_export;     /* number of the first collection of a holder that left; seq_cst */
    uint64_t pad_rare[3];

    /* Counters about ourselves. Any process; fetch_add, relaxed. */
    oshm_atomic_u64 overflowed;        /* measurements that went to an overflow series */
    oshm_atomic_u64 dropped;           /* measurements of instruments that have no record */
    oshm_atomic_u64 attached;          /* processes that ever attached */
    oshm_atomic_u64 collector_changes; /* times the collector lock was taken */
    uint64_t pad_counters[4];
} oshm_header;

/* A record's fixed part; the key bytes follow it. Written by its claimer before it is published and
 * constant from then on, but for start_time_unix_nano. */
typedef struct oshm_record {
    uint32_t bytes;      /* whole record, a multiple of 8 */
    uint32_t key_bytes;  /* length of the key behind this struct */
    uint8_t type;        /* enum oshm_type */
    uint8_t kind;        /* enum oshm_kind; instruments and series, else 0 */
    uint8_t fold;        /* enum oshm_fold; instruments and series, else 0 */
    uint8_t slots;       /* length of the series' run of slots, else 0 */
    uint32_t generation; /* of the slots; 0 until slots are ever used again */
    uint64_t hash;       /* of type, kind, parent and key */
    uint64_t parent;     /* position of the parent record, 0 for none */
    uint64_t first_slot; /* series: its slot number, else 0 */
    oshm_atomic_u64 start_time_unix_nano; /* series: first measurement, 0 = none yet; CAS from 0 */
} oshm_record;

/* What a scan says of one series; process-local, never in the file. */
typedef struct oshm_row {
    uint64_t series;               /* position of its record */
    uint64_t instrument;           /* position of its instrument's record */
    uint64_t start_time_unix_nano; /* 0 = never measured */
    int64_t int_value;             /* int part of the folded value */
    double float_value;            /* float part; holds all of the value where is_float */
    uint8_t kind;                  /* enum oshm_kind */
    uint8_t has_value;             /* 0: leave the series out of this collection */
    uint8_t is_float;              /* the point is a double */
    uint8_t reserved[5];
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
    /* What a claim returns where it cannot place a series. */
    OSHM_FULL_SERIES = -20,  /* the buffer holds as many series as it was made for */
    OSHM_FULL_RECORDS = -21, /* no room for the record */
    OSHM_FULL_SLOTS = -22,   /* no slots left */
    OSHM_FULL_MEMORY = -23,  /* the file system is full */
    OSHM_DAMAGED = -24       /* the index or a record is not what it must be */
};
