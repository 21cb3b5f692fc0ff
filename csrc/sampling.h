/* SPDX-License-Identifier: Apache-2.0
 *
 * What a module has to know to answer whether a span is sampled: the state of sampled.h.
 */
#pragma once

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>

#include "atomic.h"

enum { REMEMBERED_CONTEXTS = 8 };

struct remembered {
    PyObject *weak;  /* reference to a Context */
    Py_ssize_t size; /* of the same: the oldest APIs let one grow */
    int sampled;
};

struct sampling {
    /* Of otel_shm/sampled.py: functions, types, and the keys of a span in a context and of its
     * SpanContext in a span. */
    PyObject *ask, *current_variable, *keeps_context;
    PyObject *context_type, *span_context_type, *trace_flags_type, *api_span_type;
    PyObject *span_key, *kept_name;
    PyObject *globals; /* the dict of opentelemetry.context, which names the runtime context */
    /* Found out. */
    PyObject *variable; /* holds the current context; NULL: only get_current() knows that */
    uint64_t version;   /* of globals when variable was found */
    bool watched;       /* a later runtime context will be noticed */
    int watcher;
    _Atomic(PyObject *) sdk_span_type; /* NULL until the first span of the SDK is met */
#ifndef Py_GIL_DISABLED
    struct remembered remembered[REMEMBERED_CONTEXTS];
    unsigned missed;
#endif
};

static const struct {
    const char *name;
    size_t at;
} sampling_parts[] = {
    {"ask", offsetof(struct sampling, ask)},
    {"current_variable", offsetof(struct sampling, current_variable)},
    {"keeps_context", offsetof(struct sampling, keeps_context)},
    {"CONTEXT", offsetof(struct sampling, context_type)},
    {"SPAN_CONTEXT", offsetof(struct sampling, span_context_type)},
    {"TRACE_FLAGS", offsetof(struct sampling, trace_flags_type)},
    {"API_SPAN", offsetof(struct sampling, api_span_type)},
    {"SPAN_KEY", offsetof(struct sampling, span_key)},
    {"KEPT_NAME", offsetof(struct sampling, kept_name)},
    {"GLOBALS", offsetof(struct sampling, globals)},
};
enum { SAMPLING_PARTS = sizeof(sampling_parts) / sizeof(sampling_parts[0]) };

/* A number that changes whenever opentelemetry.context gets another runtime context. */
#if PY_VERSION_HEX >= 0x030c0000
static _Atomic uint64_t runtime_changes; /* of every interpreter: one too many does no harm */
#define RUNTIME_VERSION(s) atomic_load_explicit(&runtime_changes, memory_order_acquire)

static int runtime_changing(PyDict_WatchEvent event, PyObject *dict, PyObject *key, PyObject *value)
{
    (void)event, (void)dict, (void)value;
    if (key == NULL || !PyUnicode_Check(key) ||
        PyUnicode_CompareWithASCIIString(key, "_RUNTIME_CONTEXT") == 0)
        atomic_fetch_add(&runtime_changes, 1);
    return 0;
}
#else
#define RUNTIME_VERSION(s) (((PyDictObject *)(s)->globals)->ma_version_tag)
#endif

#ifndef Py_GIL_DISABLED
static inline struct remembered *sampling_slot(struct sampling *s, const PyObject *context)
{
    return &s->remembered[((uintptr_t)context >> 5) % REMEMBERED_CONTEXTS];
}
#endif

static inline PyObject **sampling_part(struct sampling *s, size_t i)
{
    return (PyObject **)(void *)((char *)s + sampling_parts[i].at);
}

/* Ends a failed question. Returns: 0 for an Exception, -1 with what the application must get. */
static int sampling_failed(void)
{
    if (!PyErr_ExceptionMatches(PyExc_Exception))
        return -1; /* KeyboardInterrupt and the like */
    PyErr_Clear();
    return 0;
}

/* Finds the variable of the runtime context. Returns: whether it has one; -1 with an exception. */
static int sampling_find_variable(struct sampling *s)
{
    uint64_t version = RUNTIME_VERSION(s);
    PyObject *found = PyObject_CallNoArgs(s->current_variable);
    if (found == NULL && sampling_failed() < 0)
        return -1;
    if (found && !PyContextVar_CheckExact(found))
        Py_CLEAR(found); /* None */
    Py_XSETREF(s->variable, found);
    s->version = version;
    return s->variable != NULL;
}

/* Fills a state of zeros. Returns: 0, or -1 with an exception. */
static int sampling_init(struct sampling *s)
{
    PyObject *module = PyImport_ImportModule("otel_shm.sampled");
    if (module == NULL)
        return -1;
    for (size_t i = 0; i < SAMPLING_PARTS; i++) {
        PyObject *part = PyObject_GetAttrString(module, sampling_parts[i].name);
        if (part == NULL) {
            Py_DECREF(module);
            return -1;
        }
        *sampling_part(s, i) = part;
    }
    Py_DECREF(module);
    s->watched = true;
#if PY_VERSION_HEX >= 0x030c0000
    s->watcher = PyDict_AddWatcher(runtime_changing);
    s->watched = s->watcher >= 0 && PyDict_Watch(s->watcher, s->globals) == 0;
    if (!s->watched) { /* somebody has all the watchers: the filter is asked every time */
        PyErr_Clear();
        return 0;
    }
#endif
    return sampling_find_variable(s) < 0 ? -1 : 0;
}

static int sampling_traverse(struct sampling *s, visitproc visit, void *arg)
{
    for (size_t i = 0; i < SAMPLING_PARTS; i++)
        Py_VISIT(*sampling_part(s, i));
    Py_VISIT(s->variable);
    Py_VISIT(atomic_load(&s->sdk_span_type));
#ifndef Py_GIL_DISABLED
    for (size_t i = 0; i < REMEMBERED_CONTEXTS; i++)
        Py_VISIT(s->remembered[i].weak);
#endif
    return 0;
}

/* Leaves a state in which nothing is sampled. */
static void sampling_clear(struct sampling *s)
{
#if PY_VERSION_HEX >= 0x030c0000
    if (s->watched && (PyDict_Unwatch(s->watcher, s->globals) < 0 ||
                       PyDict_ClearWatcher(s->watcher) < 0))
        PyErr_Clear();
#endif
    s->watched = false;
    Py_CLEAR(s->variable);
    for (size_t i = 0; i < SAMPLING_PARTS; i++)
        Py_CLEAR(*sampling_part(s, i));
    Py_XDECREF(atomic_exchange(&s->sdk_span_type, NULL));
#ifndef Py_GIL_DISABLED
    for (size_t i = 0; i < REMEMBERED_CONTEXTS; i++)
        Py_CLEAR(s->remembered[i].weak);
#endif
}
