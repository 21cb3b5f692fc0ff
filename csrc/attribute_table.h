/* SPDX-License-Identifier: Apache-2.0
 *
 * An instrument's process-local table: attributes -> where to add.
 *
 * It answers for dicts of exact str keys and str, int, bool, float or None values, which is nearly all
 * there is; other attributes are looked up in the buffer each time. The hash is built from the cached
 * hashes of the strings and does not depend on the order of the attributes. An entry that has the same
 * hash is compared in full, identical objects first: types count, so 1, True and 1.0 differ, while
 * 0.0 and -0.0, and all NaNs, are the same.
 *
 * The table is bounded: when it is full it is emptied and fills up again, so an endless stream of new
 * attribute sets costs a claim each and no memory. It holds exact built-in types only, so comparing
 * and dropping its objects never runs anybody's Python code.
 */
#pragma once

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "slot.h"

#include "binding.h"

#define TABLE_ATTRIBUTES 16 /* larger attribute sets are looked up in the buffer */
#define TABLE_ENTRIES 8192  /* sets an instrument's table holds at most */

/* A set of attributes as it came, borrowed from the caller's dict. */
struct attributes {
    uint64_t hash;
    Py_ssize_t count;
    PyObject *pairs[2 * TABLE_ATTRIBUTES]; /* key, value, key, value, ... */
};

/* Where to add: one target a stream of the instrument. */
struct targets {
    Py_ssize_t count;
    oshm_target at[];
};

struct entry {
    uint64_t hash;
    struct targets *targets; /* owned */
    Py_ssize_t count;
    PyObject *pairs[]; /* owned */
};

struct table {
    struct entry **entries; /* open addressing; NULL where empty */
    size_t capacity;        /* a power of two, or 0 */
    size_t count;
};

static inline uint64_t mix(uint64_t hash)
{
    hash = (hash ^ hash >> 32) * 0x9e3779b97f4a7c15u;
    return hash ^ hash >> 29;
}

static inline uint64_t str_hash(PyObject *text)
{
    Py_hash_t cached = ((PyASCIIObject *)text)->hash;
    return (uint64_t)(cached != -1 ? cached : PyObject_Hash(text));
}

/* Returns: whether the value is of a type the table knows. */
static inline bool value_hash(PyObject *value, uint64_t *hash)
{
    PyTypeObject *type = Py_TYPE(value);
    if (OSHM_LIKELY(type == &PyUnicode_Type)) {
        *hash = str_hash(value);
    } else if (type == &PyLong_Type) {
        *hash = (uint64_t)PyObject_Hash(value) ^ 0x1000;
    } else if (type == &PyBool_Type) {
        *hash = value == Py_True ? 0x2001 : 0x2000;
    } else if (type == &PyFloat_Type) {
        double number = PyFloat_AS_DOUBLE(value) + 0.0;
        if (number != number)
            number = Py_NAN;
        memcpy(hash, &number, sizeof *hash);
        *hash ^= 0x3000;
    } else if (value == Py_None) {
        *hash = 0x4000;
    } else {
        return false;
    }
    return true;
}

/* Reads a dict. Returns: false if the table does not answer for it. */
static inline bool attributes_read(PyObject *dict, struct attributes *out)
{
    Py_ssize_t position = 0, n = 0;
    PyObject *key, *value;
    uint64_t sum = 0, hash;
    if (PyDict_GET_SIZE(dict) > TABLE_ATTRIBUTES)
        return false;
    while (n < TABLE_ATTRIBUTES && PyDict_Next(dict, &position, &key, &value)) {
        if (OSHM_UNLIKELY(Py_TYPE(key) != &PyUnicode_Type || PyUnicode_GET_LENGTH(key) == 0) ||
            OSHM_UNLIKELY(!value_hash(value, &hash)))
            return false;
        sum += mix(str_hash(key) + hash * 0xbf58476d1ce4e5b9u);
        out->pairs[2 * n] = key;
        out->pairs[2 * n + 1] = value;
        n++;
    }
    out->count = n;
    out->hash = mix(sum + (uint64_t)n);
    return true;
}

static inline bool same_str(PyObject *a, PyObject *b)
{
    return a == b || (PyUnicode_GET_LENGTH(a) == PyUnicode_GET_LENGTH(b) &&
                      PyUnicode_KIND(a) == PyUnicode_KIND(b) &&
                      memcmp(PyUnicode_DATA(a), PyUnicode_DATA(b),
                             (size_t)(PyUnicode_GET_LENGTH(a) * PyUnicode_KIND(a))) == 0);
}

static inline bool same_value(PyObject *a, PyObject *b)
{
    if (a == b)
        return true;
    if (Py_TYPE(a) != Py_TYPE(b))
        return false;
    if (PyUnicode_CheckExact(a))
        return same_str(a, b);
    if (PyLong_CheckExact(a))
        return PyObject_RichCompareBool(a, b, Py_EQ) == 1;
    if (PyFloat_CheckExact(a)) {
        double left = PyFloat_AS_DOUBLE(a), right = PyFloat_AS_DOUBLE(b);
        return left == right || (left != left && right != right);
    }
    return false; /* None and bools are singletons */
}

/* Returns: whether an entry is this set. Same order first: callers rarely change theirs. */
static inline bool entry_matches(const struct entry *entry, const struct attributes *wanted)
{
    if (entry->hash != wanted->hash || entry->count != wanted->count)
        return false;
    for (Py_ssize_t i = 0; i < wanted->count; i++) {
        PyObject *key = wanted->pairs[2 * i];
        Py_ssize_t at = i;
        if (!same_str(entry->pairs[2 * i], key))
            for (at = 0; at < entry->count && !same_str(entry->pairs[2 * at], key); at++)
                ;
        if (at == entry->count || !same_value(entry->pairs[2 * at + 1], wanted->pairs[2 * i + 1]))
            return false;
    }
    return true;
}

static void targets_free(struct targets *targets)
{
    for (Py_ssize_t i = 0; targets && i < targets->count; i++)
        oshm_target_release(&targets->at[i]);
    PyMem_Free(targets);
}

/* Returns: the targets of the set, or NULL if the table does not have it. */
static inline const struct targets *table_find(const struct table *table,
                                            const struct attributes *wanted)
{
    if (table->capacity == 0)
        return NULL;
    for (size_t i = wanted->hash & (table->capacity - 1); table->entries[i];
         i = (i + 1) & (table->capacity - 1))
        if (entry_matches(table->entries[i], wanted))
            return table->entries[i]->targets;
    return NULL;
}

static void entry_free(struct entry *entry)
{
    for (Py_ssize_t i = 0; i < 2 * entry->count; i++)
        Py_DECREF(entry->pairs[i]);
    targets_free(entry->targets);
    PyMem_Free(entry);
}

static void table_clear(struct table *table)
{
    struct entry **entries = table->entries;
    size_t capacity = table->capacity;
    *table = (struct table){0};
    for (size_t i = 0; i < capacity; i++)
        if (entries[i])
            entry_free(entries[i]);
    PyMem_Free(entries);
}

static void table_put(struct table *table, struct entry *entry)
{
    size_t i = entry->hash & (table->capacity - 1);
    while (table->entries[i])
        i = (i + 1) & (table->capacity - 1);
    table->entries[i] = entry;
}

static bool table_grow(struct table *table)
{
    struct table larger = {.capacity = table->capacity ? table->capacity * 2 : 8,
                           .count = table->count};
    larger.entries = PyMem_Calloc(larger.capacity, sizeof *larger.entries);
    if (larger.entries == NULL)
        return false;
    for (size_t i = 0; i < table->capacity; i++)
        if (table->entries[i])
            table_put(&larger, table->entries[i]);
    PyMem_Free(table->entries);
    *table = larger;
    return true;
}

/* Lets go of the series that are to retire. */
static void table_sweep(struct table *table)
{
    struct table kept = {.capacity = table->capacity};
    if (table->capacity == 0)
        return;
    kept.entries = PyMem_Calloc(kept.capacity, sizeof *kept.entries);
    if (kept.entries == NULL)
        return; /* at the next sweep, then */
    struct table before = *table;
    *table = kept;
    for (size_t i = 0; i < before.capacity; i++) {
        struct entry *entry = before.entries[i];
        bool retires = false;
        for (Py_ssize_t t = 0; entry && t < entry->targets->count; t++)
            retires = retires || oshm_target_retires(&entry->targets->at[t]);
        if (entry == NULL)
            continue;
        if (retires) {
            entry_free(entry);
        } else {
            table_put(table, entry);
            table->count++;
        }
    }
    PyMem_Free(before.entries);
}

/* Remembers the targets of a set, at most half full; they are the table's from then on.
 * Returns: whether it does. Without memory it just does not. */
static bool table_add(struct table *table, const struct attributes *set, struct targets *targets)
{
    if (table_find(table, set))
        return false; /* a claim ran Python code that added it meanwhile */
    if (table->count >= TABLE_ENTRIES)
        table_clear(table);
    if ((table->count + 1) * 2 > table->capacity && !table_grow(table))
        return false;
    size_t objects = (size_t)(2 * set->count);
    struct entry *entry = PyMem_Malloc(sizeof *entry + objects * sizeof entry->pairs[0]);
    if (entry == NULL)
        return false;
    entry->hash = set->hash;
    entry->targets = targets;
    entry->count = set->count;
    for (size_t i = 0; i < objects; i++)
        entry->pairs[i] = Py_NewRef(set->pairs[i]);
    table_put(table, entry);
    table->count++;
    return true;
}
