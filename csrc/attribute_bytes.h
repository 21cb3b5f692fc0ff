/* SPDX-License-Identifier: Apache-2.0
 *
 * Attributes of Python as the bytes of a series' key: an OTLP KeyValueList sorted by key, each level.
 *
 * The same bytes that protobuf's own serializer writes for the sorted message (a test compares them),
 * so the key of a series can be read back with any OTLP library. Types are told apart by their
 * AnyValue field, hence {"a": 1}, {"a": True}, {"a": 1.0} and {"a": "1"} are four series.
 */
#pragma once

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "slot.h"

/* Bytes that grow; the first ones on the stack. */
struct bytes {
    uint8_t *data;
    size_t length, capacity;
    uint8_t first[512];
};

static inline void bytes_init(struct bytes *out)
{
    out->data = out->first;
    out->first[0] = 0; /* an empty key is read as no bytes, but its address is passed on */
    out->length = 0;
    out->capacity = sizeof out->first;
}

/* Takes the content away; the memory is kept for the next. */
static inline void bytes_clear(struct bytes *out)
{
    out->length = 0;
}

static inline void bytes_free(struct bytes *out)
{
    if (out->data != out->first)
        PyMem_Free(out->data);
}

/* Makes room for more bytes. Returns: 0, or -1 with MemoryError set. */
static inline int bytes_reserve(struct bytes *out, size_t more)
{
    if (more <= out->capacity - out->length)
        return 0;
    size_t capacity = (out->length + more) * 2;
    uint8_t *data = PyMem_Malloc(capacity);
    if (data == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    memcpy(data, out->data, out->length);
    bytes_free(out);
    out->data = data;
    out->capacity = capacity;
    return 0;
}

static inline size_t write_varint(uint8_t *to, uint64_t value)
{
    size_t n = 0;
    while (value >= 0x80) {
        to[n++] = (uint8_t)(value | 0x80);
        value >>= 7;
    }
    to[n++] = (uint8_t)value;
    return n;
}

/* A length-delimited field. */
static inline int put_field(struct bytes *out, uint8_t tag, const void *data, size_t length)
{
    if (bytes_reserve(out, length + 11) < 0)
        return -1;
    out->data[out->length++] = tag;
    out->length += write_varint(out->data + out->length, length);
    memcpy(out->data + out->length, data, length);
    out->length += length;
    return 0;
}

/* Opens a message field; its content is written next, then close_message with what this returned.
 * Returns: where the content starts, or -1. One byte is left for the length, the usual case. */
static inline Py_ssize_t open_message(struct bytes *out, uint8_t tag)
{
    if (bytes_reserve(out, 2) < 0)
        return -1;
    out->data[out->length] = tag;
    out->length += 2;
    return (Py_ssize_t)out->length;
}

static inline int close_message(struct bytes *out, Py_ssize_t start)
{
    uint8_t prefix[10];
    size_t length = out->length - (size_t)start, bytes = write_varint(prefix, length);
    if (bytes_reserve(out, bytes) < 0)
        return -1;
    memmove(out->data + start + bytes - 1, out->data + start, length);
    memcpy(out->data + start - 1, prefix, bytes);
    out->length += bytes - 1;
    return 0;
}

/* Containers in containers: what is deeper would exceed what protobuf libraries agree to read back
 * (100 messages, and a container is two or three). As in attributes.py. */
#define ATTRIBUTE_DEPTH 30

static int put_mapping(struct bytes *out, PyObject *dict, PyObject *described, int depth);

/* The fields of an AnyValue. Returns: 0, or -1 with an exception: the value cannot be encoded. */
static int put_value(struct bytes *out, PyObject *value, int depth)
{
    if (value == Py_None)
        return 0; /* an AnyValue without a field */
    if (PyUnicode_Check(value)) {
        Py_ssize_t length;
        const char *text = PyUnicode_AsUTF8AndSize(value, &length);
        return text ? put_field(out, 0x0a, text, (size_t)length) : -1;
    }
    if (bytes_reserve(out, 11) < 0)
        return -1;
    if (PyBool_Check(value)) {
        out->data[out->length++] = 0x10;
        out->data[out->length++] = value == Py_True;
        return 0;
    }
    if (PyLong_Check(value)) {
        long long number = PyLong_AsLongLong(value);
        if (number == -1 && PyErr_Occurred())
            return -1;
        out->data[out->length++] = 0x18;
        out->length += write_varint(out->data + out->length, (uint64_t)number);
        return 0;
    }
    if (PyFloat_Check(value)) {
        double number = PyFloat_AS_DOUBLE(value) + 0.0; /* -0.0 is 0.0's series */
        if (number != number)
            number = Py_NAN; /* and all NaNs are one */
        out->data[out->length++] = 0x21;
        memcpy(out->data + out->length, &number, 8);
        out->length += 8;
        return 0;
    }
    if (PyBytes_Check(value))
        return put_field(out, 0x3a, PyBytes_AS_STRING(value), (size_t)PyBytes_GET_SIZE(value));

    if (!PyTuple_Check(value) && !PyDict_Check(value)) {
        PyErr_Format(PyExc_TypeError, "cannot encode an attribute value of type %s",
                     Py_TYPE(value)->tp_name);
        return -1;
    }
    if (depth == ATTRIBUTE_DEPTH) {
        PyErr_Format(PyExc_ValueError, "nested deeper than %d", ATTRIBUTE_DEPTH);
        return -1;
    }
    Py_ssize_t start = open_message(out, PyTuple_Check(value) ? 0x2a : 0x32);
    int failed = start < 0;
    if (!failed && PyDict_Check(value))
        failed = put_mapping(out, value, NULL, depth + 1) < 0;
    for (Py_ssize_t i = 0; !failed && PyTuple_Check(value) && i < PyTuple_GET_SIZE(value); i++) {
        Py_ssize_t item = open_message(out, 0x0a);
        failed = item < 0 || put_value(out, PyTuple_GET_ITEM(value, i), depth + 1) < 0 ||
                 close_message(out, item) < 0;
    }
    return failed ? -1 : close_message(out, start);
}

/* Takes the current exception away. Returns: it, a new reference, or NULL. */
static PyObject *take_exception(void)
{
#if PY_VERSION_HEX >= 0x030c0000
    return PyErr_GetRaisedException();
#else
    PyObject *type, *error, *traceback;
    PyErr_Fetch(&type, &error, &traceback);
    PyErr_NormalizeException(&type, &error, &traceback);
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    return error;
#endif
}

struct item {
    const char *key;
    Py_ssize_t length;
    PyObject *name, *value; /* borrowed from the dict */
};

static int by_key(const void *a, const void *b)
{
    const struct item *left = a, *right = b;
    size_t shorter = (size_t)(left->length < right->length ? left->length : right->length);
    int order = memcmp(left->key, right->key, shorter);
    return order ? order : (left->length > right->length) - (left->length < right->length);
}

static int put_item(struct bytes *out, const struct item *item, int depth)
{
    if (item->key == NULL) { /* a key that is no UTF-8: raises */
        return PyUnicode_AsUTF8AndSize(item->name, NULL) ? 0 : -1;
    }
    Py_ssize_t entry = open_message(out, 0x0a);
    if (entry < 0 || put_field(out, 0x0a, item->key, (size_t)item->length) < 0)
        return -1;
    Py_ssize_t value = open_message(out, 0x12);
    if (value < 0 || put_value(out, item->value, depth) < 0 || close_message(out, value) < 0)
        return -1;
    return close_message(out, entry);
}

/* The entries of a KeyValueList, from a dict of clean attributes with str keys that nobody else can
 * change. With a Description, an entry that cannot be encoded is left out and its
 * attribute_dropped(key, error) is told; without, the exception is set and -1 returned. */
static int put_mapping(struct bytes *out, PyObject *dict, PyObject *described, int depth)
{
    struct item few[16], *items = few;
    Py_ssize_t count = PyDict_GET_SIZE(dict), position = 0, n = 0;
    int result = 0;
    if (count > 16) {
        items = PyMem_New(struct item, (size_t)count);
        if (items == NULL) {
            PyErr_NoMemory();
            return -1;
        }
    }
    PyObject *name, *value;
    while (n < count && PyDict_Next(dict, &position, &name, &value)) {
        items[n].name = name;
        items[n].value = value;
        items[n].length = 0;
        items[n].key = PyUnicode_AsUTF8AndSize(name, &items[n].length);
        if (items[n].key == NULL)
            PyErr_Clear();
        n++;
    }
    qsort(items, (size_t)n, sizeof *items, by_key);
    for (Py_ssize_t i = 0; i < n && result == 0; i++) {
        size_t before = out->length;
        if (put_item(out, &items[i], depth) == 0)
            continue;
        if (described == NULL) {
            result = -1;
            break;
        }
        out->length = before;
        PyObject *error = take_exception();
        PyObject *told = PyObject_CallMethod(described, "attribute_dropped", "OO", items[i].name,
                                             error ? error : Py_None);
        result = told ? 0 : -1;
        Py_XDECREF(told);
        Py_XDECREF(error);
    }
    if (items != few)
        PyMem_Free(items);
    return result;
}
