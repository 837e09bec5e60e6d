"""Images on their way to a training: read, checked, parted so that images that look alike stay together, and listed."""

from __future__ import annotations

import hashlib
import io
import os
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ..data.alike import look_hash, near
from ..data.files import read_file
from ..data.opened import Item, Opened, checked, counted
from ..data.pinning import readable
from ..data.readers import open_set, write_list
from ..data.subsets import hold_out, rank
from ..errors import check, few
from ..paths import store_root, write_atomically
from ..specs import Duplicates
from ..specs.catalog import passed_over

UNBALANCED, MOST_REPEATS = 3, 10  # the largest class by the smallest; how often a rare class's images are drawn


class Arranged(NamedTuple):
    """Images in three splits: the set's name, every image once, whether rare classes are drawn more often, and what is
    to be told, line by line.
    """

    name: str
    splits: dict[str, list[Item]]
    balanced: bool
    notes: list[str]


def open_any(images: Any, labels: Sequence | None = None) -> tuple[Opened, np.ndarray]:
    """Open a folder, or files or pixels with labels (see `FineTuner.fit`); return the classes as given, too.

    Raises
    ------
    UserError
        If they are none of these, or there are no two classes.
    """
    if isinstance(images, str | Path):
        check(labels is None, "y", "given", "a folder says its labels itself; leave y out")
        opened = open_set(f"folder:{os.fspath(images).removeprefix('folder:')}", cut=False)
        return opened, np.array(opened.classes)
    places = as_files(images)
    count = None if labels is None else len(labels)
    check(count == len(places), "y", count, f"must be one label for each of the {len(places)} images")
    classes, numbers = np.unique(np.asarray(labels), return_inverse=True)
    named = zip(places, numbers.tolist(), strict=True)
    items = [Item(f"{c}/{os.path.basename(p)}", c, partial(read_file, p), place=p) for p, c in named]
    return checked("X", tuple(map(str, classes.tolist())), {"train": items}), classes


def as_files(images: Any) -> list[str]:
    """Return images as files; pixels are written into the store, each image under its content's name.

    Raises
    ------
    UserError
        If they are neither files nor pixels.
    """
    if not isinstance(images, np.ndarray) or images.ndim == 1:
        paths = isinstance(images, list | tuple | np.ndarray) and all(isinstance(i, str | os.PathLike) for i in images)
        check(paths, "X", type(images).__name__, "must be a folder, a list of files, or an array (N, H, W, 3) of uint8")
        return [os.fspath(image) for image in images]
    fits = images.dtype == np.uint8 and images.shape[1:][2:] == (3,)
    check(fits, "X", f"{images.shape} of {images.dtype}", "an array must be (N, H, W, 3) of uint8")
    places = []
    for pixels in images:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        path = store_root() / "own" / f"{hashlib.sha256(file.getvalue()).hexdigest()[:16]}.png"
        if not path.is_file():
            write_atomically(path, file.getvalue())
        places.append(os.fspath(path))
    return places


def arranged(opened: Opened, seed: int, skip_unreadable: bool = False) -> Arranged:
    """Check every image, part what is not parted, and write the list of them into the store.

    Without a test split each class gives up a fifth for one, and without a validation split another fifth. Images that
    look alike (perceptual hashes within `Duplicates.bits`, also in chains of such) stay on one side.

    Raises
    ------
    UserError
        If images are unreadable and may not be skipped, or a class has too few.
    """
    seen: dict[str, int] = {}
    opened, looked = readable(opened, skip_unreadable, lambda name, p: seen.update({name: look_hash(p)}))
    notes = [passed_over(counted(opened.passed))]
    notes += [f"{len(looked.bad)} unreadable images left out ({few(list(looked.bad))})"] if looked.bad else []
    where = [(split, item) for split, items in opened.splits.items() for item in items]
    groups = alike([seen[f"{split}/{item.path}"] for split, item in where])
    group, splits = {id(item): g for (_, item), g in zip(where, groups.tolist(), strict=True)}, dict(opened.splits)
    wanted = [split for split in ("test", "validation") if split not in splits]
    counts, least = Counter(i.label for i in splits.get("train", ())), 1 + len(wanted)
    scarce = few([f"{c} has {counts[n]}" for n, c in enumerate(opened.classes) if counts[n] < least])
    check(not scarce, "data set", opened.name, f"{least} training images of each class are needed; {scarce}")
    for at, split in enumerate(wanted):
        items = splits["train"]
        parts = np.array([i.label for i in items]), [i.path for i in items], np.array([group[id(i)] for i in items])
        held, mixed = hold_out_groups(*parts, seed, split, len(wanted) - at)
        splits |= {s: [i for i, out in zip(items, held, strict=True) if out == (s == split)] for s in ("train", split)}
        alone = few([opened.classes[c] for c in mixed])
        notes += (
            [f"images of {alone} look too much alike to be parted: some {split} images are copies"] if mixed else []
        )
    others = {group[id(i)] for split in ("train", "validation") for i in splits[split]}
    twice = [i.path for i in splits["test"] if group[id(i)] in others]
    notes += [f"{len(twice)} test images look like other images ({few(twice)}): new ones are harder"] if twice else []
    parted = checked(opened.name, opened.classes, splits)
    counts = Counter(i.label for i in parted.splits["train"])
    most, fewest = max(counts.values()), min(counts.values())
    again = []
    if most > UNBALANCED * fewest:
        times = {c: min(MOST_REPEATS, round(most / n)) for c, n in counts.items()}
        again = [i._replace(path=f"{i.path}~{k}") for i in parted.splits["train"] for k in range(1, times[i.label])]
        notes.append(f"classes have {fewest} to {most} training images: those of rare ones are drawn more often")
    drawn = checked(opened.name, opened.classes, parted.splits | {"train": parted.splits["train"] + again})
    return Arranged(write_list(store_root() / "own", drawn), parted.splits, bool(again), [*filter(None, notes)])


def alike(hashes: Sequence[int], bits: int = Duplicates.bits) -> np.ndarray:
    """Return the group of each image, by its `look_hash`: those that near pairs join have one."""
    values, back = np.unique(np.array(hashes, np.uint64), return_inverse=True)
    i, j = np.concatenate([np.empty((0, 2), int), *near(values, bits)]).T
    joined = coo_array((np.ones(len(i), bool), (i, j)), shape=(len(values),) * 2)
    return connected_components(joined, directed=False)[1][back]


def hold_out_groups(
    labels: np.ndarray, names: Sequence[str], groups: np.ndarray, seed: int, purpose: str, left: int = 1
) -> tuple[np.ndarray, list[int]]:
    """Return which images are held out, as `subsets.hold_out` but whole groups, and the classes that cannot do that.

    Parameters
    ----------
    labels, groups : ndarray of int, shape (N,)
    names : sequence of str, length N
    seed : int
    purpose : str
    left : int
        Images of each class that stay at least.

    Returns
    -------
    ndarray of bool, shape (N,)
    list of int
        Classes of which one group is nearly all: they give up images of which copies stay.
    """
    counts, order = np.bincount(labels), np.unique(groups, return_inverse=True)[1]
    sizes = np.zeros((order.max() + 1, len(counts)), int)
    np.add.at(sizes, (order, labels), 1)
    first: dict[int, bytes] = {}
    for at, name in zip(order.tolist(), names, strict=True):
        first[at] = min(first.get(at, b"\xff" * 32), rank(seed, purpose, name))
    held, taken = np.zeros(len(sizes), bool), np.zeros(len(counts), int)
    quota = np.minimum(np.maximum(1, np.round(0.2 * counts)), counts - left)
    for at in sorted(first, key=first.get):
        if (taken + sizes[at] <= quota)[sizes[at] > 0].all():
            held[at], taken = True, taken + sizes[at]
    for at in sorted(first, key=lambda g: (sizes[g].sum(), first[g])):  # for classes that have none yet, larger groups
        if (taken[sizes[at] > 0] == 0).any() and (taken + sizes[at] <= counts - left)[sizes[at] > 0].all():
            held[at], taken = True, taken + sizes[at]
    out, mixed = held[order], np.flatnonzero((taken == 0) & (counts > 0)).tolist()
    for c in mixed:
        members = np.flatnonzero(labels == c)
        out[members] = hold_out(labels[members], [names[m] for m in members], seed, purpose)
    return out, mixed
