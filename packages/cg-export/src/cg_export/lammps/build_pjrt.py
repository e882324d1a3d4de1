"""Compile a PJRT library for CPUs over the tensorflow-cpu wheel: the runtime `pjrt` without a GPU. For tests; slow to build."""

import subprocess
from importlib import resources
from pathlib import Path

from cg_data.atomic import atomic_file
from cg_data.errors import UserError, require
from cg_export.lammps.build import find_compiler

TESTED_TENSORFLOW = "2.21.0"
"""XLA's C++ classes change from one release to the next: `pjrt_cpu.cpp` is written for this one."""

VENDORED = ("highwayhash", "com_google_highway", "com_googlesource_code_re2", "farmhash_archive/src")


def pjrt_include(tensorflow: Path | str) -> Path:
    """Return the folder of `pjrt_c_api.h` in an installed tensorflow package."""
    return Path(tensorflow) / "include" / "xla" / "pjrt" / "c"


def build_pjrt_cpu(tensorflow: Path | str, output: Path | str, compiler: str | None = None) -> Path:
    """Compile `pjrt_cpu.so` against the folder of an installed tensorflow-cpu package (`site-packages/tensorflow`); return its path.

    The library finds TensorFlow's own where they are now, by their path. Raises `UserError` where a header is missing or
    compilation fails, as it does with other releases than `TESTED_TENSORFLOW`.
    """
    tensorflow, output = Path(tensorflow).resolve(), Path(output)
    require(
        (pjrt_include(tensorflow) / "pjrt_c_api.h").is_file(),
        f"build-pjrt-cpu: expected the folder of the package tensorflow-cpu=={TESTED_TENSORFLOW}, found no pjrt_c_api.h in {tensorflow}",
    )
    headers = tensorflow / "include"
    system = [headers, *(headers / "external" / name for name in VENDORED)]
    sources = resources.files("cg_export.lammps") / "pjrt_cpu"
    with resources.as_file(sources) as folder, atomic_file(output) as aside:
        command = [find_compiler(compiler), "-std=c++17", "-O1", "-fPIC", "-shared", "-DNDEBUG", "-w", f"-I{folder}"]
        command += [
            f"-I{pjrt_include(tensorflow)}",
            *(f"-isystem{path}" for path in system),
            str(folder / "pjrt_cpu.cpp"),
            "-o",
            str(aside),
        ]
        command += [f"-L{tensorflow}", "-l:libtensorflow_cc.so.2", "-l:libtensorflow_framework.so.2", f"-Wl,-rpath,{tensorflow}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if "error" in line] or ["no message"]
            raise UserError(f"build-pjrt-cpu: failed: {lines[0].strip()}: expected tensorflow-cpu=={TESTED_TENSORFLOW}")
    return output
