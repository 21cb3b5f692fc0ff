/* SPDX-License-Identifier: Apache-2.0 */
/* Instruments whose methods do nothing: what a call into C costs before any work is done. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* The signature of add(amount, attributes=None, context=None). */
static PyObject *
do_nothing(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *keywords)
{
    (void)self, (void)args, (void)count, (void)keywords;
    Py_RETURN_NONE;
}

/* The signature of a bound add(amount). */
static PyObject *
do_nothing_with_one(PyObject *self, PyObject *amount)
{
    (void)self, (void)amount;
    Py_RETURN_NONE;
}

static PyMethodDef instrument_methods[] = {
    {"add", (PyCFunction)(void (*)(void))do_nothing, METH_FASTCALL | METH_KEYWORDS, NULL},
    {"set", (PyCFunction)(void (*)(void))do_nothing, METH_FASTCALL | METH_KEYWORDS, NULL},
    {"record", (PyCFunction)(void (*)(void))do_nothing, METH_FASTCALL | METH_KEYWORDS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMethodDef bound_methods[] = {
    {"add", do_nothing_with_one, METH_O, NULL},
    {"set", do_nothing_with_one, METH_O, NULL},
    {"record", do_nothing_with_one, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static void
dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyType_Slot instrument_slots[] = {
    {Py_tp_methods, instrument_methods}, {Py_tp_dealloc, dealloc}, {0, NULL}};
static PyType_Slot bound_slots[] = {
    {Py_tp_methods, bound_methods}, {Py_tp_dealloc, dealloc}, {0, NULL}};

static PyType_Spec instrument_spec = {
    .name = "empty_method.Instrument",
    .basicsize = sizeof(PyObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = instrument_slots,
};
static PyType_Spec bound_spec = {
    .name = "empty_method.Bound",
    .basicsize = sizeof(PyObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = bound_slots,
};

static int
add_type(PyObject *module, PyType_Spec *spec)
{
    PyObject *type = PyType_FromModuleAndSpec(module, spec, NULL);
    int result = type == NULL ? -1 : PyModule_AddType(module, (PyTypeObject *)type);
    Py_XDECREF(type);
    return result;
}

static int
execute(PyObject *module)
{
    return add_type(module, &instrument_spec) < 0 || add_type(module, &bound_spec) < 0 ? -1 : 0;
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, execute},
#ifdef Py_GIL_DISABLED
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static PyModuleDef module = {
    PyModuleDef_HEAD_INIT, .m_name = "empty_method", .m_slots = module_slots};

PyMODINIT_FUNC
PyInit_empty_method(void)
{
    return PyModuleDef_Init(&module);
}
