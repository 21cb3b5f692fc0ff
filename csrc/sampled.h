/* SPDX-License-Identifier: Apache-2.0
 *
 * Whether a measurement is made in a sampled span: what the SDK's TraceBasedExemplarFilter says of
 * `context or get_current()`, for hardly more than the price of reading a ContextVar.
 *
 * What is out of the ordinary goes to otel_shm/sampled.py, and through it to that very filter. In the
 * ordinary a Context holds a span of the API or the SDK, and the answer never changes: contexts and
 * SpanContexts are immutable, and these spans keep theirs. So answers are remembered; but by weak
 * references, for nothing of an application may live longer because something was measured.
 *
 * Answering may run an application's code: nothing may be locked then.
 */
#pragma once

#include "sampling.h"

enum { MISSES_TO_REMEMBER = 8 };

/* Asks a function of sampled.py. Returns: 1 or 0, or -1 as is_sampled. */
static int sampling_ask(PyObject *function, PyObject *about)
{
    PyObject *answer = PyObject_CallOneArg(function, about);
    int is = answer ? PyObject_IsTrue(answer) : -1;
    Py_XDECREF(answer);
    return is < 0 ? sampling_failed() : is;
}

/* Returns: 1 or 0; -1, with or without an exception, for a span that has to be asked. */
static int sampling_flag(struct sampling *s, PyObject *span)
{
    PyObject *type = (PyObject *)Py_TYPE(span), *none = NULL;
    if (type != s->api_span_type &&
        type != atomic_load_explicit(&s->sdk_span_type, memory_order_acquire)) {
        if (strcmp(Py_TYPE(span)->tp_name, "_Span") != 0 ||
            sampling_ask(s->keeps_context, span) <= 0)
            return -1;
        if (atomic_compare_exchange_strong(&s->sdk_span_type, &none, type))
            Py_INCREF(type);
    }
    int sampled = -1;
    PyObject *kept = PyObject_GetAttr(span, s->kept_name);
    if (kept == NULL)
        PyErr_Clear();
    else if ((PyObject *)Py_TYPE(kept) == s->span_context_type && PyTuple_GET_SIZE(kept) > 3) {
        PyObject *flags = PyTuple_GET_ITEM(kept, 3); /* SpanContext.trace_flags */
        if ((PyObject *)Py_TYPE(flags) == s->trace_flags_type)
            sampled = (int)(PyLong_AsUnsignedLongMask(flags) & 1); /* TraceFlags.sampled */
    }
    Py_XDECREF(kept);
    return sampled;
}

/* Looks for the span in a Context. Returns: as sampling_flag. */
static int sampling_look(struct sampling *s, PyObject *context)
{
#if PY_VERSION_HEX >= 0x030d0000
    PyObject *span;
    (void)PyDict_GetItemRef(context, s->span_key, &span);
#else
    PyObject *span = Py_XNewRef(PyDict_GetItemWithError(context, s->span_key));
#endif
    if (span == NULL)
        return PyErr_Occurred() ? -1 : 0;
    int sampled = sampling_flag(s, span);
    Py_DECREF(span);
    return sampled;
}

/* Answers for a context that is not a remembered one. */
OSHM_APART int sampling_look_closely(struct sampling *s, PyObject *context)
{
    int sampled = -1;
    if (OSHM_LIKELY((PyObject *)Py_TYPE(context) == s->context_type)) {
        if (PyDict_GET_SIZE(context) == 0)
            return 0;
        sampled = sampling_look(s, context);
    }
    if (OSHM_UNLIKELY(sampled < 0))
        return PyErr_Occurred() ? sampling_failed() : sampling_ask(s->ask, context);
#ifndef Py_GIL_DISABLED /* where another thread may be reading what is overwritten */
    /* Many a context is seen once only, and then a weak reference costs more than it saves. */
    if (++s->missed % MISSES_TO_REMEMBER == 0) {
        struct remembered *remembered = sampling_slot(s, context);
        PyObject *reference = PyWeakref_NewRef(context, NULL);
        if (reference == NULL)
            PyErr_Clear();
        remembered->size = PyDict_GET_SIZE(context);
        remembered->sampled = sampled;
        Py_XSETREF(remembered->weak, reference);
    }
#endif
    return sampled;
}

static inline const PyThreadState *current_thread(void)
{
#if PY_VERSION_HEX >= 0x030d0000
    return PyThreadState_GetUnchecked();
#else
    return _PyThreadState_UncheckedGet();
#endif
}

/* Answers for a context that somebody holds. */
static inline int is_sampled_in(struct sampling *s, PyObject *context)
{
#ifndef Py_GIL_DISABLED
    const struct remembered *remembered = sampling_slot(s, context);
    if (remembered->weak && ((PyWeakReference *)remembered->weak)->wr_object == context &&
        remembered->size == PyDict_GET_SIZE(context))
        return remembered->sampled;
#endif
    return sampling_look_closely(s, context);
}

/* Whether the span of a measurement's context argument, or of the current context, is sampled.
 * Returns: 1 or 0, or -1 with an exception that no one but the application may catch. */
static inline int is_sampled(struct sampling *s, PyObject *context)
{
    if (OSHM_UNLIKELY(context != NULL && context != Py_None)) {
        int given = PyObject_IsTrue(context);
        if (given != 0)
            return given < 0 ? sampling_failed() : is_sampled_in(s, context);
    }
    if (OSHM_UNLIKELY(s->variable == NULL || s->version != RUNTIME_VERSION(s))) {
        int found = 0;
#ifndef Py_GIL_DISABLED /* another thread may be reading variable: the first one stays */
        if (s->watched && s->version != RUNTIME_VERSION(s))
            found = sampling_find_variable(s);
#endif
        if (found <= 0)
            return found < 0 ? -1 : s->ask ? sampling_ask(s->ask, Py_None) : 0;
    }
    /* A thread that never set any variable has no context object at all, and no span. */
    if (current_thread()->context == NULL)
        return 0;
    PyObject *current;
    if (PyContextVar_Get(s->variable, Py_None, &current) < 0)
        return sampling_failed();
    int sampled = current == Py_None ? 0 : is_sampled_in(s, current); /* None: nothing is attached */
    Py_DECREF(current);
    return sampled;
}
