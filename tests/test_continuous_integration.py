"""The workflows and `.ci/run` run what the README says, on the changes that matter, and release only what a tag names."""

import fnmatch
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from .workspace import MAY_IMPORT, PACKAGES, ROOT, attempt, project, run, uv

WORKFLOWS = ROOT / ".github" / "workflows"


def workflow(name: str) -> dict[Any, Any]:
    """Return a workflow's contents; YAML reads the key `on` as True."""
    return yaml.safe_load((WORKFLOWS / f"{name}.yml").read_text())


def triggers(name: str) -> dict[str, Any]:
    """Return what starts a workflow."""
    return workflow(name)[True]


def commands(name: str) -> list[str]:
    """Return every shell command of a workflow."""
    return [step["run"] for job in workflow(name)["jobs"].values() for step in job.get("steps", []) if "run" in step]


def readme_test_command() -> str:
    """Return the README's test command."""
    lines = re.findall(r"^(uv run pytest\b[^#\n]*)", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(set(lines)) == 1, f"README.md shows one test command, found {lines}"
    return lines[0].strip()


def test_ci_run_takes_the_test_command_from_the_readme() -> None:
    assert run(["bash", "-c", "source .ci/run; test_command"]).stdout.strip() == readme_test_command()


def test_ci_run_refuses_a_readme_without_one_test_command(tmp_path: Path) -> None:
    (tmp_path / ".ci").mkdir()
    script = tmp_path / ".ci" / "run"
    script.write_text((ROOT / ".ci" / "run").read_text())
    for text in ("no command\n", "uv run pytest -n 2\nuv run pytest -n 4\n"):
        (tmp_path / "README.md").write_text(text)
        done = attempt(["bash", script], cwd=tmp_path)
        assert done.returncode == 1
        assert "README.md must show one line" in done.stderr


def test_ci_run_fails_with_the_tests_and_names_pytest_s_closing_line(tmp_path: Path) -> None:
    """The README's command is replaced by programs that end as pytest does."""
    fake = tmp_path / "bin"
    fake.mkdir()
    for text, code, expected in (("1 failed, 3 passed in 1s", 1, 1), ("no tests ran in 0.01s", 0, 1), ("4 passed in 1s", 0, 0)):
        (fake / "uv").write_text(f"#!/bin/sh\necho '{text}'\nexit {code}\n")
        (fake / "uv").chmod(0o755)
        done = attempt(["bash", "-c", "source .ci/run; run_tests; echo $closing"], environment={"PATH": f"{fake}:/usr/bin:/bin"})
        assert done.returncode == expected, text
        assert text in (done.stderr if expected else done.stdout)


def test_ci_run_and_workflows_name_no_index_and_no_mirror() -> None:
    texts = [(ROOT / ".ci" / "run").read_text(), *(path.read_text() for path in WORKFLOWS.glob("*.yml"))]
    for text in texts:
        assert not re.search(r"index[-_]url|find[-_]links|trusted-host|--index\b|UV_INDEX|PIP_", text)
        assert set(re.findall(r"https?://([\w.-]+)", text)) <= {"pypi.org"}


def test_ci_run_checks_lock_lint_format_types_and_tests() -> None:
    text = (ROOT / ".ci" / "run").read_text()
    assert text.startswith("#!/usr/bin/env bash\n")
    assert "set -euo pipefail" in text
    assert "UV_PYTHON_DOWNLOADS=never" in text
    for command in ("uv lock --check", "uv sync", "uv run ruff check", "uv run ruff format --check", "uv run mypy", "run_tests"):
        assert re.search(rf"^    (step )?{re.escape(command)}$", text, re.MULTILINE), command
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_whole_workspace_runs_on_every_change_with_both_pythons() -> None:
    job = workflow("workspace")["jobs"]["everything"]
    assert job["steps"][-1]["run"] == ".ci/run"
    assert job["strategy"]["matrix"]["python"] == ["3.11", "3.12"]
    assert job["container"].startswith("python:${{ matrix.python }}-")
    assert triggers("workspace")["pull_request"] is None
    assert "paths" not in triggers("workspace")["push"]


def test_readme_s_example_runs_on_every_change() -> None:
    readme = re.findall(r"^(uv run examples/\S+)", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(readme) == 1
    assert any(command.replace(" --locked", "").startswith(f"{readme[0]} ") for command in commands("workspace"))


@pytest.mark.parametrize("package", PACKAGES)
def test_package_workflow_starts_on_a_change_in_anything_that_it_imports(package: str) -> None:
    for event in ("push", "pull_request"):
        paths = triggers(f"ci-{package}")[event]["paths"]
        for other in PACKAGES:
            changed = f"packages/{other}/src/module.py"
            starts = any(fnmatch.fnmatch(changed, pattern) for pattern in paths)
            assert starts == (other in MAY_IMPORT[package] | {package}), f"{changed} and {package}"
        for changed in (
            "uv.lock",
            "pyproject.toml",
            "conftest.py",
            f".github/workflows/ci-{package}.yml",
            ".github/workflows/test-package.yml",
        ):
            assert changed in paths


@pytest.mark.parametrize("package", PACKAGES)
def test_package_workflow_tests_that_package_in_its_own_environment(package: str) -> None:
    (job,) = workflow(f"ci-{package}")["jobs"].values()
    assert job == {"uses": "./.github/workflows/test-package.yml", "with": {"package": package}}


def test_package_tests_run_isolated_with_both_pythons() -> None:
    (job,) = workflow("test-package")["jobs"].values()
    assert job["strategy"]["matrix"]["python"] == ["3.11", "3.12"]
    (command,) = commands("test-package")
    for part in ("--isolated", '--package "$PACKAGE"', "--no-default-groups", "--group test", 'pytest "packages/$PACKAGE"'):
        assert part in command


@pytest.mark.parametrize("package", PACKAGES)
def test_release_workflow_starts_on_this_package_s_tags_alone(package: str) -> None:
    (pattern,) = triggers(f"release-{package}")["push"]["tags"]
    # The filter language: + repeats what stands before it, . is itself.
    expression = re.compile(pattern.replace(".", r"\."))
    for other in PACKAGES:
        assert bool(expression.fullmatch(f"{other}-v0.12.3")) == (other == package)
    assert not expression.fullmatch(f"{package}-v1.0")
    assert not expression.fullmatch(f"{package}-v1.0.0rc1")


@pytest.mark.parametrize("package", PACKAGES)
def test_release_publishes_by_trusted_publishing_after_the_build(package: str) -> None:
    jobs = workflow(f"release-{package}")["jobs"]
    assert jobs["build"] == {"uses": "./.github/workflows/build-release.yml", "with": {"package": package}}
    publish = jobs["publish"]
    assert publish["needs"] == "build"
    assert publish["environment"]["name"] == "pypi"
    assert publish["permissions"] == {"id-token": "write"}
    assert any(step["uses"].startswith("pypa/gh-action-pypi-publish@") for step in publish["steps"])
    assert "secrets." not in (WORKFLOWS / f"release-{package}.yml").read_text()


def test_release_build_checks_the_tag_before_it_builds() -> None:
    steps = commands("build-release")
    assert "check_tag.py" in steps[0]
    assert steps[1].startswith('uv build --package "$PACKAGE"')
    assert "twine check --strict" in steps[2]


def test_release_build_runs_the_tests_with_the_lowest_members_that_the_wheel_accepts(tmp_path: Path) -> None:
    *_, export, lowest, tests = commands("build-release")
    assert "--only-group test" in export
    assert tests.startswith("uv run --isolated --no-project --with dist/*.whl --with-requirements wanted.txt pytest")
    run([uv(), "build", "--quiet", "--wheel", "--package", "cg-models", "--out-dir", tmp_path / "dist"])
    run(["bash", "-c", lowest], cwd=tmp_path)
    bounds = [re.fullmatch(r"(cg-\w+)>=([\d.]+),<[\d.]+", line) for line in project("cg-models")["project"]["dependencies"]]
    expected = sorted(f"{found.group(1)}=={found.group(2)}" for found in bounds if found)
    assert len(expected) == 2
    assert sorted((tmp_path / "wanted.txt").read_text().split()) == expected


def check_tag(*arguments: str, root: Path = ROOT) -> tuple[int, str]:
    """Run the tag check and return its status and what it said."""
    done = attempt([sys.executable, root / ".github" / "scripts" / "check_tag.py", *arguments])
    return done.returncode, done.stdout + done.stderr


def with_changelog(package: str, changelog: str, folder: Path) -> Path:
    """Return a tree in which a package has another changelog, so far as the tag check reads it."""
    for path in (Path(".github/scripts/check_tag.py"), Path("packages", package, "pyproject.toml")):
        (folder / path).parent.mkdir(parents=True)
        (folder / path).write_text((ROOT / path).read_text())
    (folder / "packages" / package / "CHANGELOG.md").write_text(changelog)
    return folder


@pytest.mark.parametrize("package", PACKAGES)
def test_tag_of_the_current_version_passes_with_its_day_in_the_changelog(package: str, tmp_path: Path) -> None:
    version = project(package)["project"]["version"]
    root = with_changelog(package, f"# Changelog\n\n## {version} (2026-01-31)\n\n- All of it.\n", tmp_path)
    assert check_tag(f"{package}-v{version}", "--package", package, root=root) == (0, f"{package} {version}\n")


@pytest.mark.parametrize(
    ("headings", "said"),
    [
        (["## VERSION (unreleased)"], "expected the day of the release"),
        (["## VERSION"], "expected the day of the release"),
        (["## Unreleased", "## VERSION (2026-01-31)"], "'## Unreleased': expected no such section"),
        (["## VERSION.1 (2026-01-31)"], "has no section"),
    ],
)
def test_tag_of_a_version_that_the_changelog_does_not_describe_as_released_is_refused(
    headings: list[str], said: str, tmp_path: Path
) -> None:
    version = project("cg-data")["project"]["version"]
    root = with_changelog("cg-data", "\n\n".join(headings).replace("VERSION", version), tmp_path)
    code, text = check_tag(f"cg-data-v{version}", root=root)
    assert code == 1
    assert said in text
    assert text.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("cg-data-v99.0.0",), "has version"),
        (("cg-data-99.0.0",), "expected cg-<name>-vX.Y.Z"),
        (("v0.1.0",), "expected cg-<name>-vX.Y.Z"),
        (("cg-other-v0.1.0",), "no package cg-other"),
        (("cg-data-v0.1.0", "--package", "cg-priors"), "names cg-data"),
    ],
)
def test_wrong_tag_is_refused_in_one_line(arguments: tuple[str, ...], said: str) -> None:
    code, text = check_tag(*arguments)
    assert code == 1
    assert said in text
    assert text.count("\n") == 1


def test_every_workflow_is_covered_here() -> None:
    expected = {"workspace", "test-package", "build-release", *(f"{kind}-{package}" for kind in ("ci", "release") for package in PACKAGES)}
    assert {path.stem for path in WORKFLOWS.glob("*.yml")} == expected
