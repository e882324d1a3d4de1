// Runtime `python`: the jax.export file of the artifact, run by the installed jax in an embedded (or the present) interpreter.
//
// Only functions of Python's stable C interface are used, found by name in whatever interpreter is there: the plugin needs no
// Python headers, and works in the lmp executable as well as in a Python process that imported lammps.

#include "build_config.h"
#include "runtime.h"

#include <algorithm>
#include <cstdlib>
#include <dlfcn.h>
#include <stdexcept>
#include <string>

namespace {

struct Object;
using Ensure = int (*)();
using Release = void (*)(int);

struct Python {
  int (*Py_IsInitialized)();
  void (*Py_InitializeEx)(int);
  void *(*PyEval_SaveThread)();
  Ensure PyGILState_Ensure;
  Release PyGILState_Release;
  Object *(*PyImport_ImportModule)(const char *);
  Object *(*PyObject_CallMethod)(Object *, const char *, const char *, ...);
  int (*PyRun_SimpleString)(const char *);
  void (*PyErr_Fetch)(Object **, Object **, Object **);
  Object *(*PyObject_Str)(Object *);
  const char *(*PyUnicode_AsUTF8AndSize)(Object *, void *);
  void (*Py_DecRef)(Object *);
};

template <typename F> void find(F &function, const char *name)
{
  function = reinterpret_cast<F>(dlsym(RTLD_DEFAULT, name));
  if (!function) throw std::runtime_error(std::string("the Python library lacks ") + name + ": run cg-export build-plugin with the Python that is to run the artifact");
}

Python load_python()
{
  // Extension modules such as NumPy's look for Python's symbols globally, hence RTLD_GLOBAL.
  if (!dlsym(RTLD_DEFAULT, "Py_IsInitialized") && !dlopen(CG_LIBPYTHON, RTLD_NOW | RTLD_GLOBAL))
    throw std::runtime_error(std::string("cannot open the Python library recorded when the plugin was built (") + dlerror() +
                             "): run cg-export build-plugin again");
  Python python{};
  find(python.Py_IsInitialized, "Py_IsInitialized");
  find(python.Py_InitializeEx, "Py_InitializeEx");
  find(python.PyEval_SaveThread, "PyEval_SaveThread");
  find(python.PyGILState_Ensure, "PyGILState_Ensure");
  find(python.PyGILState_Release, "PyGILState_Release");
  find(python.PyImport_ImportModule, "PyImport_ImportModule");
  find(python.PyObject_CallMethod, "PyObject_CallMethod");
  find(python.PyRun_SimpleString, "PyRun_SimpleString");
  find(python.PyErr_Fetch, "PyErr_Fetch");
  find(python.PyObject_Str, "PyObject_Str");
  find(python.PyUnicode_AsUTF8AndSize, "PyUnicode_AsUTF8AndSize");
  find(python.Py_DecRef, "Py_DecRef");
  return python;
}

// Start the interpreter that build-plugin ran in: its standard library and its packages (CG_SITE, lines of Python).
void start_interpreter(const Python &python)
{
  const char *home = std::getenv("PYTHONHOME");
  const std::string kept = home ? home : "";
  setenv("PYTHONHOME", CG_PYTHON_HOME, 1);
  python.Py_InitializeEx(0);
  if (home)
    setenv("PYTHONHOME", kept.c_str(), 1);
  else
    unsetenv("PYTHONHOME");
  python.PyRun_SimpleString(CG_SITE);
  python.PyEval_SaveThread();    // give the lock up, so that every call takes it the same way
}

const Python &interpreter()
{
  static const Python python = [] {
    const Python loaded = load_python();
    if (!loaded.Py_IsInitialized()) start_interpreter(loaded);
    return loaded;
  }();
  return python;
}

class Lock {
 public:
  explicit Lock(const Python &python) : release(python.PyGILState_Release), state(python.PyGILState_Ensure()) {}
  ~Lock() { release(state); }
  Lock(const Lock &) = delete;
  Lock &operator=(const Lock &) = delete;

 private:
  Release release;
  int state;
};

class PythonRuntime : public cg::Runtime {
 public:
  explicit PythonRuntime(const std::string &artifact) : python(interpreter())
  {
    const Lock lock(python);
    Object *module = python.PyImport_ImportModule("cg_export.lammps.runtime");
    if (!module)
      throw std::runtime_error("the Python environment in which the plugin was built cannot run cg-export any more (" + message() +
                               "): run cg-export build-plugin again");
    model = checked(python.PyObject_CallMethod(module, "load", "s", artifact.c_str()));
    python.Py_DecRef(module);
  }

  ~PythonRuntime() override
  {
    const Lock lock(python);
    python.Py_DecRef(model);
  }

  // The file is shape-polymorphic, so any size can be compiled. Headroom of an eighth where numbers vary: padding costs time
  // on every step, growth costs a compilation.
  cg::Budget plan(const cg::Budget &need, bool isolated) override
  {
    const auto varying = [](int32_t n, int32_t before) { return n <= before ? before : (n + n / 8 + 8) / 8 * 8; };
    const auto steady = [&](int32_t n, int32_t before) { return isolated ? std::max({n, before, 1}) : varying(std::max(n, 1), before); };
    largest.edges = varying(std::max(need.edges, 1), largest.edges);
    largest.beads = steady(need.beads, largest.beads);
    largest.bonds = steady(need.bonds, largest.bonds);
    largest.angles = steady(need.angles, largest.angles);
    largest.dihedrals = steady(need.dihedrals, largest.dihedrals);
    return largest;
  }

  void compile(const cg::Budget &budget, const cg::Buffers &buffers) override
  {
    const Lock lock(python);
    python.Py_DecRef(checked(python.PyObject_CallMethod(model, "compile", "(iiiii)K", budget.beads, budget.edges, budget.bonds,
                                                        budget.angles, budget.dihedrals,
                                                        static_cast<unsigned long long>(reinterpret_cast<uintptr_t>(&buffers)))));
  }

  // execute() returns when the results are there, so nothing reads a set between steps; and on a CPU nothing is transferred.
  void acquire(int) override {}
  void send_positions(int) override {}

  void execute(int set, bool lists_changed) override
  {
    const Lock lock(python);
    python.Py_DecRef(checked(python.PyObject_CallMethod(model, "execute", "ii", set, static_cast<int>(lists_changed))));
  }

 private:
  Object *checked(Object *result)
  {
    if (!result) throw std::runtime_error("Python: " + message());
    return result;
  }

  // What the last call raised, in one line.
  std::string message()
  {
    Object *type = nullptr, *value = nullptr, *trace = nullptr;
    python.PyErr_Fetch(&type, &value, &trace);
    Object *text = python.PyObject_Str(value ? value : type);
    const char *words = text ? python.PyUnicode_AsUTF8AndSize(text, nullptr) : nullptr;
    std::string line = words ? words : "unknown error in Python";
    std::replace(line.begin(), line.end(), '\n', ' ');
    return line;
  }

  const Python &python;
  Object *model;
  cg::Budget largest;
};

}    // namespace

std::unique_ptr<cg::Runtime> cg::python_runtime(const std::string &folder)
{
  return std::make_unique<PythonRuntime>(folder);
}
