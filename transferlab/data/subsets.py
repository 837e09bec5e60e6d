"""Parts of image sets: which images, under which labels, drawn how. Nothing here imports torch.

A draw ranks names by a hash of (seed, purpose, name) and takes the first ones. So draws are nested, and they do not
depend on the order of files, on a library's random numbers, or on which other images there are.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..errors import UserError, check, suggest
from ..specs import Subset
from .tree import ClassTree


class Labels(NamedTuple):
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


def relabel(classes: Sequence[str], subset: Subset, seed: int, tree: ClassTree | None, fewest: int = 2) -> Labels:
    """Choose and merge classes as `subset` says.

    Raises
    ------
    UserError
        For an unknown class, more classes than there are, fewer than `fewest` left, or a tree that is needed and
        missing.
    """
    if tree is not None:
        tree.covers(classes)
    chosen = list(classes)
    for node in subset.exclude or ():
        if tree is None and node not in classes:
            raise UserError(f"class (={node}): not in this set, and the set has no class tree{suggest(node, classes)}")
        gone = tree.under(node) if tree else {node}
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
        merged = {c: tree.at_depth(c, value) for c in chosen} if name == "depth" else tree.lifted(chosen, value)
    names = tuple(dict.fromkeys(merged.values()))
    check(len(names) >= fewest, "classes", len(names), f"at least {'two' if fewest > 1 else 'one'} must be left")
    index = {name: i for i, name in enumerate(names)}
    return Labels(names, np.array([index[merged[c]] if c in merged else -1 for c in classes], dtype=np.int64))


def _meant(name: str, chosen: Sequence[str], classes: Sequence[str], tree: ClassTree | None) -> list[str]:
    """Return the classes that a name stands for: itself, or those below an inner node that were not left out."""
    if name in chosen:
        return [name]
    nodes = tree.parent.keys() - set(classes) if tree else ()
    if name not in nodes:
        raise UserError(f"class (={name}): not in this set{suggest(name, [*chosen, *nodes])}")
    below = tree.under(name)
    return [c for c in chosen if c in below]


def draw(labels: np.ndarray, names: Sequence[str], subset: Subset, seed: int, classes: Sequence[str]) -> np.ndarray:
    """Return the positions of as many images of every class as a subset says, in ascending order.

    Parameters
    ----------
    labels : ndarray of int, shape (N,)
        The set's own (fine) labels; negative ones are never drawn. Or of shape (N, classes), 1 where an image has a
        class (see `in_turn`): the fewest images so that each class has `per_class`, or has as much of `images` as can
        be; images without a class count as one more.
    names : sequence of str, length N
        Names by which the images are ranked.
    subset : Subset
        `images` are spread so that classes differ by one at most; which ones have one more is drawn too.
    seed : int
    classes : sequence of str
        Names of all classes, which rank them for a long tail.

    Raises
    ------
    UserError
        If a class has fewer images.
    """
    kept = np.flatnonzero((labels >= 0) if labels.ndim == 1 else (labels >= 0).all(1))
    per_class, images, tail = subset.per_class, subset.images, subset.tail
    if per_class is None and images is None and tail is None:
        return kept
    if labels.ndim > 1:
        order = kept[in_turn(labels[kept], [names[i] for i in kept], seed)]
        if images is not None:
            check(images <= len(kept), "images", images, f"there are only {len(kept)}")
            return np.sort(order[:images])
        had = labels[order].cumsum(0)
        smallest = had[-1].min() if len(had) else 0
        check(per_class <= smallest, "per_class", per_class, f"the smallest class has only {smallest} images")
        return np.sort(order[: 1 + (had >= per_class).all(1).argmax()])
    order = sorted(kept, key=lambda i: (labels[i], rank(seed, "image", names[i])))
    present, starts, sizes = np.unique(labels[order], return_index=True, return_counts=True)
    smallest, count = min(sizes, default=0), len(present)
    if images is None:
        most = smallest if per_class is None else per_class
        check(0 < most <= smallest, "per_class", per_class, f"the smallest class has only {smallest} images")
        by_size = sorted(present, key=lambda c: rank(seed, "tail", classes[c])) if tail else ()
        shares = {c: tail ** (-place / max(1, count - 1)) for place, c in enumerate(by_size)}
        quotas = [max(1, round(most * shares.get(c, 1))) for c in present]
    else:
        each, more = divmod(images, max(1, count))
        lucky = set(sorted(present, key=lambda c: rank(seed, "one more", str(c)))[:more])
        quotas = [each + (c in lucky) for c in present]
        rule = f"spread over {count} classes; the smallest has only {smallest} images"
        check(each > 0 and max(quotas, default=1) <= smallest, "images", images, rule)
    return np.sort(np.concatenate([order[s : s + n] for s, n in zip(starts, quotas, strict=True)])).astype(np.int64)


def in_turn(present: np.ndarray, names: Sequence[str], seed: int) -> np.ndarray:
    """Return images in an order of which any beginning holds the classes as evenly as can be.

    The next image is one of the class that has come up least (of equals the rarest); where that has no more, of the
    next. Images without a class are one more.

    Parameters
    ----------
    present : ndarray of int, shape (N, classes)
        1 where an image has a class.
    names : sequence of str, length N
    seed : int
    """
    has = np.c_[present, present.sum(1) == 0].astype(int)
    ranked = sorted(range(len(has)), key=lambda i: rank(seed, "image", names[i]))
    waiting = [iter([i for i in ranked if has[i, c]]) for c in range(has.shape[1])]
    total, had, order, drawn = has.sum(0), np.zeros(has.shape[1], int), [], set()
    while len(order) < len(has):
        of = min(np.flatnonzero(had < total), key=lambda c: (had[c], total[c], c))
        order.append(next(i for i in waiting[of] if i not in drawn))
        drawn.add(order[-1])
        had += has[order[-1]]
    return np.array(order, dtype=np.int64)


def hold_out(labels: np.ndarray, names: Sequence[str], seed: int, purpose: str = "validation") -> np.ndarray:
    """Return which images a set without a split for `purpose` gives up for one.

    Stratified: of each class about a fifth, at least one image and never all of them.

    Parameters
    ----------
    labels : ndarray of int, shape (N,)
        Or of bool, shape (N, classes), where an image may have several: the images of the rarest class are divided
        first, then of those left the rarest (Sechidis, Tsoumakas and Vlahavas 2011, alg. 1); images without a class
        are one more.

    Returns
    -------
    ndarray of bool, shape (N,)
    """
    held = np.zeros(len(labels), dtype=bool)
    if labels.ndim > 1:
        has, left = np.c_[labels, ~labels.any(1)], np.ones(len(labels), bool)
        total, taken = has.sum(0), np.zeros(has.shape[1], int)
        while left.any():
            there = has[left].sum(0)
            of = min(np.flatnonzero(there), key=lambda c: (there[c], total[c]))
            members = sorted(np.flatnonzero(has[:, of] & left), key=lambda i: rank(seed, purpose, names[i]))
            for i in members:
                held[i] = taken[of] < max(1, round(0.2 * total[of])) and (taken + 1 < total)[has[i]].all()
                taken += has[i] & held[i]
            left[members] = False
        return held
    for c in np.unique(labels):
        members = np.flatnonzero(labels == c)
        take = min(max(1, round(0.2 * len(members))), len(members) - 1)
        held[sorted(members, key=lambda i: rank(seed, purpose, names[i]))[:take]] = True
    return held
