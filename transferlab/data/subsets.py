"""Parts of image sets: which images, under which labels, drawn how. Nothing here imports torch.

A draw ranks names by a hash of (seed, purpose, name) and takes the first ones. So draws are nested, and they do not
depend on the order of files, on a library's random numbers, or on which other images there are.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import UserError, check, suggest
from ..specs import Subset
from .tree import ClassTree

VALIDATION_SHARE = 0.2


@dataclass(frozen=True)
class Labels:
    """The classes of a subset, and where each class of the set went.

    Attributes
    ----------
    names : tuple of str
        Class names of the subset, in order.
    mapping : ndarray of int64, shape (classes of the set,)
        New label of each class; -1 where the class is left out.
    """

    names: tuple[str, ...]
    mapping: np.ndarray


def rank(seed: int, purpose: str, name: str) -> bytes:
    """Return what `name` is sorted by in the draw of `purpose` under `seed`."""
    return hashlib.sha256(f"{seed}|{purpose}|{name}".encode()).digest()


def relabel(classes: Sequence[str], subset: Subset, seed: int, tree: ClassTree | None) -> Labels:
    """Choose and merge classes as `subset` says.

    Raises
    ------
    UserError
        For an unknown class, more classes than there are, fewer than two left, or a tree that is needed and missing.
    """
    chosen = list(classes)
    if subset.exclude:
        gone: set[str] = set()
        for node in subset.exclude:
            gone |= {node} if tree is None and node in classes else _tree(tree, classes, node).under(node)
        chosen = [c for c in chosen if c not in gone]
    if isinstance(subset.classes, int):
        check(subset.classes <= len(chosen), "classes", subset.classes, f"there are only {len(chosen)}")
        drawn = set(sorted(chosen, key=lambda c: rank(seed, "class", c))[: subset.classes])
        chosen = [c for c in chosen if c in drawn]
    elif subset.classes:
        chosen = list(dict.fromkeys(c for name in subset.classes for c in _meant(name, chosen, classes, tree)))
    merged = dict(zip(chosen, chosen, strict=True))
    if subset.depth is not None or subset.lift is not None:
        name, value = ("depth", subset.depth) if subset.lift is None else ("lift", subset.lift)
        check(tree is not None, name, value, "this set has no class tree")
        tree.covers(classes)
        merged = {c: tree.at_depth(c, value) for c in chosen} if name == "depth" else tree.lifted(chosen, value)
    names = tuple(dict.fromkeys(merged.values()))
    check(len(names) > 1, "classes", len(names), "at least two must be left")
    index = {name: i for i, name in enumerate(names)}
    return Labels(names, np.array([index[merged[c]] if c in merged else -1 for c in classes], dtype=np.int64))


def _meant(name: str, chosen: Sequence[str], classes: Sequence[str], tree: ClassTree | None) -> list[str]:
    """Return the classes that a name stands for: itself, or those below an inner node, as far as they were not left out."""
    if name in chosen:
        return [name]
    nodes = tree.parent.keys() - set(classes) if tree else ()
    if name not in nodes:
        raise UserError(f"class (={name}): not in this set{suggest(name, [*chosen, *nodes])}")
    tree.covers(classes)
    below = tree.under(name)
    return [c for c in chosen if c in below]


def _tree(tree: ClassTree | None, classes: Sequence[str], wanted: str) -> ClassTree:
    if tree is None:
        raise UserError(f"class (={wanted}): not in this set, and the set has no class tree{suggest(wanted, classes)}")
    tree.covers(classes)
    return tree


def draw(labels: np.ndarray, names: Sequence[str], per_class: int | None, seed: int, images: int | None = None) -> np.ndarray:
    """Return the positions of `per_class` images of every class, or of `images` in all, in ascending order.

    Parameters
    ----------
    labels : ndarray of int, shape (N,)
        The set's own (fine) labels; negative ones are never drawn.
    names : sequence of str, length N
        Names by which the images are ranked.
    per_class : int or None
        ``None`` keeps all images, or as many as `images` says.
    images : int, optional
        Spread over the classes so that they differ by one at most; which ones have one more is drawn too.

    Raises
    ------
    UserError
        If a class has fewer images.
    """
    kept = np.flatnonzero(labels >= 0)
    if per_class is None and images is None:
        return kept
    order = sorted(kept, key=lambda i: (labels[i], rank(seed, "image", names[i])))
    ranked = labels[order]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    sizes = np.diff(np.r_[starts, len(ranked)])
    if images is None:
        check(per_class <= sizes.min(), "per_class", per_class, f"the smallest class has only {sizes.min()} images")
        quotas = [per_class] * len(starts)
    else:
        each, more = divmod(images, len(starts))
        lucky = set(sorted(range(len(starts)), key=lambda i: rank(seed, "one more", str(ranked[starts[i]])))[:more])
        quotas = [each + (i in lucky) for i in range(len(starts))]
        rule = f"spread over {len(starts)} classes; the smallest has only {sizes.min()} images"
        check(each > 0 and max(quotas) <= sizes.min(), "images", images, rule)
    return np.sort(np.concatenate([order[s : s + n] for s, n in zip(starts, quotas, strict=True)])).astype(np.int64)


def hold_out(
    labels: np.ndarray, names: Sequence[str], seed: int, share: float = VALIDATION_SHARE, purpose: str = "validation"
) -> np.ndarray:
    """Return which images a set without a split for `purpose` gives up for one.

    Stratified: of each class about `share`, at least one image and never all of them.

    Returns
    -------
    ndarray of bool, shape (N,)
    """
    held = np.zeros(len(labels), dtype=bool)
    for c in np.unique(labels):
        members = np.flatnonzero(labels == c)
        take = min(max(1, round(share * len(members))), len(members) - 1)
        held[sorted(members, key=lambda i: rank(seed, purpose, names[i]))[:take]] = True
    return held
