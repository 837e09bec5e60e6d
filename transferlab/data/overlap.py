"""Which classes of the source a target contains too. Nothing here imports torch."""

from functools import cache
from pathlib import Path

LIST = Path(__file__).with_name("lists") / "overlap.txt"


@cache
def table() -> dict[str, dict[str, tuple[str, ...]]]:
    """Return, for every target that shares classes with tiny-imagenet, nodes of its class tree by class of the target."""
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    for line in LIST.read_text().splitlines():
        if line.startswith("["):
            part = found.setdefault(line.strip("[]"), {})
        elif not line.startswith("#"):
            name, nodes = line.split("\t")
            part[name] = tuple(nodes.split())
    return found


def overlap(target: str) -> tuple[str, ...]:
    """Return the nodes of tiny-imagenet's class tree that show what a target shows; none for most targets.

    Parameters
    ----------
    target : str
        An image set by name.

    Returns
    -------
    tuple of str
        Nodes, classes or above them, sorted: what `Subset.exclude` takes.
    """
    return tuple(sorted({node for nodes in table().get(target, {}).values() for node in nodes}))
