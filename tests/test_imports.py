"""Who may import whom, who may ask what a method is, how long code may be, and that reading imports no torch."""

import ast
import io
import re
import subprocess
import sys
import tokenize
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import transferlab
from transferlab import methods
from transferlab.specs import Method

PROJECT = Path(transferlab.__file__).parent.parent
ROOT = PROJECT / "transferlab"
FILES = sorted(ROOT.rglob("*.py"))
each_file = pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())

# Each part may import those below it, and itself. Everything may import errors, paths, seeds and cores.
LAYERS = {
    "specs": set(),
    "data": {"specs"},
    "nets": {"specs"},
    "train": {"nets", "data", "specs"},
    "measure": {"train", "nets", "data", "specs"},
    "select": {"train", "nets", "data", "specs"},
    "methods": {"select", "measure", "train", "nets", "data", "specs"},
    "store": {"specs"},
    "run": {"select", "measure", "train", "nets", "data", "store", "specs"},
    "lab": {"run", "store", "specs"},
    "scales": {"methods", "specs"},
    "arms": {"scales", "methods", "measure", "specs"},
    "report": {"arms", "scales", "lab", "run", "store", "specs"},
    "chapters": {"report", "arms", "scales", "lab", "run", "store", "specs"},
    "own": {
        "chapters",
        "report",
        "arms",
        "lab",
        "run",
        "measure",
        "methods",
        "scales",
        "train",
        "nets",
        "data",
        "store",
        "specs",
    },
    "publish": {"chapters", "lab", "store"},
    "records": {"chapters", "lab", "store", "specs"},
    "build": {"chapters", "records", "report", "store"},
    "cli": {
        "own",
        "build",
        "publish",
        "records",
        "chapters",
        "report",
        "scales",
        "lab",
        "run",
        "store",
        "data",
        "specs",
    },
    "__main__": {"cli"},
    "__init__": {"own"},
}
ALWAYS = {"errors", "paths", "seeds", "cores"}
METHODS = {name: thing for name, thing in vars(methods).items() if isinstance(thing, type)}  # and their two bases
KINDS = {thing.kind for thing in METHODS.values() if issubclass(thing, Method) and thing is not Method}


def part(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[0]


def nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """What is executed: all of a file but the imports that only annotations need."""
    for child in ast.iter_child_nodes(tree):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield child
            yield from nodes(child)


def imported(path: Path) -> set[str]:
    """Parts of the package that a file imports, anywhere in it."""
    depth = len(path.relative_to(ROOT).parts) - 1
    found = set()
    for node in nodes(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        above = depth - (node.level - 1)  # folders of the importing file that are left
        if above == 0:
            found |= {node.module.split(".")[0]} if node.module else {alias.name for alias in node.names}
    return found - {"__version__"}


@each_file
def test_imports_go_downwards(path):
    here = part(path)
    allowed = ALWAYS | ({here} if here in ALWAYS else LAYERS[here] | {here})
    assert imported(path) <= allowed, f"{here} may import {sorted(allowed)}"


# ------------------------------------------------------------------------------------------------ what a method is


def is_method(node: ast.AST) -> bool:
    """Whether an expression is a method: ``trial.method``, or a variable of that name."""
    return getattr(node, "attr", getattr(node, "id", None)) == "method"


def questions(tree: ast.AST) -> list[str]:
    """Return where code asks what a method is, rather than let it say so."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args:
            asked, named = node.args[0], {getattr(n, "id", getattr(n, "attr", "")) for n in ast.walk(node)}
            name = getattr(node.func, "id", "")
            if name in ("isinstance", "issubclass") and (is_method(asked) or named & METHODS.keys()):
                found.append(ast.unparse(node))
            if name in ("getattr", "hasattr", "type", "vars") and is_method(asked):
                found.append(ast.unparse(node))
        if isinstance(node, ast.Match) and (is_method(node.subject) or getattr(node.subject, "attr", "") == "kind"):
            found.append(f"match {ast.unparse(node.subject)}")
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            asks = [s for s in sides if getattr(s, "attr", "") == "kind"]
            texts = {n.value for s in sides for n in ast.walk(s) if isinstance(n, ast.Constant)}
            if asks and (any(is_method(s.value) for s in asks) or texts & KINDS):
                found.append(ast.unparse(node))
    return found


@each_file
def test_no_one_else_asks_what_a_method_is(path):
    if part(path) not in ("specs", "methods"):
        assert questions(ast.parse(path.read_text())) == []


@pytest.mark.parametrize(
    "code",
    [
        "isinstance(trial.method, kinds)",
        "isinstance(x, FineTune | Grow)",
        "isinstance(x, (methods.Probe, int))",
        "getattr(trial.method, 'recipe', None)",
        "hasattr(method, 'freeze')",
        "type(trial.method) is Probe",
        "match trial.method:\n    case _: pass",
        "trial.method.kind == name",
        "'probe' != m.kind",
        "m.kind in ('fine-tune', 'grow')",
    ],
)
def test_questions_are_seen(code):
    assert len(questions(ast.parse(code))) == 1


def test_other_questions_are_fine():
    code = (
        "isinstance(net, AlexNet); c.kind == 'hypothesis'; getattr(trial.source, 'grey'); columns['method'] == 'probe'"
    )
    assert questions(ast.parse(code)) == []


# ------------------------------------------------------------------------------------------------- length and words


@each_file
def test_no_module_is_long(path):
    assert len(path.read_text().splitlines()) <= 400


def lines_of(source: str) -> int:
    """Lines with code on them: no blank lines, comments or docstrings."""
    documented = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            documented |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    tokens = [t for t in tokenize.generate_tokens(io.StringIO(source).readline) if t.type not in skipped]
    return len({line for t in tokens for line in range(t.start[0], t.end[0] + 1)} - documented)


def code_lines(path: Path) -> int:
    """Lines of code of a file."""
    return lines_of(path.read_text())


def test_the_package_is_thin():
    most = 11360  # two papers had 5,250; 1,150 are for own images, 520 for tasks, annotated sets, 270 for detection
    assert sum(map(code_lines, FILES)) <= most


def test_everything_is_formatted_alike():
    for check in (["format", "--check"], ["check"]):
        command = [sys.executable, "-m", "ruff", *check, "--output-format", "concise", "transferlab", "tests", "tools"]
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["ruff"]["line-length"] == 120


def test_a_constant_means_one_thing():
    """No two modules define a constant of one name; what both need, one imports."""
    where = defaultdict(set)
    for path in FILES:
        for node in ast.parse(path.read_text()).body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            names = {n.id for t in targets if t is not None for n in ast.walk(t) if isinstance(n, ast.Name)}
            for name in names:
                if name.isupper():
                    where[name].add(path.relative_to(ROOT).as_posix())
    assert {name: files for name, files in where.items() if len(files) > 1} == {}


# ----------------------------------------------------------------------------------- what reading wants of a machine

NO_FCNTL = "import sys\nsys.modules['fcntl'] = None\n"  # as on Windows
RUNNING = """
if __name__ == "__main__":
    from transferlab.lab import Lab
    from transferlab.methods import Scratch
    from transferlab.specs import AlexNet, Recipe, Subset, Target, Trial

    target = Target("synthetic:0", 16, Subset(classes=2, per_class=4))
    method, net = Scratch(Recipe(steps=2, batch=4, lr=0.1)), AlexNet((2, 2, 2, 2, 2), (4, 4))
    for lab in (Lab(run="missing", workers=1), Lab(run="missing", workers=1)):  # one trains, the other reads
        table = lab.run([Trial(target, method, net, seed=0)])
        assert table["status"].tolist() == ["ok"]
"""


def python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=False)


def test_trials_run_without_fcntl():
    done = python(NO_FCNTL + RUNNING)
    assert done.returncode == 0, done.stderr


def test_every_module_of_the_api_pages_can_be_read_without_torch():
    """Autodoc puts stand-ins in place of what is heavy: annotations that are evaluated must not compute with them."""
    config = yaml.safe_load((PROJECT / "_config.yml").read_text())["sphinx"]["config"]
    pages = "".join(path.read_text() for path in sorted((PROJECT / "book").glob("api_*.md")))
    modules = re.findall(r"automodule:: (\S+)", pages)
    done = python(
        "import importlib, transferlab.report.sphinx\nfrom sphinx.ext.autodoc.mock import mock\n"
        f"with mock({config['autodoc_mock_imports']}):\n    [importlib.import_module(name) for name in {modules}]"
    )
    assert done.returncode == 0, done.stderr


def test_what_the_package_reads_is_installed_with_it():
    about = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    patterns = about["tool"]["setuptools"]["package-data"]["transferlab"]
    beside = {p for p in ROOT.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")}
    assert beside == {p for pattern in patterns for p in ROOT.glob(pattern)}
