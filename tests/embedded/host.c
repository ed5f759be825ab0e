/* A program that is not Python and calls EmbeddingService: host MODEL finalize|leave

   One thread of its own loads the service, eight call it at once, three times each. A row per text goes to standard
   output as JSON; an exception ends it with code 3 and one line on standard error. */
#include <Python.h>
#include <pthread.h>
#include <string.h>

#define CALLERS 8
#define CALLS 3

static PyObject *service;
static const char *model;
static int failed;

static void tell(const char *where) {
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    PyErr_NormalizeException(&type, &value, &trace);
    PyObject *text = value ? PyObject_Str(value) : NULL;
    fprintf(stderr, "%s: %s: %s\n", where, ((PyTypeObject *)type)->tp_name, text ? PyUnicode_AsUTF8(text) : "?");
    failed = 1;
    Py_XDECREF(text);
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(trace);
}

static void *load(void *nothing) {
    PyGILState_STATE state = PyGILState_Ensure();
    PyObject *module = PyImport_ImportModule("akidb_mlx");
    if (module) service = PyObject_CallMethod(module, "EmbeddingService", "s", model);
    if (!service) tell("load");
    Py_XDECREF(module);
    PyGILState_Release(state);
    return nothing;
}

static void *call(void *number) {
    int caller = (int)(intptr_t)number;
    for (int round = 0; round < CALLS && !failed; round++) {
        PyGILState_STATE state = PyGILState_Ensure();
        PyObject *json = PyImport_ImportModule("json"), *line = NULL;
        PyObject *texts = Py_BuildValue("[NN]", PyUnicode_FromFormat("harbour %d", caller),
                                        PyUnicode_FromFormat("snow %d in the mountains", caller));
        PyObject *rows = texts ? PyObject_CallMethod(service, "embed", "O", texts) : NULL;
        if (rows && json) line = PyObject_CallMethod(json, "dumps", "((OO))", texts, rows);
        if (line) printf("%s\n", PyUnicode_AsUTF8(line));
        else tell("embed");
        Py_XDECREF(line);
        Py_XDECREF(rows);
        Py_XDECREF(texts);
        Py_XDECREF(json);
        PyGILState_Release(state);
    }
    return NULL;
}

int main(int count, char **arguments) {
    if (count != 3) return 2;
    model = arguments[1];
    Py_InitializeEx(0);
    PyThreadState *here = PyEval_SaveThread();
    pthread_t loader, callers[CALLERS];
    pthread_create(&loader, NULL, load, NULL);
    pthread_join(loader, NULL);
    int started = service ? CALLERS : 0;
    for (intptr_t i = 0; i < started; i++) pthread_create(&callers[i], NULL, call, (void *)i);
    for (int i = 0; i < started; i++) pthread_join(callers[i], NULL);
    if (!strcmp(arguments[2], "finalize")) {
        PyEval_RestoreThread(here);
        Py_XDECREF(service);
        if (Py_FinalizeEx() < 0) failed = 1;
    }
    fflush(stdout);
    return failed ? 3 : 0;
}
