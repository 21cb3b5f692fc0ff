/* SPDX-License-Identifier: Apache-2.0
 *
 * An instrument's call: from its arguments to one atomic operation.
 *
 * An instrument keeps the address of its attribute-free series and a table for the others. A bound
 * instrument keeps one address. The addresses live as long as the mapping, which it keeps. What is
 * out of the ordinary goes to a method of the instrument's Description (description.py):
 *
 *   amount_not_finite(amount), amount_negative(amount)   the measurement is ignored
 *   clean_attributes(attributes) -> dict                 odd attributes, made legal
 *   attribute_dropped(key, error)                        a value OTLP cannot carry
 *   overflowed(status)                                   the series has no slots of its own
 */
#pragma once

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "amount.h"
#include "attribute_bytes.h"
#include "attribute_table.h"

#if PY_VERSION_HEX >= 0x030d0000
#define BEGIN_EXCLUSIVE(a, b) Py_BEGIN_CRITICAL_SECTION2(a, b)
#define END_EXCLUSIVE() Py_END_CRITICAL_SECTION2()
#else /* the GIL does it */
#define BEGIN_EXCLUSIVE(a, b) {
#define END_EXCLUSIVE() }
#endif

typedef struct {
    PyObject_HEAD
    PyObject *owner;            /* the Buffer */
    PyObject *mapping;          /* its cdata, which unmaps when nobody has it any more */
    PyObject *described;        /* the Description */
    PyObject *name, *unit, *description, *scope; /* of it, for readers of the attributes */
    struct oshm_buffer *buffer; /* NULL until __init__ */
    unsigned long long record;  /* position of the instrument's record; 0 = it has no place */
    oshm_target plain;          /* the attribute-free series; run is NULL until it is measured */
    struct table table;
    PyObject *weak_references;
} Instrument;

typedef struct {
    PyObject_HEAD
    oshm_slot *run;     /* NULL until the first measurement, and for ever if that is refused */
    oshm_target target; /* where run points to once it may */
    Instrument *instrument;
} Bound;

/* What a call is: the method's name and what it does with an amount. */
enum operation { ADD_MONOTONIC, ADD, SET };

static inline void apply(oshm_slot *run, const struct amount *amount, enum operation operation)
{
    if (operation == SET) {
        if (amount->is_float)
            oshm_set_float(run, amount->real);
        else
            oshm_set_int(run, amount->whole);
    } else if (amount->is_float) {
        oshm_add_float(run, amount->real);
    } else {
        oshm_add_int(run, amount->whole);
    }
}

static inline void apply_to(const oshm_target *target, const struct amount *amount,
                            enum operation operation)
{
    apply(target->run, amount, operation);
    if (OSHM_UNLIKELY(target->refused != NULL))
        oshm_count(target->refused);
}

/* Reads and judges an amount. Returns: 1 to go on, 0 to ignore it, -1 with an exception. */
static inline int accept(const Instrument *instrument, PyObject *number, struct amount *amount,
                         enum operation operation)
{
    const char *refusal;
    if (OSHM_UNLIKELY(amount_read(number, amount) < 0))
        return -1;
    if (OSHM_UNLIKELY(!amount_finite(amount)))
        refusal = "amount_not_finite";
    else if (operation == ADD_MONOTONIC && OSHM_UNLIKELY(amount_negative(amount)))
        refusal = "amount_negative";
    else
        return 1;
    PyObject *told = PyObject_CallMethod(instrument->described, refusal, "O", number);
    Py_XDECREF(told);
    return told ? 0 : -1;
}

/* Claims the series of a dict of clean attributes that nobody else can change, and remembers it.
 * Returns: 0, or -1 with an exception. */
static int claim(Instrument *self, PyObject *clean, bool measured, oshm_target *target)
{
    struct bytes key;
    bytes_init(&key);
    if (clean && put_mapping(&key, clean, self->described, 0) < 0) {
        bytes_free(&key);
        return -1;
    }
    int status = oshm_series_claim(self->buffer, self->record, key.data, key.length, measured,
                                   target);
    bytes_free(&key);
    struct attributes set;
    if (measured && clean && PyDict_GET_SIZE(clean) > 0) {
        if (attributes_read(clean, &set))
            table_add(&self->table, &set, target);
    } else if (measured) {
        self->plain = *target;
    }
    if (status == OSHM_OK)
        return 0;
    PyObject *told = PyObject_CallMethod(self->described, "overflowed", "i", status);
    Py_XDECREF(told);
    return told ? 0 : -1;
}

/* The way for a first use and for attributes the table does not answer for. */
static int resolve_slowly(Instrument *self, PyObject *attributes, bool measured, oshm_target *target)
{
    struct attributes set;
    PyObject *clean = NULL;
    if (attributes != NULL && attributes != Py_None) {
        clean = PyDict_CheckExact(attributes) ? PyDict_Copy(attributes) : NULL;
        if (clean == NULL && PyErr_Occurred())
            return -1;
        if (clean == NULL || !attributes_read(clean, &set)) {
            Py_XDECREF(clean);
            clean = PyObject_CallMethod(self->described, "clean_attributes", "O", attributes);
            if (clean == NULL)
                return -1;
            if (!PyDict_CheckExact(clean)) {
                PyErr_SetString(PyExc_TypeError, "clean_attributes must return a dict");
                Py_DECREF(clean);
                return -1;
            }
        }
    }
    int result;
    BEGIN_EXCLUSIVE((PyObject *)self, clean ? clean : Py_None)
    result = claim(self, clean, measured, target);
    END_EXCLUSIVE()
    Py_XDECREF(clean);
    return result;
}

/* Measures if the series is known: the usual way, without an allocation or a claim.
 * Returns: whether it did. */
static inline bool measure_known(Instrument *self, PyObject *attributes,
                                 const struct amount *amount, enum operation operation)
{
    const oshm_target *target = NULL;
    if (attributes == NULL || attributes == Py_None) {
        if (OSHM_UNLIKELY(self->plain.run == NULL))
            return false;
        apply_to(&self->plain, amount, operation);
        return true;
    }
    if (OSHM_UNLIKELY(!PyDict_CheckExact(attributes)))
        return false;
    BEGIN_EXCLUSIVE(attributes, (PyObject *)self)
    struct attributes set;
    if (attributes_read(attributes, &set))
        target = set.count                ? table_find(&self->table, &set)
                 : self->plain.run != NULL ? &self->plain
                                           : NULL;
    if (OSHM_LIKELY(target != NULL))
        apply_to(target, amount, operation);
    END_EXCLUSIVE()
    return target != NULL;
}

/* Reads (amount, attributes=None, context=None), positional or keyword; with first_only a bound
 * instrument's (amount, context=None). Returns: 0, or -1 with TypeError. */
static int read_arguments(const char *method, bool first_only, PyObject *const *values,
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

static inline PyObject *measure(Instrument *self, PyObject *const *values, Py_ssize_t count,
                                PyObject *names, enum operation operation)
{
    PyObject *number, *attributes;
    struct amount amount;
    if (OSHM_LIKELY(names == NULL && count >= 1 && count <= 3)) {
        number = values[0];
        attributes = count > 1 ? values[1] : NULL;
    } else {
        PyObject *arguments[3] = {NULL, NULL, NULL};
        if (read_arguments(operation == SET ? "set" : "add", false, values, count, names,
                           arguments) < 0)
            return NULL;
        number = arguments[0];
        attributes = arguments[1];
    }
    int accepted = accept(self, number, &amount, operation);
    if (OSHM_UNLIKELY(accepted < 0))
        return NULL;
    if (OSHM_LIKELY(accepted) &&
        OSHM_UNLIKELY(!measure_known(self, attributes, &amount, operation))) {
        oshm_target target;
        if (resolve_slowly(self, attributes, true, &target) < 0)
            return NULL;
        apply_to(&target, &amount, operation);
    }
    Py_RETURN_NONE;
}

/* A bound instrument's first measurement, and every one of a refused series. */
static void measure_first(Bound *self, const struct amount *amount, enum operation operation)
{
    oshm_series_start(self->instrument->buffer, &self->target);
    apply_to(&self->target, amount, operation);
    if (self->target.refused == NULL)
        self->run = self->target.run;
}

static inline PyObject *measure_bound(Bound *self, PyObject *const *values, Py_ssize_t count,
                                      PyObject *names, enum operation operation)
{
    PyObject *number;
    struct amount amount;
    if (OSHM_LIKELY(names == NULL && count == 1)) {
        number = values[0];
    } else {
        PyObject *arguments[3] = {NULL, NULL, NULL};
        if (read_arguments(operation == SET ? "set" : "add", true, values, count, names,
                           arguments) < 0)
            return NULL;
        number = arguments[0];
    }
    int accepted = accept(self->instrument, number, &amount, operation);
    if (OSHM_UNLIKELY(accepted < 0))
        return NULL;
    if (OSHM_LIKELY(accepted)) {
        if (OSHM_LIKELY(self->run != NULL))
            apply(self->run, &amount, operation);
        else
            measure_first(self, &amount, operation);
    }
    Py_RETURN_NONE;
}
