"""Which classes of the source a target contains too. Nothing here imports torch."""

from functools import cache

from .rebuild_sets import listed


@cache
def table() -> dict[str, dict[str, tuple[str, ...]]]:
    """Return, for every target that shares classes with tiny-imagenet, nodes of its class tree by class of the target."""
    rows = {target: [line.split("\t") for line in lines] for target, lines in listed("overlap").items()}
    return {target: {name: tuple(nodes.split()) for name, nodes in found} for target, found in rows.items()}


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
