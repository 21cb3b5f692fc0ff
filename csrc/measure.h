/* SPDX-License-Identifier: Apache-2.0
 *
 * An instrument's call: from its arguments to one atomic operation.
 *
 * An instrument keeps the targets of its attribute-free series, one a stream, and a table for the
 * others. A bound instrument keeps its targets. They live as long as the mapping and the streams, which
 * the instrument keeps. What is out of the ordinary goes to a method of the instrument's Description
 * (description.py):
 *
 *   amount_not_finite(amount), amount_negative(amount)   the measurement is ignored
 *   clean_attributes(attributes) -> dict                 odd attributes, made legal
 *   attribute_dropped(key, error)                        a value OTLP cannot carry
 *   overflowed(status)                                   the series has no slots of its own
 *   sampled(amount, attributes, context, series)         the measurement may become an exemplar
 */
#pragma once

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "amount.h"
#include "attribute_bytes.h"
#include "attribute_table.h"
#include "sampled.h"
#include "stream.h"

#if PY_VERSION_HEX >= 0x030d0000
#define BEGIN_EXCLUSIVE(a, b) Py_BEGIN_CRITICAL_SECTION2(a, b);
#define END_EXCLUSIVE() Py_END_CRITICAL_SECTION2()
#else /* the GIL does it */
#define BEGIN_EXCLUSIVE(a, b) {
#define END_EXCLUSIVE() }
#endif

/* One stream of an instrument. */
struct use {
    struct oshm_stream *stream; /* owned */
    PyObject *keep; /* keep(attributes) -> those the stream keeps, in a dict; NULL: all of them */
};

/* Which measurements may become exemplars, or that nothing is measured; as otel_shm/description.py
 * numbers them. */
enum mode { MODE_PLAIN = 0, MODE_TRACE_BASED = 1, MODE_ASK = 2, MODE_DISABLED = 3 };

/* Where nearly every measurement of one series ends: its run, and how its only stream aggregates.
 * run is NULL until the first measurement, and for ever where that says more: several streams, another
 * aggregation than the instrument's own, a refused series. */
struct short_way {
    oshm_slot *run;
    const struct oshm_stream *stream;
    const oshm_target *exponential; /* a histogram of that kind needs all of it; else NULL */
};

typedef struct {
    PyObject_HEAD
    PyObject *owner;            /* the Buffer */
    PyObject *mapping;          /* held: it is unmapped when nobody has this any more */
    PyObject *described;        /* the Description */
    PyObject *name, *unit, *description, *scope; /* of it, for readers of the attributes */
    struct oshm_buffer *buffer;
    struct sampling *sampling;  /* of the module, which the type keeps */
    struct use *uses;           /* the streams that are measured in now, and behind them */
    Py_ssize_t use_count;       /* those that were before: targets may still refer to them */
    Py_ssize_t opened;          /* both together */
    struct short_way way;       /* of the attribute-free series */
    struct targets *plain;      /* of the same; NULL until it is measured */
    struct table table;
    uint64_t swept;             /* number of the last sweep of it */
    uint8_t mode;               /* enum mode */
    PyObject *weak_references;
} Instrument;

typedef struct {
    PyObject_HEAD
    struct short_way way;
    Instrument *instrument;
    struct targets *targets;
    PyObject *attributes; /* clean, for exemplars; NULL for none */
} Bound;

/* What a call is: the method's name and which amounts it takes. */
enum operation { ADD_MONOTONIC, ADD, SET, RECORD };

static const char *const METHODS[] = {"add", "add", "set", "record"};

/* What each does where no view says otherwise. */
static const uint8_t OWN[] = {OSHM_ADD, OSHM_ADD_STAMPED, OSHM_SET, OSHM_RECORD_EXPLICIT};

/* The short way of targets that were measured. */
OSHM_INLINE struct short_way short_way(const struct targets *targets, enum operation operation)
{
    const oshm_target *only = &targets->at[0];
    bool exponential = operation == RECORD && only->operation == OSHM_RECORD_EXPONENTIAL;
    if (targets->count != 1 || only->refused != NULL ||
        (only->operation != OWN[operation] && !exponential))
        return (struct short_way){NULL, NULL, NULL};
    return (struct short_way){only->run, only->stream, exponential ? only : NULL};
}

/* Returns: OSHM_OK, or why the measurement went elsewhere. */
OSHM_INLINE int go(struct short_way way, const struct amount *amount, enum operation operation)
{
    if (operation == RECORD && way.exponential)
        return amount->is_float ? oshm_record_exponential(way.exponential, amount->real)
                                : oshm_record_exponential_int(way.exponential, amount->whole);
    if (amount->is_float)
        oshm_apply_float(way.run, way.stream, amount->real, OWN[operation]);
    else
        oshm_apply_int(way.run, way.stream, amount->whole, OWN[operation]);
    return OSHM_OK;
}

static inline int aggregate(const oshm_target *target, const struct amount *amount)
{
    return amount->is_float ? oshm_aggregate_float(target, amount->real)
                            : oshm_aggregate_int(target, amount->whole);
}

/* Tells the Description that a measurement or a series went to the overflow series.
 * Returns: 0, or -1 with an exception. */
OSHM_APART int tell_overflowed(const Instrument *self, int status)
{
    PyObject *told = PyObject_CallMethod(self->described, "overflowed", "i", status);
    Py_XDECREF(told);
    return told ? 0 : -1;
}

/* Measures in all targets, which is rarely more than one. Returns: OSHM_OK, or why it went elsewhere in one of them. */
OSHM_APART int aggregate_all(const struct targets *targets, const struct amount *amount)
{
    int status = OSHM_OK;
    for (Py_ssize_t i = 0; i < targets->count; i++) {
        int one = aggregate(&targets->at[i], amount);
        if (OSHM_UNLIKELY(one != OSHM_OK))
            status = one;
    }
    return status;
}

/* Reads and judges an amount. Returns: 1 to go on, 0 to ignore it, -1 with an exception. */
OSHM_INLINE int accept(const Instrument *instrument, PyObject *number, struct amount *amount,
                         enum operation operation)
{
    const char *refusal;
    if (OSHM_UNLIKELY(amount_read(number, amount) < 0))
        return -1;
    if (OSHM_UNLIKELY(!amount_finite(amount)))
        refusal = "amount_not_finite";
    else if ((operation == ADD_MONOTONIC || operation == RECORD) &&
             OSHM_UNLIKELY(amount_negative(amount)))
        refusal = "amount_negative";
    else
        return 1;
    PyObject *told = PyObject_CallMethod(instrument->described, refusal, "O", number);
    Py_XDECREF(told);
    return told ? 0 : -1;
}

/* Claims the series of one stream for a dict of clean attributes, NULL for none.
 * Returns: a status, or 1 with an exception. */
static int claim_one(Instrument *self, const struct use *use, PyObject *clean, bool measured,
                     struct bytes *key, oshm_target *target)
{
    PyObject *kept = NULL;
    bytes_clear(key);
    if (clean && use->keep) {
        kept = PyObject_CallOneArg(use->keep, clean);
        if (kept == NULL || !PyDict_CheckExact(kept)) {
            if (kept)
                PyErr_SetString(PyExc_TypeError, "what keeps attributes must return a dict");
            Py_XDECREF(kept);
            return 1;
        }
        clean = kept;
    }
    int failed = clean && put_mapping(key, clean, self->described, 0) < 0;
    Py_XDECREF(kept);
    return failed ? 1 : oshm_series_claim(use->stream, key->data, key->length, measured, target);
}

/* Claims the series of a dict of clean attributes that nobody else can change.
 * Returns: the targets, or NULL with an exception. */
static struct targets *claim(Instrument *self, PyObject *clean, bool measured)
{
    struct bytes key;
    Py_ssize_t count = self->use_count;
    int refused = OSHM_OK;
    struct targets *targets =
        PyMem_Calloc(1, sizeof *targets + (size_t)count * sizeof targets->at[0]);
    if (targets == NULL)
        return (struct targets *)PyErr_NoMemory();
    bytes_init(&key);
    /* The streams may be others when Python code has run: what is claimed then is just not complete. */
    for (Py_ssize_t i = 0; i < count && i < self->use_count; i++) {
        const struct use use = self->uses[i]; /* its stream stays open */
        Py_XINCREF(use.keep);
        int status = claim_one(self, &use, clean, measured, &key, &targets->at[i]);
        Py_XDECREF(use.keep);
        if (status > 0) {
            bytes_free(&key);
            targets_free(targets);
            return NULL;
        }
        targets->count++;
        if (status != OSHM_OK)
            refused = status;
    }
    bytes_free(&key);
    if (refused != OSHM_OK && tell_overflowed(self, refused) < 0) {
        targets_free(targets);
        return NULL;
    }
    return targets;
}

/* A dict of clean attributes that nobody else can change. Returns: 0, or -1 with an exception. */
static int clean_copy(Instrument *self, PyObject *attributes, PyObject **clean)
{
    struct attributes set;
    *clean = NULL;
    if (attributes == NULL || attributes == Py_None)
        return 0;
    if (PyDict_CheckExact(attributes)) {
        *clean = PyDict_Copy(attributes);
        if (*clean == NULL)
            return -1;
        if (attributes_read(*clean, &set))
            return 0;
        Py_CLEAR(*clean);
    }
    *clean = PyObject_CallMethod(self->described, "clean_attributes", "O", attributes);
    if (*clean && !PyDict_CheckExact(*clean)) {
        PyErr_SetString(PyExc_TypeError, "clean_attributes must return a dict");
        Py_CLEAR(*clean);
    }
    return *clean ? 0 : -1;
}

/* Remembers targets for the next measurement. Returns: whether it does. */
static bool remember(Instrument *self, PyObject *clean, struct targets *targets,
                     enum operation operation)
{
    struct attributes set;
    if (clean && PyDict_GET_SIZE(clean) > 0)
        return attributes_read(clean, &set) && table_add(&self->table, &set, targets);
    if (self->plain != NULL)
        return false;
    self->plain = targets;
    self->way = short_way(targets, operation);
    return true;
}

/* Tells the Description of a measurement that may become an exemplar; called with the targets that
 * it went to. Returns: 0, or -1 with an exception. */
static int offer(const Instrument *self, const struct targets *targets, PyObject *number,
                 PyObject *attributes, PyObject *context)
{
    PyObject *series = PyTuple_New(targets->count);
    for (Py_ssize_t i = 0; series && i < targets->count; i++) {
        PyObject *identity = PyLong_FromUnsignedLongLong(
            targets->at[i].series ? oshm_series_identity(self->buffer, targets->at[i].series) : 0);
        if (identity == NULL)
            Py_CLEAR(series);
        else
            PyTuple_SET_ITEM(series, i, identity);
    }
    if (series == NULL)
        return -1;
    PyObject *told = PyObject_CallMethod(self->described, "sampled", "OOOO", number,
                                         attributes ? attributes : Py_None,
                                         context ? context : Py_None, series);
    Py_DECREF(series);
    Py_XDECREF(told);
    return told ? 0 : -1;
}

/* Whether the measurement may become an exemplar. Returns: 1, 0, or -1 with an exception. */
static inline int is_eligible(const Instrument *self, PyObject *context)
{
    if (OSHM_LIKELY(self->mode == MODE_TRACE_BASED))
        return is_sampled(self->sampling, context);
    return self->mode == MODE_ASK;
}

/* A first use, attributes the table does not answer for, and what may become an exemplar.
 * Returns: 0, or -1 with an exception. */
OSHM_APART int measure_slowly(Instrument *self, PyObject *number, const struct amount *amount,
                          PyObject *attributes, PyObject *context, bool eligible,
                          enum operation operation)
{
    PyObject *clean;
    int result = -1, status = OSHM_OK;
    if (clean_copy(self, attributes, &clean) < 0)
        return -1;
    BEGIN_EXCLUSIVE((PyObject *)self, clean ? clean : Py_None)
    if (oshm_sweep_number(self->buffer) != self->swept) {
        self->swept = oshm_sweep_number(self->buffer);
        table_sweep(&self->table);
    }
    struct targets *targets = claim(self, clean, true);
    if (targets) {
        status = aggregate_all(targets, amount);
        result = eligible ? offer(self, targets, number, clean, context) : 0;
        if (!remember(self, clean, targets, operation))
            targets_free(targets);
    }
    END_EXCLUSIVE()
    Py_XDECREF(clean);
    if (result == 0 && status != OSHM_OK)
        result = tell_overflowed(self, status);
    return result;
}

/* Measures if the series is known: the usual way, without an allocation or a claim.
 * Returns: 1 if it did, 0 if not, -1 with an exception. */
OSHM_INLINE int measure_known(Instrument *self, PyObject *attributes,
                                const struct amount *amount, enum operation operation)
{
    const struct targets *targets = NULL;
    int status = OSHM_OK;
    if (attributes == NULL || attributes == Py_None) {
        targets = self->plain;
        if (OSHM_LIKELY(self->way.run != NULL))
            status = go(self->way, amount, operation);
        else if (targets != NULL)
            status = aggregate_all(targets, amount);
        else
            return 0;
    } else {
        if (OSHM_UNLIKELY(!PyDict_CheckExact(attributes)))
            return 0;
        BEGIN_EXCLUSIVE(attributes, (PyObject *)self)
        struct attributes set;
        if (attributes_read(attributes, &set))
            targets = set.count ? table_find(&self->table, &set) : self->plain;
        if (OSHM_LIKELY(targets != NULL)) {
            struct short_way way = short_way(targets, operation);
            status = OSHM_LIKELY(way.run != NULL) ? go(way, amount, operation)
                                                  : aggregate_all(targets, amount);
        }
        END_EXCLUSIVE()
        if (targets == NULL)
            return 0;
    }
    if (OSHM_UNLIKELY(status != OSHM_OK) && tell_overflowed(self, status) < 0)
        return -1;
    return 1;
}

/* Reads (amount, attributes=None, context=None), positional or keyword; with first_only a bound
 * instrument's (amount, context=None). Returns: 0, or -1 with TypeError. */
OSHM_APART int read_arguments(const char *method, bool first_only, PyObject *const *values,
                          Py_ssize_t positional, PyObject *names, PyObject *out[3])
{
    static const char *const all[] = {"amount", "attributes", "context"};
    static const char *const bound[] = {"amount", "context"};
    const char *const *expected = first_only ? bound : all;
    Py_ssize_t most = first_only ? 2 : 3, keywords = names ? PyTuple_GET_SIZE(names) : 0;
    if (positional > most) {
        PyErr_Format(PyExc_TypeError, "%s() takes at most %zd positional arguments (%zd given)",
                     method, most, positional);
        return -1;
    }
    for (Py_ssize_t i = 0; i < positional; i++)
        out[i] = values[i];
    for (Py_ssize_t k = 0; k < keywords; k++) {
        PyObject *name = PyTuple_GET_ITEM(names, k);
        Py_ssize_t i = 0;
        while (i < most && PyUnicode_CompareWithASCIIString(name, expected[i]) != 0)
            i++;
        if (i == most) {
            PyErr_Format(PyExc_TypeError, "%s() got an unexpected keyword argument '%U'", method,
                         name);
            return -1;
        }
        if (out[i] != NULL) {
            PyErr_Format(PyExc_TypeError, "%s() got multiple values for argument '%s'", method,
                         expected[i]);
            return -1;
        }
        out[i] = values[positional + k];
    }
    if (out[0] == NULL) {
        PyErr_Format(PyExc_TypeError, "%s() missing 1 required positional argument: 'amount'",
                     method);
        return -1;
    }
    return 0;
}

OSHM_INLINE PyObject *measure(Instrument *self, PyObject *const *values, Py_ssize_t count,
                                PyObject *names, enum operation operation)
{
    PyObject *number, *attributes, *context;
    struct amount amount;
    if (OSHM_LIKELY(names == NULL && count >= 1 && count <= 3)) {
        number = values[0];
        attributes = count > 1 ? values[1] : NULL;
        context = count > 2 ? values[2] : NULL;
    } else {
        PyObject *arguments[3] = {NULL, NULL, NULL};
        if (read_arguments(METHODS[operation], false, values, count, names, arguments) < 0)
            return NULL;
        number = arguments[0];
        attributes = arguments[1];
        context = arguments[2];
    }
    if (OSHM_UNLIKELY(self->mode == MODE_DISABLED))
        Py_RETURN_NONE;
    int accepted = accept(self, number, &amount, operation);
    if (OSHM_UNLIKELY(accepted <= 0)) {
        if (accepted < 0)
            return NULL;
        Py_RETURN_NONE;
    }
    if (OSHM_UNLIKELY(self->use_count == 0))
        Py_RETURN_NONE;
    int eligible = self->mode ? is_eligible(self, context) : 0;
    if (OSHM_LIKELY(eligible == 0)) {
        int known = measure_known(self, attributes, &amount, operation);
        if (OSHM_LIKELY(known > 0))
            Py_RETURN_NONE;
        if (known < 0)
            return NULL;
    }
    if (eligible < 0 || measure_slowly(self, number, &amount, attributes, context, eligible > 0,
                                       operation) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* A bound instrument's first measurement, every one that may become an exemplar, and all of them where
 * there is more than one stream or the series is refused. Returns: a status, or 1 with an exception. */
OSHM_APART int measure_bound_slowly(Bound *self, PyObject *number, const struct amount *amount,
                                PyObject *context, bool eligible, enum operation operation)
{
    struct targets *targets = self->targets;
    for (Py_ssize_t i = 0; i < targets->count; i++)
        oshm_series_start(&targets->at[i]);
    int status = aggregate_all(targets, amount);
    self->way = short_way(targets, operation);
    if (eligible && offer(self->instrument, targets, number, self->attributes, context) < 0)
        return 1;
    return status;
}

OSHM_INLINE PyObject *measure_bound(Bound *self, PyObject *const *values, Py_ssize_t count,
                                      PyObject *names, enum operation operation)
{
    PyObject *number, *context = NULL;
    struct amount amount;
    const Instrument *instrument = self->instrument;
    if (OSHM_LIKELY(names == NULL && count == 1)) {
        number = values[0];
    } else {
        PyObject *arguments[3] = {NULL, NULL, NULL};
        if (read_arguments(METHODS[operation], true, values, count, names, arguments) < 0)
            return NULL;
        number = arguments[0];
        context = arguments[1];
    }
    if (OSHM_UNLIKELY(instrument->mode == MODE_DISABLED))
        Py_RETURN_NONE;
    int accepted = accept(instrument, number, &amount, operation);
    if (OSHM_UNLIKELY(accepted <= 0)) {
        if (accepted < 0)
            return NULL;
        Py_RETURN_NONE;
    }
    int eligible = instrument->mode ? is_eligible(instrument, context) : 0, status = 1;
    if (OSHM_LIKELY(eligible == 0 && self->way.run != NULL))
        status = go(self->way, &amount, operation);
    else if (eligible >= 0)
        status = measure_bound_slowly(self, number, &amount, context, eligible > 0, operation);
    if (OSHM_UNLIKELY(status != OSHM_OK) &&
        (status > 0 || tell_overflowed(instrument, status) < 0))
        return NULL;
    Py_RETURN_NONE;
}
