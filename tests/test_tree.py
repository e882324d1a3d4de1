"""What is committed is portable, small and safe to load, and its links lead somewhere."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from .test_import_directions import imported_modules
from .workspace import PACKAGES, ROOT, attempt, tracked_files

PUBLIC_INDEX = re.compile(r"https://(pypi\.org/simple/?$|files\.pythonhosted\.org/packages/)")

# Folders of one person's or one site's machine, written so that this file does not hold one itself.
MACHINE_PATH = re.compile(r"(?<![\w.:/{}~-])/(?:home|root|Users|work|p|scratch|project|mnt|data|lustre|gpfs|fsx)/[A-Za-z0-9_.-]+")
PRIVATE_ADDRESS = re.compile(r"(?<![\d.])(?:10\.\d{1,3}|192\.168|172\.(?:1[6-9]|2\d|3[01]))(?:\.\d{1,3}){2}(?![\d.])")
PRIVATE_HOST = re.compile(r"https?://[\w.-]+\.(?:local|internal|lan|corp)\b")

WORDS = """bead, species, frame, domain, trajectory, segment, edge, backbone, prior, hybrid, bundle, artifact, budget, padding, cutoff,
force map, slice map, optimal map, force matching, Boltzmann inversion, receptive field, checkpoint, dataset, split"""


def texts() -> Iterator[tuple[Path, str]]:
    """Yield every committed text file with its text; the lock file has a test of its own."""
    for path in tracked_files():
        if path.name == "uv.lock":
            continue
        try:
            yield path, path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue


def test_lock_file_names_no_index_but_the_public_one() -> None:
    addresses = set(re.findall(r'"((?:https?|file|git\+\w+)://[^"]+)"', (ROOT / "uv.lock").read_text()))
    assert len(addresses) > 100
    assert not [address for address in addresses if not PUBLIC_INDEX.match(address)]


def test_lock_file_installs_no_project_by_a_path_outside_the_workspace() -> None:
    local = re.findall(r"source = \{ (?:editable|virtual|directory|path) = \"([^\"]+)\"", (ROOT / "uv.lock").read_text())
    assert set(local) == {".", *(f"packages/{package}" for package in PACKAGES)}


@pytest.mark.parametrize("pattern", [MACHINE_PATH, PRIVATE_ADDRESS, PRIVATE_HOST], ids=["path", "address", "host"])
def test_no_text_names_a_place_on_one_machine(pattern: re.Pattern[str]) -> None:
    found = [f"{path.relative_to(ROOT)}: {match.group()}" for path, text in texts() for match in pattern.finditer(text)]
    assert not found


def test_machine_places_are_recognised() -> None:
    slash = "/"
    assert MACHINE_PATH.search(f"open('{slash}home/someone/x')")
    assert MACHINE_PATH.search(f"cd {slash}p/project1")
    assert not MACHINE_PATH.search("packages/cg-data/data/x https://example.org/data/x ${ROOT}/data/x")
    assert PRIVATE_ADDRESS.search(".".join(["192", "168", "1", "4"]))
    assert not PRIVATE_ADDRESS.search("version 2025.7.22.4.0")


def test_no_file_is_over_5_mb_and_the_data_are_under_15_mb() -> None:
    sizes = {path.relative_to(ROOT): path.stat().st_size for path in tracked_files()}
    assert not {str(path): size for path, size in sizes.items() if size > 5e6}
    text = {".py", ".md", ".toml", ".lock", ".yml", ".yaml", ".cpp", ".h", ".sbatch", ".sh"}
    assert sum(size for path, size in sizes.items() if path.suffix not in text) < 15e6


def test_no_source_loads_data_that_can_run_code() -> None:
    found = []
    for path, text in texts():
        if path.suffix != ".py" or "tests" in path.parts:  # tests run the READMEs' examples
            continue
        roots = {name.split(".")[0] for name in imported_modules(text)}
        found += [f"{path}: {name}" for name in sorted(roots & {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"})]
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False":
                found.append(f"{path}:{node.value.lineno} allow_pickle")
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("eval", "exec", "yaml.load", "yaml.unsafe_load"):
                found.append(f"{path}:{node.lineno} {ast.unparse(node.func)}")
    assert not found


def test_no_source_changes_the_import_path() -> None:
    changes = re.compile(r"\bsys\.path\.(?:append|insert|extend)\(")
    assert not [str(path) for path, text in texts() if path.suffix == ".py" and changes.search(text)]


def test_glossary_defines_the_words_in_use() -> None:
    text = (ROOT / "docs" / "glossary.md").read_text()
    defined = {word.strip().lower() for row in re.findall(r"^\| \*\*(.+?)\*\*", text, re.MULTILINE) for word in row.split(",")}
    assert {word.strip().lower() for word in WORDS.split(",")} <= defined


def test_relative_links_in_documents_lead_to_files() -> None:
    broken = []
    for path, text in texts():
        if path.suffix != ".md":
            continue
        prose = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
        for target in re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", prose):
            if not re.match(r"[a-z]+:|#", target) and not (path.parent / target.split("#")[0]).exists():
                broken.append(f"{path.relative_to(ROOT)}: {target}")
    assert not broken


def test_decisions_are_numbered_once_and_titled_with_what_was_decided() -> None:
    records = sorted((ROOT / "docs" / "decisions").glob("[0-9][0-9]-*.md"))
    numbers = [path.name[:2] for path in records]
    assert len(numbers) >= 4
    assert len(set(numbers)) == len(numbers)
    for path in records:
        assert re.match(rf"# {path.name[:2]}\. .{{10,}}\n", path.read_text()), path.name


def test_shell_examples_in_documents_parse() -> None:
    broken = []
    for path, text in texts():
        for block in re.findall(r"^```sh\n(.*?)^```$", text, re.DOTALL | re.MULTILINE) if path.suffix == ".md" else ():
            done = attempt(["bash", "-n", "-c", block])
            if done.returncode != 0 or done.stderr:
                broken.append(f"{path.relative_to(ROOT)}: {done.stderr}")
    assert not broken
