"""Check that a release tag names a package of the workspace, its version, and a version that its changelog describes with a date.

    python .github/scripts/check_tag.py cg-priors-v0.1.0 [--package cg-priors]

Prints `name version` and exits 0, or says in one line what is wrong and exits 1.
"""

import argparse
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def problem_with(tag: str, package: str | None) -> str | None:
    """Return what is wrong with the tag, or None."""
    match = re.fullmatch(r"(cg-[a-z]+)-v(\d+\.\d+\.\d+)", tag)
    if not match:
        return f"tag {tag!r}: expected cg-<name>-vX.Y.Z, for example cg-priors-v0.1.0"
    name, version = match.groups()
    if package and name != package:
        return f"tag {tag!r}: names {name}, but this is the release of {package}"
    folder = ROOT / "packages" / name
    if not (folder / "pyproject.toml").is_file():
        return f"tag {tag!r}: no package {name} in packages/"
    declared = tomllib.loads((folder / "pyproject.toml").read_text())["project"]["version"]
    if declared != version:
        return f"tag {tag!r}: packages/{name}/pyproject.toml has version {declared}: tag that commit, or set the version first"
    headings = re.findall(r"^## .*$", (folder / "CHANGELOG.md").read_text(), re.MULTILINE)
    mine = [heading for heading in headings if re.match(rf"## \[?{re.escape(version)}(?![\w.])", heading)]
    if not mine:
        return f"tag {tag!r}: packages/{name}/CHANGELOG.md has no section {version}"
    if not re.search(r"\b\d{4}-\d{2}-\d{2}\b", mine[0]):
        wanted = f"expected the day of the release, for example '## {version} (2026-01-31)'"
        return f"tag {tag!r}: packages/{name}/CHANGELOG.md: {mine[0]!r}: {wanted}"
    unreleased = [heading for heading in headings if "unreleased" in heading.lower()]
    if unreleased:
        return f"tag {tag!r}: packages/{name}/CHANGELOG.md: {unreleased[0]!r}: expected no such section: what it lists is in this release"
    return None


def main() -> int:
    """Parse the command line and check."""
    parser = argparse.ArgumentParser(description="Check a release tag against the package it names.")
    parser.add_argument("tag")
    parser.add_argument("--package", help="the package that is being released")
    arguments = parser.parse_args()
    problem = problem_with(arguments.tag, arguments.package)
    if problem:
        sys.stderr.write(f"error: {problem}\n")
        return 1
    sys.stdout.write(f"{' '.join(arguments.tag.rsplit('-v', 1))}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
