/* SPDX-License-Identifier: Apache-2.0
 *
 * Records and the index that publishes them: see CLAIM in layout.h.
 */
#include <string.h>

#include "pages.h"
#include "records.h"

int oshm_record_get(const struct oshm_buffer *buffer, uint64_t position, oshm_record *fixed,
                    const uint8_t **key)
{
    if (position < 8 || position % 8 != 0 || position > buffer->record_bytes - sizeof *fixed ||
        !oshm_pages_ready(buffer, buffer->at.records + position, sizeof *fixed))
        return OSHM_DAMAGED;

    /* Copied once and only then judged: a hostile process may write while we look. */
    oshm_record *there = oshm_record_at(buffer, position);
    /* seq_cst: see reuse.c. First of all: who finds it unchanged later has read one and the same series. */
    atomic_init(&fixed->state, atomic_load(&there->state));
    fixed->bytes = *(volatile uint32_t *)&there->bytes;
    fixed->key_bytes = *(volatile uint32_t *)&there->key_bytes;
    fixed->type = *(volatile uint8_t *)&there->type;
    fixed->kind = *(volatile uint8_t *)&there->kind;
    fixed->fold = *(volatile uint8_t *)&there->fold;
    fixed->aggregation = *(volatile uint8_t *)&there->aggregation;
    fixed->slots = *(volatile uint32_t *)&there->slots;
    fixed->hash = *(volatile uint64_t *)&there->hash;
    fixed->parent = *(volatile uint64_t *)&there->parent;
    fixed->first_slot = *(volatile uint64_t *)&there->first_slot;
    /* acquire: pairs with the release of oshm_series_start */
    atomic_init(&fixed->start_time_unix_nano,
                atomic_load_explicit(&there->start_time_unix_nano, memory_order_acquire));
    atomic_init(&fixed->next, atomic_load_explicit(&there->next, memory_order_relaxed));

    if (fixed->bytes > buffer->record_bytes - position || fixed->bytes < sizeof *fixed ||
        fixed->key_bytes > fixed->bytes - sizeof *fixed ||
        !oshm_pages_ready(buffer, buffer->at.records + position, fixed->bytes))
        return OSHM_DAMAGED;
    bool measured = fixed->type == OSHM_SERIES || fixed->type == OSHM_STREAM;
    if ((measured || fixed->type == OSHM_INSTRUMENT) &&
        (fixed->kind < OSHM_COUNTER || fixed->kind > OSHM_OBSERVABLE_UP_DOWN_COUNTER ||
         fixed->fold < OSHM_SUM || fixed->fold > OSHM_EACH))
        return OSHM_DAMAGED;
    if (measured && (fixed->aggregation < OSHM_AGGREGATION_SUM ||
                     fixed->aggregation > OSHM_AGGREGATION_EXPONENTIAL))
        return OSHM_DAMAGED;
    if (fixed->type == OSHM_SERIES &&
        (fixed->slots < oshm_run_slots(fixed->aggregation, 0) || fixed->slots > buffer->at.slots ||
         fixed->first_slot > buffer->at.slots - fixed->slots))
        return OSHM_DAMAGED;
    *key = (const uint8_t *)there + sizeof *fixed;
    return OSHM_OK;
}

uint64_t oshm_series_identity(const struct oshm_buffer *buffer, uint64_t position)
{
    oshm_record fixed;
    const uint8_t *ignored;
    if (oshm_record_get(buffer, position, &fixed, &ignored) != OSHM_OK)
        return 0;
    uint64_t state = atomic_load_explicit(&fixed.state, memory_order_relaxed);
    return oshm_generation(state) << OSHM_CELL_TAG_SHIFT | position;
}

void *oshm_record_behind(const struct oshm_buffer *buffer, uint64_t position,
                         const oshm_record *fixed, uint64_t wanted)
{
    uint64_t at = oshm_round_up(sizeof *fixed + fixed->key_bytes, 8);
    if (at > fixed->bytes || fixed->bytes - at < wanted)
        return NULL;
    return buffer->base + buffer->at.records + position + at;
}

static uint64_t hash_key(const struct oshm_key *key)
{
    const uint64_t odd = 0x9e3779b97f4a7c15u;
    uint64_t hash = (key->parent << 24 | (uint64_t)key->aggregation << 16 |
                     (uint64_t)key->type << 8 | key->kind) *
                    odd;
    for (uint64_t i = 0; i < key->length; i += 8) {
        uint64_t word = 0;
        memcpy(&word, key->bytes + i, key->length - i < 8 ? key->length - i : 8);
        hash = ((hash << 5 | hash >> 59) ^ word) * odd;
        hash ^= hash >> 32;
    }
    hash = (hash ^ key->length) * odd;
    return hash ^ hash >> 29;
}

bool oshm_record_unchanged(const struct oshm_buffer *buffer, uint64_t position,
                           const oshm_record *fixed)
{
    atomic_thread_fence(memory_order_acquire); /* what was read of the record comes before */
    return atomic_load(&oshm_record_at(buffer, position)->state) == /* seq_cst: see probe */
           atomic_load_explicit(&fixed->state, memory_order_relaxed);
}

/* True if the record is the key's. state: as it was before and after the comparison, so that a record
 * which is being written anew for another key is not taken for one that it never was. */
static bool matches(const struct oshm_buffer *buffer, uint64_t position, const struct oshm_key *key,
                    uint64_t hash, uint64_t *state)
{
    oshm_record found;
    const uint8_t *bytes;
    if (oshm_record_get(buffer, position, &found, &bytes) != OSHM_OK || found.hash != hash ||
        found.type != key->type || found.kind != key->kind ||
        found.aggregation != key->aggregation || found.parent != key->parent ||
        found.key_bytes != key->length || memcmp(bytes, key->bytes, key->length) != 0)
        return false;
    *state = atomic_load_explicit(&found.state, memory_order_relaxed); /* a copy */
    return oshm_record_unchanged(buffer, position, &found);
}

/* A bump allocator in the buffer: a cursor over units of memory. */
struct arena {
    oshm_atomic_u64 *cursor;
    uint64_t offset, unit, capacity; /* bytes from the file's start, bytes, units */
    int full;                        /* the status when there are no units left */
};

/* Makes sure that count units at a place can be used: they exist and their memory is allocated. */
static int make_room(struct oshm_buffer *buffer, const struct arena *arena, uint64_t at,
                     uint64_t count)
{
    if (at > arena->capacity || count > arena->capacity - at)
        return arena->full;
    return oshm_pages_ensure(buffer, arena->offset + at * arena->unit, count * arena->unit) == OSHM_OK
               ? OSHM_OK
               : OSHM_FULL_MEMORY;
}

/* Moves the cursor over count units. Their memory is allocated before the cursor moves, so a full
 * file system costs nothing but the attempt. */
static int reserve(struct oshm_buffer *buffer, const struct arena *arena, uint64_t count,
                   uint64_t *first)
{
    *first = atomic_load_explicit(arena->cursor, memory_order_relaxed);
    do {
        int status = make_room(buffer, arena, *first, count);
        if (status != OSHM_OK)
            return status;
        /* relaxed: what is reserved gets published by the index, not by the cursor */
    } while (!atomic_compare_exchange_weak_explicit(arena->cursor, first, *first + count,
                                                    memory_order_relaxed, memory_order_relaxed));
    return OSHM_OK;
}

static struct arena slot_arena(const struct oshm_buffer *buffer)
{
    return (struct arena){&buffer->header->slot_cursor, buffer->at.lanes, sizeof(oshm_slot),
                          buffer->at.slots, OSHM_FULL_SLOTS};
}

int oshm_slots_reserve(struct oshm_buffer *buffer, uint64_t count, uint64_t *first)
{
    const struct arena slots = slot_arena(buffer);
    return reserve(buffer, &slots, count, first);
}

/* Writes all of a record but its place: what is in it, and its state last. */
static void write_record(oshm_record *record, uint64_t record_bytes, const struct oshm_key *key,
                         uint64_t hash, uint64_t generation, enum oshm_series_state state)
{
    record->key_bytes = (uint32_t)key->length;
    record->type = key->type;
    record->kind = key->kind;
    record->fold = key->fold;
    record->aggregation = key->aggregation;
    record->slots = key->slots;
    record->hash = hash;
    record->parent = key->parent;
    atomic_store_explicit(&record->start_time_unix_nano, key->start_time_unix_nano,
                          memory_order_relaxed);
    uint8_t *bytes = (uint8_t *)record + sizeof *record;
    memcpy(bytes, key->bytes, key->length);
    uint64_t at = oshm_round_up(sizeof *record + key->length, 8);
    if (key->behind)
        memcpy((uint8_t *)record + at, key->behind, key->behind_bytes);
    else
        memset((uint8_t *)record + at, 0, record_bytes - at);
    /* release: who sees the state sees the rest */
    atomic_store_explicit(&record->state, oshm_state_word(generation, state), memory_order_release);
}

static uint64_t bytes_for(const struct oshm_key *key)
{
    return oshm_round_up(sizeof(oshm_record) + key->length, 8) + oshm_round_up(key->behind_bytes, 8);
}

static struct arena record_arena(const struct oshm_buffer *buffer)
{
    return (struct arena){&buffer->header->record_cursor, buffer->at.records, 1,
                          buffer->record_bytes, OSHM_FULL_RECORDS};
}

static int append(struct oshm_buffer *buffer, const struct oshm_key *key, uint64_t hash,
                  enum oshm_series_state state, uint64_t *position)
{
    const struct arena records = record_arena(buffer);
    uint64_t first_slot = 0, at;
    if (key->length > buffer->record_bytes || bytes_for(key) > UINT32_MAX)
        return OSHM_FULL_RECORDS;
    /* A record that may be written anew for another key has a little room for a longer one. */
    uint64_t bytes = key->reusable ? oshm_round_up(bytes_for(key), 64) : bytes_for(key);

    /* Asked first, so that slots are not used up again and again for want of room for a record. */
    int status = make_room(buffer, &records,
                           atomic_load_explicit(records.cursor, memory_order_relaxed), bytes);
    if (status == OSHM_OK && key->slots != 0)
        status = oshm_slots_reserve(buffer, key->slots, &first_slot);
    if (status == OSHM_OK)
        status = reserve(buffer, &records, bytes, &at);
    if (status != OSHM_OK)
        return status;
    if (at < 8 || at % 8 != 0)
        return OSHM_DAMAGED;

    oshm_record *record = oshm_record_at(buffer, at);
    record->bytes = (uint32_t)bytes;
    record->first_slot = first_slot;
    write_record(record, bytes, key, hash, 0, state);
    *position = at;
    return OSHM_OK;
}

int oshm_record_append(struct oshm_buffer *buffer, const struct oshm_key *key, uint64_t *position)
{
    return append(buffer, key, hash_key(key), OSHM_LIVE, position);
}

void oshm_record_recycle(const struct oshm_buffer *buffer, oshm_atomic_u64 *reusable,
                         uint64_t position)
{
    oshm_record *record = oshm_record_at(buffer, position);
    uint64_t head = atomic_load_explicit(reusable, memory_order_relaxed), next;
    do {
        atomic_store_explicit(&record->next, head & OSHM_CELL_POSITION, memory_order_relaxed);
        next = (head >> OSHM_CELL_TAG_SHIFT << OSHM_CELL_TAG_SHIFT) | position;
        /* release: pairs with the acquire of write_anew: the slots are zero */
    } while (!atomic_compare_exchange_weak_explicit(reusable, &head, next, memory_order_release,
                                                    memory_order_relaxed));
}

/* Takes a retired record off the list. The list's head carries a tag that changes with every pop, so a head
 * that went and came back is not taken for the same. Returns: whether there was one. */
static bool take_reusable(const struct oshm_buffer *buffer, const struct oshm_key *key,
                          uint64_t *position, oshm_record *fixed)
{
    const uint8_t *ignored;
    /* acquire: pairs with the release of oshm_record_recycle */
    uint64_t head = atomic_load_explicit(key->reusable, memory_order_acquire), next;
    do {
        *position = head & OSHM_CELL_POSITION;
        if (*position == 0 || oshm_record_get(buffer, *position, fixed, &ignored) != OSHM_OK ||
            fixed->type != OSHM_SERIES || fixed->slots != key->slots ||
            oshm_series_state(atomic_load_explicit(&fixed->state, memory_order_relaxed)) !=
                OSHM_RETIRED)
            return false;
        next = atomic_load_explicit(&fixed->next, memory_order_relaxed) & OSHM_CELL_POSITION;
        next |= ((head >> OSHM_CELL_TAG_SHIFT) + 1) << OSHM_CELL_TAG_SHIFT;
    } while (!atomic_compare_exchange_weak_explicit(key->reusable, &head, next,
                                                    memory_order_acquire, memory_order_acquire));
    return true;
}

/* A longer record for a run whose own is too short for a key. Each time it gets twice as long at least, so
 * what is left behind is never more than what is in use. Returns: whether there was room for it. */
static bool lengthen(struct oshm_buffer *buffer, const struct oshm_key *key, uint64_t *position,
                     oshm_record *fixed)
{
    const struct arena records = record_arena(buffer);
    uint64_t bytes = oshm_round_up(bytes_for(key), 64), at;
    if (bytes < 2 * (uint64_t)fixed->bytes)
        bytes = 2 * (uint64_t)fixed->bytes;
    if (bytes > UINT32_MAX || reserve(buffer, &records, bytes, &at) != OSHM_OK || at < 8 ||
        at % 8 != 0)
        return false;
    oshm_record *record = oshm_record_at(buffer, at);
    record->bytes = fixed->bytes = (uint32_t)bytes;
    record->first_slot = fixed->first_slot;
    /* The old one is nobody's any more. */
    atomic_store(&oshm_record_at(buffer, *position)->state,
                 oshm_state_word(oshm_generation(atomic_load_explicit(
                                     &fixed->state, memory_order_relaxed)) + 1,
                                 OSHM_RETIRED));
    *position = at;
    return true;
}

/* Takes the first record of the list that is long enough for the key, or the longest of the first few.
 * Returns: whether there was any. */
static bool choose_reusable(const struct oshm_buffer *buffer, const struct oshm_key *key,
                            uint64_t *position, oshm_record *fixed)
{
    uint64_t passed[8], other;
    int count = 0;
    oshm_record its;
    bool found = take_reusable(buffer, key, position, fixed);
    while (found && fixed->bytes < bytes_for(key) && count < 8 &&
           take_reusable(buffer, key, &other, &its)) {
        bool longer = its.bytes > fixed->bytes;
        passed[count++] = longer ? *position : other;
        if (longer) {
            *position = other;
            *fixed = its;
        }
    }
    while (count > 0)
        oshm_record_recycle(buffer, key->reusable, passed[--count]);
    return found;
}

/* Writes a record that is on the list for this key. Returns: whether there was one, and room for it. */
static bool write_anew(struct oshm_buffer *buffer, const struct oshm_key *key, uint64_t hash,
                       uint64_t *position)
{
    oshm_record fixed;
    if (!choose_reusable(buffer, key, position, &fixed))
        return false;
    /* An exponential series keeps its blocks, which are as good for another center. */
    oshm_blocks blocks[2] = {{0}};
    const void *had = oshm_record_behind(buffer, *position, &fixed, key->behind_bytes);
    struct oshm_key anew = *key;
    if (had && key->aggregation == OSHM_AGGREGATION_EXPONENTIAL &&
        key->behind_bytes <= sizeof blocks) {
        memcpy((void *)blocks, had, key->behind_bytes);
        atomic_init(&blocks[0].center, 0);
        atomic_init(&blocks[1].center, 0);
        anew.behind = blocks;
    }
    if (fixed.bytes < bytes_for(key) && !lengthen(buffer, key, position, &fixed)) {
        oshm_record_recycle(buffer, key->reusable, *position);
        return false;
    }
    oshm_record *record = oshm_record_at(buffer, *position);
    uint64_t generation =
        oshm_generation(atomic_load_explicit(&fixed.state, memory_order_relaxed)) + 1;
    /* seq_cst, and before the new key: see matches */
    atomic_store(&record->state, oshm_state_word(generation, OSHM_RETIRED));
    atomic_thread_fence(memory_order_seq_cst);
    write_record(record, fixed.bytes, &anew, hash, generation, OSHM_CLAIMED);
    return true;
}

/* A record as it was at some moment: in another state it may be another key's. */
struct seen {
    uint64_t position, state; /* position 0: none */
};

static bool same(struct seen a, struct seen b)
{
    return a.position == b.position && a.state == b.state;
}

/* What one pass over a key's cells found. */
struct found {
    struct seen live;     /* the record that is the key's */
    struct seen claimed;  /* or, if there is none, the first one that wants to be */
    uint64_t claimed_cell;
    uint64_t cell, there; /* the first cell that a new record could have, and what was in it */
};

/* Refuses a claimed record. Returns: whether it was still claimed; else its state is what it is now. */
static bool refuse(const struct oshm_buffer *buffer, const struct oshm_key *key, uint64_t cell,
                   struct seen *claimed)
{
    uint64_t there = atomic_load_explicit(&buffer->index[cell], memory_order_relaxed);
    if (!atomic_compare_exchange_strong(
            &oshm_record_at(buffer, claimed->position)->state, &claimed->state,
            oshm_state_word(oshm_generation(claimed->state), OSHM_RETIRED)))
        return false;
    if (atomic_compare_exchange_strong(&buffer->index[cell], &there, OSHM_CELL_GONE) &&
        key->reusable) /* nobody has ever measured with it */
        oshm_record_recycle(buffer, key->reusable, claimed->position);
    return true;
}

/* Goes over the cells where the key may be. keep: the claimed record that was there before this pass
 * began; those behind it lose. */
static int probe(struct oshm_buffer *buffer, const struct oshm_key *key, uint64_t hash,
                 struct seen keep, struct found *found)
{
    uint64_t mask = buffer->at.cells - 1, tag = hash >> OSHM_CELL_TAG_SHIFT;
    uint64_t reach = atomic_load(&buffer->header->reach); /* seq_cst: see publish */
    *found = (struct found){.cell = UINT64_MAX};
    for (uint64_t step = 0; step <= mask && (step <= reach || found->cell == UINT64_MAX); step++) {
        uint64_t i = (hash + step) & mask, state;
        if (oshm_pages_ensure(buffer, buffer->at.index + i * 8, 8) != OSHM_OK)
            return OSHM_FULL_MEMORY;
        /* seq_cst: of two claims of one key at least one sees the other; and as an acquire it pairs with
         * the publishing CAS, so the record is complete */
        uint64_t cell = atomic_load(&buffer->index[i]), position = cell & OSHM_CELL_POSITION;
        if ((cell == 0 || cell == OSHM_CELL_GONE) && found->cell == UINT64_MAX) {
            found->cell = i;
            found->there = cell;
        }
        if (cell == 0)
            return OSHM_OK;
        if (cell >> OSHM_CELL_TAG_SHIFT != tag || !matches(buffer, position, key, hash, &state))
            continue;
        struct seen one = {position, state};
        uint64_t live = oshm_state_word(oshm_generation(state), OSHM_LIVE);
        if (oshm_series_state(state) == OSHM_CLAIMED) {
            if (found->claimed.position == 0) {
                found->claimed = one;
                found->claimed_cell = i;
                continue;
            }
            if (!same(found->claimed, keep) || refuse(buffer, key, i, &one))
                continue;
        } else if (oshm_series_state(state) == OSHM_RETIRING) {
            /* Nobody needed it; now somebody does. */
            if (atomic_compare_exchange_strong(&oshm_record_at(buffer, position)->state,
                                               &one.state, live))
                one.state = live;
        }
        if (one.state == live) {
            found->live = one;
            if (found->claimed.position != 0) /* too late */
                refuse(buffer, key, found->claimed_cell, &found->claimed);
            return OSHM_OK;
        }
    }
    return found->cell == UINT64_MAX && found->claimed.position == 0 ? OSHM_FULL_SERIES : OSHM_OK;
}

static bool is_full(const struct oshm_key *key)
{
    for (int i = 0; i < 2; i++)
        if (key->counts[i] &&
            atomic_load_explicit(key->counts[i], memory_order_relaxed) >= key->most[i])
            return true;
    return false;
}

/* The record becomes the key's, if it still wants to be. Returns: whether it did. */
static bool commit(const struct oshm_buffer *buffer, const struct oshm_key *key,
                   struct seen claimed, uint64_t live)
{
    if (!atomic_compare_exchange_strong(&oshm_record_at(buffer, claimed.position)->state,
                                        &claimed.state, live)) /* seq_cst */
        return false;
    for (int i = 0; i < 2; i++)
        if (key->counts[i])
            atomic_fetch_add_explicit(key->counts[i], 1, memory_order_relaxed);
    return true;
}

/* Puts a record into a cell that was free. The reach grows first: of two claims of one key each looks for
 * others when its record is in its cell, and the later one to get there finds a reach that covers both.
 * Returns: whether the cell was still as it was found. */
static bool publish(const struct oshm_buffer *buffer, uint64_t hash, const struct found *found,
                    uint64_t position)
{
    uint64_t distance = (found->cell - hash) & (buffer->at.cells - 1), there = found->there;
    oshm_atomic_u64 *reach = &buffer->header->reach;
    uint64_t now = atomic_load(reach);
    while (now < distance && !atomic_compare_exchange_weak(reach, &now, distance))
        ;
    return atomic_compare_exchange_strong( /* seq_cst: see probe */
        &buffer->index[found->cell], &there,
        (hash >> OSHM_CELL_TAG_SHIFT) << OSHM_CELL_TAG_SHIFT | position);
}

/* Since cells are used again, two claims of one key may publish in different cells. So a record is
 * published as claimed first. Who then goes over all cells of the key and finds no live one makes the
 * first claimed one live, if that was there before the pass began, and has refused all claimed ones
 * behind it; each by one CAS of that record's state, so at most one gets live, whoever is killed when.
 * mine: a record that was made for it and is not published, 0 for none. */
static int claim(struct oshm_buffer *buffer, const struct oshm_key *key, struct seen *out,
                 uint64_t *mine)
{
    uint64_t hash = hash_key(key);
    struct seen keep = {0};
    for (int pass = 0; pass < OSHM_CLAIM_PASSES; pass++) {
        struct found found;
        int status = probe(buffer, key, hash, keep, &found);
        if (status != OSHM_OK)
            return status;
        if (found.live.position == 0 && found.claimed.position != 0) {
            uint64_t live = oshm_state_word(oshm_generation(found.claimed.state), OSHM_LIVE);
            if (same(found.claimed, keep) && commit(buffer, key, keep, live))
                found.live = (struct seen){keep.position, live};
        }
        if (found.live.position != 0) {
            *out = found.live;
            return OSHM_OK;
        }
        if (found.claimed.position != 0) {
            keep = found.claimed;
            continue;
        }
        if (is_full(key))
            return OSHM_FULL_SERIES;
        if (*mine == 0 && !(key->reusable && write_anew(buffer, key, hash, mine))) {
            *mine = 0;
            status = append(buffer, key, hash, OSHM_CLAIMED, mine);
            if (status != OSHM_OK)
                return status;
        }
        keep = (struct seen){
            *mine,
            atomic_load_explicit(&oshm_record_at(buffer, *mine)->state, memory_order_relaxed)};
        if (publish(buffer, hash, &found, *mine))
            *mine = 0; /* from then on others decide about it too */
        else
            keep = (struct seen){0};
    }
    return OSHM_DAMAGED;
}

int oshm_record_claim(struct oshm_buffer *buffer, const struct oshm_key *key, uint64_t *position,
                      uint64_t *state)
{
    struct seen found = {0};
    uint64_t mine = 0;
    if (key->length > buffer->record_bytes)
        return OSHM_FULL_RECORDS;
    int status = claim(buffer, key, &found, &mine);
    if (mine != 0 && key->reusable) { /* another was faster, and this one was never published */
        oshm_atomic_u64 *word = &oshm_record_at(buffer, mine)->state;
        uint64_t generation = oshm_generation(atomic_load_explicit(word, memory_order_relaxed));
        atomic_store(word, oshm_state_word(generation, OSHM_RETIRED));
        oshm_record_recycle(buffer, key->reusable, mine);
    }
    *position = found.position;
    if (state)
        *state = found.state;
    return status;
}
