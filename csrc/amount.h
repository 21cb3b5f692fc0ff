/* SPDX-License-Identifier: Apache-2.0
 *
 * The amount of a measurement, from any Python number: int or double, as the SDK sees it.
 */
#pragma once

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <math.h>

#include "slot.h"

struct amount {
    bool is_float;
    int64_t whole;
    double real;
};

/* Numbers that are no plain int or float. As math.isfinite() does: what has no __float__ or
 * __index__ raises TypeError, an int past the doubles OverflowError. What has __index__ counts as an
 * int (bool, IntEnum, numpy integers), the rest as its double (Decimal, Fraction, and the scalars of
 * numpy and torch that have an __index__ but raise TypeError from it). */
static int amount_convert(PyObject *number, struct amount *out)
{
    out->real = PyFloat_AsDouble(number);
    if (out->real == -1.0 && PyErr_Occurred())
        return -1;
    out->is_float = true;
    if (PyFloat_Check(number) || !PyIndex_Check(number))
        return 0;
    PyObject *index = PyNumber_Index(number);
    if (index == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_TypeError))
            return -1;
        PyErr_Clear();
        return 0;
    }
    int overflow;
    out->whole = PyLong_AsLongLongAndOverflow(index, &overflow);
    Py_DECREF(index);
    out->is_float = overflow != 0; /* past int64: as a double */
    return 0;
}

/* An int of one digit, nearly every amount there is, without a call. */
static inline bool amount_small(PyObject *number, int64_t *out)
{
    PyLongObject *small = (PyLongObject *)number;
#if PY_VERSION_HEX >= 0x030c0000
    if (!PyUnstable_Long_IsCompact(small))
        return false;
    *out = PyUnstable_Long_CompactValue(small);
#else
    Py_ssize_t sign = Py_SIZE(small); /* and number of digits */
    if (sign < -1 || sign > 1)
        return false;
    *out = sign * (int64_t)small->ob_digit[0];
#endif
    return true;
}

/* Returns: 0, or -1 with an exception, which the caller of the instrument gets. */
static inline int amount_read(PyObject *number, struct amount *out)
{
    if (OSHM_LIKELY(PyLong_CheckExact(number))) {
        out->is_float = false;
        if (OSHM_LIKELY(amount_small(number, &out->whole)))
            return 0;
        int overflow;
        out->whole = PyLong_AsLongLongAndOverflow(number, &overflow);
        return OSHM_LIKELY(overflow == 0) ? 0 : amount_convert(number, out);
    }
    if (PyFloat_CheckExact(number)) {
        out->real = PyFloat_AS_DOUBLE(number);
        out->is_float = true;
        return 0;
    }
    return amount_convert(number, out);
}

static inline bool amount_finite(const struct amount *amount)
{
    return !amount->is_float || isfinite(amount->real);
}

static inline bool amount_negative(const struct amount *amount)
{
    return amount->is_float ? amount->real < 0 : amount->whole < 0;
}
