"""Class trees: which classes lie under which node, and what a cut at a depth merges. Nothing here imports torch."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from ..errors import UserError, check, suggest

TINY_IMAGENET = Path(__file__).with_name("tiny-imagenet-tree.txt")


class ClassTree:
    """A tree whose leaves (and possibly inner nodes) are the classes of an image set.

    Parameters
    ----------
    paths : mapping of str to sequence of str
        For each class its nodes from the root down to itself.
    words : mapping of str to str, optional
        What nodes are called; others by their own name.

    Raises
    ------
    UserError
        If a path is empty, ends elsewhere, repeats a node, or gives a node a second parent or another root.
    """

    def __init__(self, paths: Mapping[str, Sequence[str]], words: Mapping[str, str] | None = None) -> None:
        self.words = dict(words or {})
        self.paths = {leaf: tuple(path) for leaf, path in paths.items()}
        self.parent: dict[str, str | None] = {}
        for leaf, path in self.paths.items():
            check(bool(path) and path[-1] == leaf, "class tree", leaf, "its path must end with the class itself")
            check(len(set(path)) == len(path), "class tree", leaf, "its path visits a node twice (a cycle)")
            for node, above in zip(path, (None, *path), strict=False):
                known = self.parent.setdefault(node, above)
                check(known == above, "class tree", node, f"has two parents, {known} and {above}")
        check(list(self.parent.values()).count(None) <= 1, "class tree", "roots", "must have a single root")

    @classmethod
    def of(cls, entries: Mapping[str, Mapping]) -> "ClassTree":
        """Return the tree of ``{class: {"path": [{"wnid": node, "name": words}, ...]}}``; names may be missing."""
        paths = {leaf: [node["wnid"] for node in entry["path"]] for leaf, entry in entries.items()}
        named = (node for entry in entries.values() for node in entry["path"] if "name" in node)
        return cls(paths, {node["wnid"]: node["name"].replace("_", " ") for node in named})

    def covers(self, classes: Sequence[str]) -> None:
        """Check that every class has a path.

        Raises
        ------
        UserError
            Naming the first class that has none.
        """
        for name in classes:
            check(name in self.paths, "class tree", name, "the tree misses this class")

    def at_depth(self, leaf: str, depth: int) -> str:
        """Return the ancestor of `leaf` at `depth` (the root has 0), or `leaf` itself if it is shallower."""
        return self.paths[leaf][: depth + 1][-1]

    def lifted(self, leaves: Sequence[str], times: int) -> dict[str, str]:
        """Return what `leaves` become if so often nodes give way to their parents, and those below one merge into it.

        Parameters
        ----------
        leaves : sequence of str
        times : int

        References
        ----------
        Huh et al., sec. 3.2, the top-down sets.
        """
        path = {leaf: self.paths[leaf] for leaf in leaves}
        for _ in range(times):
            path = {leaf: p[:-1] or p for leaf, p in path.items()}
            there = {p[-1] for p in path.values()}
            path = {leaf: p[: 1 + next(i for i, node in enumerate(p) if node in there)] for leaf, p in path.items()}
        return {leaf: p[-1] for leaf, p in path.items()}

    def under(self, node: str) -> set[str]:
        """Return the classes at or below `node`.

        Raises
        ------
        UserError
            If there is no such node.
        """
        if node not in self.parent:
            raise UserError(f"class (={node}): no such class or node{suggest(node, self.parent)}")
        return {leaf for leaf, path in self.paths.items() if node in path}

    @property
    def depth(self) -> int:
        """Depth of the deepest class."""
        return max(len(path) for path in self.paths.values()) - 1


def class_tree() -> dict[str, dict]:
    """Return tiny-imagenet's classes as in its ``wordnet.json``: words, and the path from the root."""
    rows = [line.split("\t") for line in TINY_IMAGENET.read_text().splitlines() if not line.startswith("#")]
    nodes = {node: (parent, words) for node, parent, words in rows}
    inner = {parent for parent, _ in nodes.values()}

    def path(node: str) -> list[dict]:
        parent, words = nodes[node]
        name = words if node in inner else words.split(",")[0].lower().replace(" ", "_")
        return [*(path(parent) if parent in nodes else []), {"wnid": node, "name": name}]

    return {node: {"name": words, "path": path(node)} for node, (_, words) in nodes.items() if node not in inner}


@cache
def source_tree() -> ClassTree:
    """Return tiny-imagenet's class tree, which the package knows without the images."""
    return ClassTree.of(class_tree())
