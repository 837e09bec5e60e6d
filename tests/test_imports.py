"""Who may import whom, and that reading imports no torch."""

import ast
import io
import subprocess
import sys
import tokenize
import tomllib
from pathlib import Path

import pytest

import transferlab

ROOT = Path(transferlab.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# Each part may import those below it, and itself. Everything may import errors and paths.
LAYERS = {
    "__main__": {"cli"},
    "cli": {"build", "chapters", "engine", "report", "lab", "store", "scales", "specs", "data"},
    "build": {"chapters", "report", "store"},
    "chapters": {"report", "lab", "engine", "store", "scales", "specs"},
    "report": {"store", "specs", "chapters"},
    "lab": {"engine", "store", "specs", "worker"},
    "engine": {"specs"},
    "worker": {"engine", "methods", "data", "nets", "train", "store", "specs"},
    "methods": {"train", "nets", "data", "measure", "specs", "seeds"},
    "train": {"nets", "data", "specs"},
    "nets": {"specs"},
    "measure": {"specs"},
    "data": {"specs"},
    "store": {"specs"},
    "scales": {"specs"},
    "specs": {"data"},  # only the catalogue, for fingerprints
}
ALWAYS = {"errors", "paths", "serial", "backbones", "recipes", "method_specs"}


def part(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imported(path: Path) -> set[str]:
    """Parts of the package that a file imports, anywhere in it."""
    depth = len(path.relative_to(ROOT).parts) - 1
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        above = depth - (node.level - 1)  # folders of the importing file that are left
        if above == 0:
            found |= {node.module.split(".")[0]} if node.module else {alias.name for alias in node.names}
    return found - {"__version__"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_imports_go_downwards(path):
    here = part(path)
    allowed = LAYERS.get(here, set()) | ALWAYS | {here}
    assert imported(path) <= allowed, f"{here} may import {sorted(allowed)}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_no_module_is_long(path):
    assert len(path.read_text().splitlines()) <= 400


def code_lines(path: Path) -> int:
    """Lines with code on them: no blank lines, comments or docstrings."""
    source = path.read_text()
    documented = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            documented |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    tokens = [t for t in tokenize.generate_tokens(io.StringIO(source).readline) if t.type not in skipped]
    return len({line for t in tokens for line in range(t.start[0], t.end[0] + 1)} - documented)


def test_the_package_is_thin():
    assert sum(map(code_lines, FILES)) < 5250


def test_reading_judging_and_building_import_no_torch():
    code = (
        "import sys; import transferlab.cli, transferlab.build;"
        "from transferlab.report import cards, controls, figure, sphinx, stats;"
        "from transferlab import chapters; chapters.verdicts(); [chapters.status(c, 'cpu') for c in chapters.chapters().values()];"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT.parent, check=False).returncode == 0


def test_what_the_package_reads_is_installed_with_it():
    patterns = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["transferlab"]
    beside = {p for p in ROOT.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")}
    assert beside == {p for pattern in patterns for p in ROOT.glob(pattern)}
