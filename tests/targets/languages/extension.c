/* A module of CPython that forgets a buffer. */
#include <Python.h>

static PyObject *render(PyObject *self, PyObject *arguments)
{
	char *volatile buffer = malloc(900); /* lost */
	(void)self;
	(void)arguments;
	buffer[0] = 1;
	return PyLong_FromLong(buffer[0]);
}

static PyMethodDef methods[] = {{"render", render, METH_NOARGS, NULL}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "extension", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_extension(void) { return PyModule_Create(&module); }
