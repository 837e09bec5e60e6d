"""Which classes of the source a target contains too. Nothing here imports torch."""

import tomllib
from functools import cache
from pathlib import Path


@cache
def table() -> dict[str, dict[str, list[str]]]:
    """Return, for each target that shares classes with tiny-imagenet, nodes of its tree by class of the target."""
    return tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))


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
