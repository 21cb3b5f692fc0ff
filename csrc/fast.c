/* SPDX-License-Identifier: Apache-2.0
 *
 * The CPython types behind the instruments: module otel_shm._fast.
 *
 * What a call does is in measure.h; here are the types around it. They cannot be subclassed: the
 * interpreter's shortest way into a C method is for instances of exactly the method's type.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <structmember.h>

#include "measure.h"
#include "sampled.h"

typedef struct {
    PyTypeObject *bound_counter, *bound_up_down_counter, *bound_gauge, *bound_histogram;
    struct sampling sampling;
} module_state;

static PyObject *counter_add(PyObject *self, PyObject *const *values, Py_ssize_t count,
                             PyObject *names)
{
    return measure((Instrument *)self, values, count, names, ADD_MONOTONIC);
}

static PyObject *up_down_counter_add(PyObject *self, PyObject *const *values, Py_ssize_t count,
                                     PyObject *names)
{
    return measure((Instrument *)self, values, count, names, ADD);
}

static PyObject *gauge_set(PyObject *self, PyObject *const *values, Py_ssize_t count,
                           PyObject *names)
{
    return measure((Instrument *)self, values, count, names, SET);
}

static PyObject *histogram_record(PyObject *self, PyObject *const *values, Py_ssize_t count,
                                  PyObject *names)
{
    return measure((Instrument *)self, values, count, names, RECORD);
}

static PyObject *bound_counter_add(PyObject *self, PyObject *const *values, Py_ssize_t count,
                                   PyObject *names)
{
    return measure_bound((Bound *)self, values, count, names, ADD_MONOTONIC);
}

static PyObject *bound_up_down_counter_add(PyObject *self, PyObject *const *values,
                                           Py_ssize_t count, PyObject *names)
{
    return measure_bound((Bound *)self, values, count, names, ADD);
}

static PyObject *bound_gauge_set(PyObject *self, PyObject *const *values, Py_ssize_t count,
                                 PyObject *names)
{
    return measure_bound((Bound *)self, values, count, names, SET);
}

static PyObject *bound_histogram_record(PyObject *self, PyObject *const *values, Py_ssize_t count,
                                        PyObject *names)
{
    return measure_bound((Bound *)self, values, count, names, RECORD);
}

static PyObject *bind_as(Instrument *self, PyObject *attributes, PyTypeObject *type)
{
    PyObject *clean;
    struct targets *targets;
    if (clean_copy(self, attributes, &clean) < 0)
        return NULL;
    BEGIN_EXCLUSIVE((PyObject *)self, clean ? clean : Py_None)
    targets = claim(self, clean, false);
    END_EXCLUSIVE()
    Bound *bound = targets ? (Bound *)type->tp_alloc(type, 0) : NULL;
    if (bound == NULL) {
        targets_free(targets);
        Py_XDECREF(clean);
        return NULL;
    }
    bound->instrument = (Instrument *)Py_NewRef((PyObject *)self);
    bound->targets = targets;
    bound->attributes = clean;
    bound->way = (struct short_way){NULL, NULL, NULL};
    return (PyObject *)bound;
}

static PyObject *bind(PyObject *self, PyTypeObject *defining, PyObject *const *values,
                      Py_ssize_t count, PyObject *names, size_t bound_type)
{
    if (count + (names ? PyTuple_GET_SIZE(names) : 0) > 1 ||
        (names && PyTuple_GET_SIZE(names) == 1 &&
         PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(names, 0), "attributes") != 0)) {
        PyErr_SetString(PyExc_TypeError, "bind() takes one argument: attributes");
        return NULL;
    }
    char *state = PyType_GetModuleState(defining);
    PyTypeObject *type = *(PyTypeObject **)(void *)(state + bound_type);
    return bind_as((Instrument *)self,
                   count + (names ? PyTuple_GET_SIZE(names) : 0) ? values[0] : Py_None, type);
}

static PyObject *counter_bind(PyObject *self, PyTypeObject *defining, PyObject *const *values,
                              Py_ssize_t count, PyObject *names)
{
    return bind(self, defining, values, count, names, offsetof(module_state, bound_counter));
}

static PyObject *up_down_counter_bind(PyObject *self, PyTypeObject *defining,
                                      PyObject *const *values, Py_ssize_t count, PyObject *names)
{
    return bind(self, defining, values, count, names,
                offsetof(module_state, bound_up_down_counter));
}

static PyObject *gauge_bind(PyObject *self, PyTypeObject *defining, PyObject *const *values,
                            Py_ssize_t count, PyObject *names)
{
    return bind(self, defining, values, count, names, offsetof(module_state, bound_gauge));
}

static PyObject *histogram_bind(PyObject *self, PyTypeObject *defining, PyObject *const *values,
                                Py_ssize_t count, PyObject *names)
{
    return bind(self, defining, values, count, names, offsetof(module_state, bound_histogram));
}

/* Opens what is measured in from now on: a tuple of (record of a stream, keep or None). The streams of
 * before stay open behind them, for what was resolved with them.
 * Returns: 0, or -1 with an exception. */
static int use_streams(Instrument *self, PyObject *streams)
{
    Py_ssize_t count = PyTuple_GET_SIZE(streams), opened = 0;
    struct use *uses =
        PyMem_Calloc((size_t)(count + self->opened) + 1, sizeof *uses); /* never of size 0 */
    if (uses == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (; opened < count; opened++) {
        unsigned long long record;
        PyObject *keep;
        if (!PyArg_ParseTuple(PyTuple_GET_ITEM(streams, opened), "KO", &record, &keep))
            break;
        if (oshm_stream_open(self->buffer, record, &uses[opened].stream) != OSHM_OK) {
            PyErr_SetString(PyExc_RuntimeError, "a stream of the buffer is damaged");
            break;
        }
        uses[opened].keep = keep == Py_None ? NULL : Py_NewRef(keep);
    }
    if (opened < count) {
        for (Py_ssize_t i = 0; i < opened; i++) {
            oshm_stream_close(uses[i].stream);
            Py_XDECREF(uses[i].keep);
        }
        PyMem_Free(uses);
        return -1;
    }
    struct use *before = self->uses;
    if (self->opened)
        memcpy(uses + count, before, (size_t)self->opened * sizeof *uses);
    self->uses = uses;
    self->use_count = count;
    self->opened += count;
    PyMem_Free(before);
    struct targets *plain = self->plain;
    self->plain = NULL;
    self->way = (struct short_way){NULL, NULL, NULL};
    targets_free(plain);
    table_clear(&self->table);
    return 0;
}

static PyObject *instrument_measure_in(PyObject *object, PyObject *args)
{
    Instrument *self = (Instrument *)object;
    PyObject *streams;
    int failed;
    if (!PyArg_ParseTuple(args, "O!", &PyTuple_Type, &streams))
        return NULL;
    BEGIN_EXCLUSIVE(object, streams)
    failed = use_streams(self, streams) < 0;
    END_EXCLUSIVE()
    if (failed)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *instrument_enabled(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    const Instrument *self = (Instrument *)object;
    return PyBool_FromLong(self->mode != MODE_DISABLED && self->use_count > 0);
}

static PyObject *instrument_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    PyObject *owner, *described, *streams;
    unsigned long long address;
    if (keywords && PyDict_GET_SIZE(keywords)) {
        PyErr_SetString(PyExc_TypeError, "an instrument takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "OKOO!", &owner, &address, &described, &PyTuple_Type, &streams))
        return NULL;
    Instrument *self = (Instrument *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->owner = Py_NewRef(owner);
    self->mapping = PyObject_GetAttrString(owner, "_held");
    self->buffer = (struct oshm_buffer *)(uintptr_t)address;
    self->sampling = &((module_state *)PyType_GetModuleState(type))->sampling;
    self->described = Py_NewRef(described);
    self->name = self->mapping ? PyObject_GetAttrString(described, "name") : NULL;
    self->unit = self->name ? PyObject_GetAttrString(described, "unit") : NULL;
    self->description = self->unit ? PyObject_GetAttrString(described, "description") : NULL;
    self->scope =
        self->description ? PyObject_GetAttrString(described, "instrumentation_scope") : NULL;
    if (self->scope == NULL || use_streams(self, streams) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static PyObject *instrument_repr(PyObject *object)
{
    return PyUnicode_FromFormat("<%s %R>", Py_TYPE(object)->tp_name, ((Instrument *)object)->name);
}

static int instrument_traverse(PyObject *object, visitproc visit, void *arg)
{
    Instrument *self = (Instrument *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->owner);
    Py_VISIT(self->described);
    Py_VISIT(self->scope);
    for (Py_ssize_t i = 0; i < self->opened; i++)
        Py_VISIT(self->uses[i].keep);
    return 0; /* the rest is str; the table holds str, int, float, bool and None only */
}

static void instrument_dealloc(PyObject *object)
{
    Instrument *self = (Instrument *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    if (self->weak_references)
        PyObject_ClearWeakRefs(object);
    table_clear(&self->table);
    targets_free(self->plain);
    for (Py_ssize_t i = 0; i < self->opened; i++) {
        oshm_stream_close(self->uses[i].stream);
        Py_XDECREF(self->uses[i].keep);
    }
    PyMem_Free(self->uses);
    Py_XDECREF(self->described);
    Py_XDECREF(self->name);
    Py_XDECREF(self->unit);
    Py_XDECREF(self->description);
    Py_XDECREF(self->scope);
    Py_XDECREF(self->owner);
    Py_XDECREF(self->mapping);
    type->tp_free(object);
    Py_DECREF(type);
}

static int bound_traverse(PyObject *object, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(((Bound *)object)->instrument);
    Py_VISIT(((Bound *)object)->attributes);
    return 0;
}

static void bound_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    targets_free(((Bound *)object)->targets); /* which the instrument keeps usable */
    Py_CLEAR(((Bound *)object)->attributes);
    Py_CLEAR(((Bound *)object)->instrument);
    type->tp_free(object);
    Py_DECREF(type);
}

#define FASTCALL(function) (PyCFunction)(void (*)(void))function
#define MEASURE_FLAGS (METH_FASTCALL | METH_KEYWORDS)
#define BIND_FLAGS (METH_METHOD | METH_FASTCALL | METH_KEYWORDS)

#define ADD_DOC                                                                                    \
    PyDoc_STR("add($self, /, amount, attributes=None, context=None)\n--\n\n"                       \
              "Adds amount to the series of the attributes.")
#define SET_DOC                                                                                    \
    PyDoc_STR("set($self, /, amount, attributes=None, context=None)\n--\n\n"                       \
              "Sets the series of the attributes to amount.")
#define BIND_DOC                                                                                   \
    PyDoc_STR("bind($self, /, attributes=None)\n--\n\n"                                            \
              "Resolves the attributes now. Returns an object that measures without them.")
#define RECORD_DOC                                                                                 \
    PyDoc_STR("record($self, /, amount, attributes=None, context=None)\n--\n\n"                    \
              "Records amount in the series of the attributes.")
#define ENABLED_DOC                                                                                \
    PyDoc_STR("enabled($self, /)\n--\n\n"                                                          \
              "False if what is measured goes nowhere: a disabled meter, or views that drop it.")
#define BOUND_ADD_DOC                                                                              \
    PyDoc_STR("add($self, /, amount, context=None)\n--\n\nAdds amount to the bound series.")
#define BOUND_RECORD_DOC                                                                           \
    PyDoc_STR("record($self, /, amount, context=None)\n--\n\nRecords amount in the bound series.")
#define BOUND_SET_DOC                                                                              \
    PyDoc_STR("set($self, /, amount, context=None)\n--\n\nSets the bound series to amount.")

#define INSTRUMENT_METHODS                                                                         \
    {"enabled", instrument_enabled, METH_NOARGS, ENABLED_DOC},                                     \
        {"_measure_in", instrument_measure_in, METH_VARARGS, NULL}, {NULL, NULL, 0, NULL}

static PyMethodDef counter_methods[] = {{"add", FASTCALL(counter_add), MEASURE_FLAGS, ADD_DOC},
                                        {"bind", FASTCALL(counter_bind), BIND_FLAGS, BIND_DOC},
                                        INSTRUMENT_METHODS};
static PyMethodDef up_down_counter_methods[] = {
    {"add", FASTCALL(up_down_counter_add), MEASURE_FLAGS, ADD_DOC},
    {"bind", FASTCALL(up_down_counter_bind), BIND_FLAGS, BIND_DOC},
    INSTRUMENT_METHODS};
static PyMethodDef gauge_methods[] = {{"set", FASTCALL(gauge_set), MEASURE_FLAGS, SET_DOC},
                                      {"bind", FASTCALL(gauge_bind), BIND_FLAGS, BIND_DOC},
                                      INSTRUMENT_METHODS};
static PyMethodDef histogram_methods[] = {
    {"record", FASTCALL(histogram_record), MEASURE_FLAGS, RECORD_DOC},
    {"bind", FASTCALL(histogram_bind), BIND_FLAGS, BIND_DOC},
    INSTRUMENT_METHODS};
static PyMethodDef bound_counter_methods[] = {
    {"add", FASTCALL(bound_counter_add), MEASURE_FLAGS, BOUND_ADD_DOC}, {NULL, NULL, 0, NULL}};
static PyMethodDef bound_up_down_counter_methods[] = {
    {"add", FASTCALL(bound_up_down_counter_add), MEASURE_FLAGS, BOUND_ADD_DOC},
    {NULL, NULL, 0, NULL}};
static PyMethodDef bound_gauge_methods[] = {
    {"set", FASTCALL(bound_gauge_set), MEASURE_FLAGS, BOUND_SET_DOC}, {NULL, NULL, 0, NULL}};
static PyMethodDef bound_histogram_methods[] = {
    {"record", FASTCALL(bound_histogram_record), MEASURE_FLAGS, BOUND_RECORD_DOC},
    {NULL, NULL, 0, NULL}};

static PyObject *bound_series(PyObject *object, void *Py_UNUSED(closure))
{
    const struct targets *targets = ((Bound *)object)->targets;
    return PyLong_FromUnsignedLongLong(targets->count ? targets->at[0].series : 0);
}

static PyMemberDef instrument_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(Instrument, weak_references), READONLY, NULL},
    {"name", T_OBJECT_EX, offsetof(Instrument, name), READONLY, "in lower case"},
    {"unit", T_OBJECT_EX, offsetof(Instrument, unit), READONLY, NULL},
    {"description", T_OBJECT_EX, offsetof(Instrument, description), READONLY, NULL},
    {"instrumentation_scope", T_OBJECT_EX, offsetof(Instrument, scope), READONLY, NULL},
    {"_owner", T_OBJECT_EX, offsetof(Instrument, owner), READONLY, NULL},
    {"_described", T_OBJECT_EX, offsetof(Instrument, described), READONLY, NULL},
    {"_mode", T_UBYTE, offsetof(Instrument, mode), 0, NULL},
    {NULL, 0, 0, 0, NULL}};
static PyMemberDef bound_members[] = {
    {"instrument", T_OBJECT_EX, offsetof(Bound, instrument), READONLY,
     "the instrument that was bound"},
    {NULL, 0, 0, 0, NULL}};

static PyGetSetDef bound_getset[] = {{"_series", bound_series, NULL, NULL, NULL},
                                     {NULL, NULL, NULL, NULL, NULL}};

/* Adds a type to the module. Returns: the type, borrowed, or NULL with an exception. */
static PyTypeObject *add_type(PyObject *module, const char *name, int size, unsigned int flags,
                              PyType_Slot *slots)
{
    PyType_Spec spec = {.name = name,
                        .basicsize = size,
                        .flags = flags | Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC |
                                 Py_TPFLAGS_IMMUTABLETYPE,
                        .slots = slots};
    PyObject *type = PyType_FromModuleAndSpec(module, &spec, NULL);
    if (type == NULL)
        return NULL;
    int failed = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type);
    return failed ? NULL : (PyTypeObject *)type;
}

static PyTypeObject *add_instrument(PyObject *module, const char *name, const char *doc,
                                    PyMethodDef *methods)
{
    PyType_Slot slots[] = {{Py_tp_doc, (void *)(uintptr_t)doc},
                           {Py_tp_new, instrument_new},
                           {Py_tp_repr, instrument_repr},
                           {Py_tp_traverse, instrument_traverse},
                           {Py_tp_dealloc, instrument_dealloc},
                           {Py_tp_methods, methods},
                           {Py_tp_members, instrument_members},
                           {0, NULL}};
    return add_type(module, name, sizeof(Instrument), 0, slots);
}

static PyTypeObject *add_bound(PyObject *module, const char *name, PyMethodDef *methods)
{
    PyType_Slot slots[] = {{Py_tp_doc, "An instrument with its attributes resolved."},
                           {Py_tp_traverse, bound_traverse},
                           {Py_tp_dealloc, bound_dealloc},
                           {Py_tp_methods, methods},
                           {Py_tp_members, bound_members},
                           {Py_tp_getset, bound_getset},
                           {0, NULL}};
    return add_type(module, name, sizeof(Bound), Py_TPFLAGS_DISALLOW_INSTANTIATION, slots);
}

static PyObject *module_is_sampled(PyObject *module, PyObject *const *values, Py_ssize_t count)
{
    if (count > 1) {
        PyErr_SetString(PyExc_TypeError, "_is_sampled() takes one argument: context");
        return NULL;
    }
    module_state *state = PyModule_GetState(module);
    int sampled = is_sampled(&state->sampling, count ? values[0] : NULL);
    return sampled < 0 ? NULL : PyBool_FromLong(sampled);
}

static PyMethodDef module_functions[] = {
    {"_is_sampled", FASTCALL(module_is_sampled), METH_FASTCALL,
     PyDoc_STR("_is_sampled(context=None, /)\n--\n\n"
               "Whether a measurement with this context argument is made in a sampled span.")},
    {NULL, NULL, 0, NULL}};

static int module_exec(PyObject *module)
{
    module_state *state = PyModule_GetState(module);
    if (sampling_init(&state->sampling) < 0)
        return -1;
    if (!add_instrument(module, "otel_shm.Counter",
                        "Adds non-negative amounts; the sum over all processes is exported.",
                        counter_methods) ||
        !add_instrument(module, "otel_shm.UpDownCounter",
                        "Adds amounts of either sign; the sum over all live processes is exported.",
                        up_down_counter_methods) ||
        !add_instrument(module, "otel_shm.Gauge",
                        "Sets amounts; the last one set by any process is exported.",
                        gauge_methods) ||
        !add_instrument(module, "otel_shm.Histogram",
                        "Records amounts; their distribution over all processes is exported.",
                        histogram_methods))
        return -1;
    state->bound_counter =
        add_bound(module, "otel_shm.BoundCounter", bound_counter_methods);
    state->bound_up_down_counter =
        add_bound(module, "otel_shm.BoundUpDownCounter", bound_up_down_counter_methods);
    state->bound_gauge = add_bound(module, "otel_shm.BoundGauge", bound_gauge_methods);
    state->bound_histogram =
        add_bound(module, "otel_shm.BoundHistogram", bound_histogram_methods);
    if (!state->bound_counter || !state->bound_up_down_counter || !state->bound_gauge ||
        !state->bound_histogram)
        return -1;
    Py_INCREF(state->bound_counter);
    Py_INCREF(state->bound_up_down_counter);
    Py_INCREF(state->bound_gauge);
    Py_INCREF(state->bound_histogram);
    return 0;
}

static int module_traverse(PyObject *module, visitproc visit, void *arg)
{
    module_state *state = PyModule_GetState(module);
    Py_VISIT(state->bound_counter);
    Py_VISIT(state->bound_up_down_counter);
    Py_VISIT(state->bound_gauge);
    Py_VISIT(state->bound_histogram);
    return sampling_traverse(&state->sampling, visit, arg);
}

static int module_clear(PyObject *module)
{
    module_state *state = PyModule_GetState(module);
    Py_CLEAR(state->bound_counter);
    Py_CLEAR(state->bound_up_down_counter);
    Py_CLEAR(state->bound_gauge);
    Py_CLEAR(state->bound_histogram);
    sampling_clear(&state->sampling);
    return 0;
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
#if PY_VERSION_HEX >= 0x030c0000
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#if PY_VERSION_HEX >= 0x030d0000
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL}};

static struct PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "otel_shm._fast",
    .m_doc = "The CPython types behind the instruments.",
    .m_size = sizeof(module_state),
    .m_methods = module_functions,
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
};

PyMODINIT_FUNC PyInit__fast(void)
{
    return PyModuleDef_Init(&module_definition);
}
