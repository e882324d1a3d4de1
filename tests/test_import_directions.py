"""Imports point one way, and each package declares exactly what it imports."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .workspace import MAY_IMPORT, PACKAGES, ROOT, module_of, project, sources

MEMBERS = {module_of(package): package for package in PACKAGES}

# Import names that differ from the name on the package index.
DISTRIBUTIONS = {
    "haiku": "dm-haiku",
    "orbax": "orbax-checkpoint",
    "yaml": "pyyaml",
    "mpl_toolkits": "matplotlib",
    "google": "protobuf",
    "cuequivariance_ops_jax": "cuequivariance-ops-jax-cu13",  # or -cu12
}

# Declared without an import of ours: another library needs it at run time and does not pull it.
NEEDED_WITHOUT_IMPORT = {
    "cg-data": {"jax"},  # chex imports it; the bounds on its version are ours
    "cg-export": {"flatbuffers"},  # jax.export serialises with it
}

# Names of one dependency that stand for the program or accelerator it brings, not for an import.
EXTRAS_WITHOUT_IMPORT = {"cuda12", "cuda13", "cuequivariance-cuda12", "cuequivariance-cuda13"}


def imported_modules(text: str) -> Iterator[str]:
    """Yield the full name of every absolute import in a source text, wherever in the file it stands."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "find_spec")):
            yield from (part.value for part in node.args[:1] if isinstance(part, ast.Constant) and isinstance(part.value, str))


def roots_of(paths: list[Path]) -> dict[str, set[Path]]:
    """Return the top-level modules that the files import, each with the files that do."""
    found: dict[str, set[Path]] = {}
    for path in paths:
        for name in imported_modules(path.read_text()):
            found.setdefault(name.split(".")[0], set()).add(path.relative_to(ROOT))
    return found


def distributions_of(package: str, *folders: str) -> dict[str, set[Path]]:
    """Return the distributions (members included) that a package's folders import from outside themselves.

    `references/` holds the scripts that made stored reference data with other libraries; no test imports them.
    """
    paths = [path for folder in folders for path in sources(ROOT / "packages" / package / folder) if path.parent.name != "references"]
    outside = {root: where for root, where in roots_of(paths).items() if root not in sys.stdlib_module_names | {module_of(package)}}
    return {DISTRIBUTIONS.get(root, root).replace("_", "-").lower(): where for root, where in outside.items()}


def names(requirements: list[str]) -> set[str]:
    """Return the distribution names of requirement strings."""
    return {re.match(r"[A-Za-z0-9._-]+", line).group().lower() for line in requirements}


def declared(package: str) -> tuple[set[str], dict[str, set[str]], set[str]]:
    """Return what a package declares: its dependencies, its extras by name, and its test group."""
    table = project(package)
    extras = {extra: names(lines) for extra, lines in table["project"].get("optional-dependencies", {}).items()}
    group = table["dependency-groups"]["test"]
    # A group may ask for the package itself with extras: "cg-data[plots]".
    own = {extra for line in group if line.startswith(f"{package}[") for extra in re.findall(r"[\w-]+", line.split("[")[1].split("]")[0])}
    wanted = names(group) - {package}
    return names(table["project"]["dependencies"]), extras, wanted.union(*(extras[extra] for extra in own))


def test_imported_modules_sees_late_and_dynamic_imports() -> None:
    text = "import a.b\ndef f():\n    from c.d import e\n    importlib.import_module('g.h')\n    find_spec('i')\n    from . import own\n"
    assert sorted(imported_modules(text)) == ["a.b", "c.d", "g.h", "i"]


@pytest.mark.parametrize("package", PACKAGES)
def test_members_import_only_along_the_arrows(package: str) -> None:
    members = {MEMBERS[root]: where for root, where in roots_of(sources(ROOT / "packages" / package)).items() if root in MEMBERS}
    foreign = {member: where for member, where in members.items() if member not in MAY_IMPORT[package] | {package}}
    assert not foreign, f"{package} may import {sorted(MAY_IMPORT[package])} alone"


def test_arrows_have_no_cycle() -> None:
    for package, below in MAY_IMPORT.items():
        assert all(MAY_IMPORT[member] <= below and package not in MAY_IMPORT[member] for member in below)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_import_of_a_package_is_declared(package: str) -> None:
    base, extras, _ = declared(package)
    undeclared = {name: where for name, where in distributions_of(package, "src").items() if name not in base.union(*extras.values())}
    assert not undeclared


@pytest.mark.parametrize("package", PACKAGES)
def test_every_declared_dependency_is_imported(package: str) -> None:
    base, extras, _ = declared(package)
    wanted = base.union(*(found for extra, found in extras.items() if extra not in EXTRAS_WITHOUT_IMPORT))
    unused = wanted - set(distributions_of(package, "src")) - NEEDED_WITHOUT_IMPORT.get(package, set())
    assert not unused


@pytest.mark.parametrize("package", PACKAGES)
def test_every_import_of_a_package_s_tests_is_declared(package: str) -> None:
    base, extras, group = declared(package)
    undeclared = {
        name: where
        for name, where in distributions_of(package, "tests").items()
        if name not in base | group | {"conftest"} and not (name in set().union(*extras.values()) and all(map(skips_without, where)))
    }
    assert not undeclared, "add it to the package's test group, or skip the test where it is not installed"


def skips_without(path: Path) -> bool:
    """Return whether a test file looks whether an optional library is installed."""
    return re.search(r"find_spec|importorskip", (ROOT / path).read_text()) is not None
