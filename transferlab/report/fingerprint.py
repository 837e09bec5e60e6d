"""The hash of a rule: of all that decides a verdict, and of nothing that is written about it."""

import ast
import inspect
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from ..arms import advice, factors, tuning
from ..errors import check
from ..specs.serial import canonical, digest
from . import contrasts

SHARED = (factors, tuning, advice)  # arms that rules are computed with


def fingerprint(claim: str, cells: Iterable[str], arms: Iterable[tuple[Mapping[str, Any], str]]) -> str:
    """Return the hash of a claim's rule: of its value, its estimators' source, targets and arms.

    What is written about it (comments, formatting, docstrings) and the rules beside it are not part of it. Of
    `arms.factors`, `arms.tuning` and `arms.advice` what the cells import is, and what that uses there.

    Parameters
    ----------
    claim : str
    cells : iterable of str
        Source of the cells ``design`` and ``rule``.
    arms : iterable of (factors, target)

    Raises
    ------
    UserError
        If no rule names the claim.
    """
    library = _defined(_parsed(inspect.getsource(contrasts)))
    trees = [_parsed(cell) for cell in cells]
    known: dict[str, list[ast.stmt]] = {}
    for tree in trees:
        known |= {name: [*known.get(name, []), *nodes] for name, nodes in _defined(tree).items()}
    calls = [n for tree in trees for n in ast.walk(tree) if isinstance(n, ast.Call) and _names_claim(n, claim)]
    check(len(calls) == 1, "rule", claim, f"must be written once, is {len(calls)} times")
    shared = [_defined(_parsed(inspect.getsource(module))) for module in SHARED]
    imported = [set().union(*(_imported(tree, module) for tree in trees)) for module in SHARED]
    names, found, size, before = _used(calls[0]), {}, 0, -1
    while size > before:  # until nothing is added, so that the order does not matter
        before, size = size, len(names) + sum(map(len, imported))
        for name in [*names]:
            own = known.get(name) or library.get(name)
            of = [its.get(name, []) if name in theirs else [] for its, theirs in zip(shared, imported, strict=True)]
            found[name] = own or [node for nodes in of for node in nodes]
            used = set().union(*map(_used, found[name]))
            names |= used
            for theirs, nodes in zip(imported, of, strict=True):
                theirs |= used if nodes and not own else set()
    told = sorted({canonical({"arm": dict(factors), "target": target}) for factors, target in arms})
    code = {name: "\n".join(map(_bare, nodes)) for name, nodes in found.items() if nodes}
    return digest(canonical({"code": dict(sorted({"": ast.unparse(calls[0]), **code}.items())), "arms": told}))


_parsed = lru_cache(maxsize=16)(ast.parse)  # a chapter's claims share their cells, and all of them the package's


def _imported(tree: ast.Module, module: Any) -> set[str]:
    """Return the names that a cell imports from a module that chapters share."""
    found = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module == module.__name__]
    return {alias.name for node in found for alias in node.names}


def _names_claim(call: ast.Call, claim: str) -> bool:
    named = isinstance(call.func, ast.Name) and call.func.id == "Rule" and call.args
    return bool(named) and isinstance(call.args[0], ast.Constant) and call.args[0].value == claim


def _defined(tree: ast.Module) -> dict[str, list[ast.stmt]]:
    """Return the statements at the top of a piece of source that make what it defines, by name."""
    found: dict[str, list[ast.stmt]] = {}
    for node in tree.body:
        names = [node.name] if isinstance(node, ast.FunctionDef) else []
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name) and n.id != "RULES"]
        for name in names:
            found.setdefault(name, []).append(node)
    return found


@lru_cache(maxsize=1024)
def _used(node: ast.AST) -> frozenset[str]:
    return frozenset(n.id for n in ast.walk(node) if isinstance(n, ast.Name))


@lru_cache(maxsize=1024)
def _bare(node: ast.stmt) -> str:
    """Return the source of a definition without docstrings."""
    node = ast.parse(ast.unparse(node)).body[0]
    for inner in ast.walk(node):
        if isinstance(inner, ast.FunctionDef) and ast.get_docstring(inner) is not None:
            inner.body = inner.body[1:] or [ast.Pass()]
    return ast.unparse(node)
