"""Images on their way to a training: read, checked, parted into splits so that copies stay together, and listed."""

import hashlib
import io
import os
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import imagehash
import numpy as np
from PIL import Image
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from ..data.folders import read_file
from ..data.images import readable
from ..data.opened import Item, Opened, checked, counted, split_off_test
from ..data.readers import open_set, write_list
from ..data.subsets import hold_out, rank
from ..errors import check, few
from ..paths import store_root, write_atomically
from ..specs import Duplicates
from ..specs.catalog import passed_over

ROWS = 256  # hashes that are compared with all others at once
SHARE = 0.2  # of the training images that a split gets which was not given
UNBALANCED, MOST_REPEATS = 3, 10  # the largest class by the smallest, and how often a rare class's images are drawn


class Arranged(NamedTuple):
    """Images in three splits.

    Attributes
    ----------
    name : str
        Of the image set that they are now.
    opened : Opened
        With every image once.
    balanced : bool
        Whether images of rare classes are drawn more often.
    notes : list of str
        What is to be told, a line each.
    """

    name: str
    opened: Opened
    balanced: bool
    notes: list[str]


def open_any(images: Any, labels: Sequence | None = None) -> tuple[Opened, np.ndarray]:
    """Open a folder, or files or pixels with labels, and return the classes as they were given, too.

    Parameters
    ----------
    images : str or Path, or list of str or Path, or ndarray of uint8, shape (N, H, W, 3)
    labels : sequence, length N, optional
        Of files and pixels.

    Raises
    ------
    UserError
        If they are none of these, or no two classes.
    """
    if isinstance(images, str | Path):
        check(labels is None, "y", "given", "a folder says its labels itself; leave y out")
        name = os.fspath(images)
        opened = open_set(name if name.startswith(("folder:", "torchvision:")) else f"folder:{name}")
        for item in (item for items in opened.splits.values() for item in items[:1]):
            check(bool(item.place), "folder", name, "must hold image files")
        return opened, np.array(opened.classes)
    places = as_files(images)
    check(labels is not None, "y", None, "must be given: the label of each image")
    labels = np.asarray(labels)
    check(labels.shape == (len(places),), "y", labels.shape, f"must be one label for each of the {len(places)} images")
    classes, numbers = np.unique(labels, return_inverse=True)
    named = zip(places, numbers.tolist(), strict=True)
    items = [Item(f"{c}/{os.path.basename(p)}", c, partial(read_file, p), place=p) for p, c in named]
    opened = checked("X", tuple(map(str, classes.tolist())), {"train": items})
    return checked("X", opened.classes, split_off_test(opened.splits["train"])), classes


def as_files(images: Any) -> list[str]:
    """Return images as the files that they are in; pixels are written into the store, each under its content's name.

    Raises
    ------
    UserError
        If they are neither files nor pixels.
    """
    array = isinstance(images, np.ndarray) and images.ndim > 1
    rule = "must be a folder, a list of files, or an array (N, H, W, 3) of uint8"
    if not array:
        check(isinstance(images, list | tuple | np.ndarray), "X", type(images).__name__, rule)
        check(all(isinstance(i, str | os.PathLike) for i in images), "X", "list", rule)
        return [os.fspath(image) for image in images]
    check(images.dtype == np.uint8 and images.shape[1:][2:] == (3,), "X", f"{images.shape} {images.dtype}", rule)
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

    A set without a test split gives up a fifth of each class for one, and one without a validation split another
    fifth. Images that look alike (perceptual hashes within `Duplicates.bits`) go together, also in chains of such.

    Raises
    ------
    UserError
        If images are unreadable and may not be skipped, or a class has too few.
    """
    hashes: dict[str, bytes] = {}
    opened, looked = readable(
        opened, skip_unreadable, lambda name, p: hashes.update({name: np.packbits(imagehash.phash(p).hash).tobytes()})
    )
    notes = [passed_over(counted(opened.passed))]
    notes += [f"{len(looked.bad)} unreadable images left out ({few(list(looked.bad))})"] if looked.bad else []
    rows = [(split, item) for split, items in opened.splits.items() for item in items]
    groups = dict(zip(((s, i.path) for s, i in rows), alike([hashes[f"{s}/{i.path}"] for s, i in rows]), strict=True))
    splits = dict(opened.splits)
    whole = sorted((i for _, i in rows), key=lambda i: (i.label, i.path))
    of = {id(i): groups[s, i.path] for s, i in rows}
    if {*splits} == {"train", "test"} and split_off_test(whole) == splits:  # there was no test split: it is cut anew
        splits = {"train": whole}
    wanted = [split for split in ("test", "validation") if split not in splits]
    counts, least = Counter(i.label for i in splits.get("train", ())), 1 + len(wanted)
    scarce = [f"{c} {counts[n]}" for n, c in enumerate(opened.classes) if counts[n] < least]
    rule = f"{least} training images of each class are needed: {few(scarce)}"
    check(not scarce, "data set", opened.name, rule)
    for split in wanted:
        items, left = splits["train"], len(wanted) if split == "test" else 1
        labels, names = np.array([i.label for i in items]), [i.path for i in items]
        held, mixed = hold_out_groups(labels, names, np.array([of[id(i)] for i in items]), seed, split, left)
        splits["train"] = [i for i, out in zip(items, held, strict=True) if not out]
        splits[split] = [i for i, out in zip(items, held, strict=True) if out]
        alone = few([opened.classes[c] for c in mixed])
        notes += [f"images of {alone} look too much alike to be parted: {split} has copies"] if mixed else []
    where = {s: {of[id(i)] for i in items} for s, items in splits.items()}
    both = [i.path for i in splits["test"] if of[id(i)] in where["train"] | where["validation"]]
    notes += [f"{len(both)} test images look like other images ({few(both)}): new ones are harder"] if both else []
    parted = checked(opened.name, opened.classes, splits, passed=opened.passed)
    counts = Counter(i.label for i in parted.splits["train"])
    most, fewest = max(counts.values()), min(counts.values())
    balanced, drawn = most > UNBALANCED * fewest, parted
    if balanced:
        times = {c: min(MOST_REPEATS, round(most / n)) for c, n in counts.items()}
        again = [i._replace(path=f"{i.path}~{k}") for i in parted.splits["train"] for k in range(1, times[i.label])]
        train = [*parted.splits["train"], *again]
        drawn = checked(opened.name, opened.classes, parted.splits | {"train": train})
        notes.append(f"classes have {fewest} to {most} training images: those of rare ones are drawn more often")
    return Arranged(write_list(store_root() / "own", drawn), parted, balanced, list(filter(None, notes)))


def alike(hashes: Sequence[bytes], bits: int = Duplicates.bits) -> np.ndarray:
    """Return the group of each image, by the hashes (8 bytes each): those that near pairs join have one."""
    values, back = np.unique(np.frombuffer(b"".join(hashes), np.uint64), return_inverse=True)
    near = [
        np.argwhere(np.bitwise_count(values[f : f + ROWS, None] ^ values) <= bits) for f in range(0, len(values), ROWS)
    ]
    pairs = np.concatenate([found + np.array([k * ROWS, 0]) for k, found in enumerate(near)]).T
    graph = coo_matrix((np.ones(pairs.shape[1], bool), pairs), shape=(len(values),) * 2)
    return connected_components(graph, directed=False)[1][back]


def hold_out_groups(
    labels: np.ndarray, names: Sequence[str], groups: np.ndarray, seed: int, purpose: str, left: int = 1
) -> tuple[np.ndarray, list[int]]:
    """Return which images are held out, as `subsets.hold_out`, whole groups of them, and the classes that cannot.

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
        Classes of which one group is nearly all: they give up images, though these have copies that stay.
    """
    counts = np.bincount(labels)
    quota = np.minimum(np.maximum(1, np.round(SHARE * counts)), counts - left)
    order = np.unique(groups, return_inverse=True)[1]
    sizes = np.zeros((order.max() + 1, len(counts)), int)
    np.add.at(sizes, (order, labels), 1)
    first: dict[int, bytes] = {}
    for at, name in zip(order.tolist(), names, strict=True):
        ranked = rank(seed, purpose, name)
        first[at] = min(first.get(at, ranked), ranked)
    held, taken = np.zeros(len(sizes), bool), np.zeros(len(counts), int)
    for most in (quota, counts - left):  # then, for classes that have none yet, larger groups
        wanting = np.flatnonzero((taken == 0) & (counts > 0)) if most is not quota else np.arange(len(counts))
        for at in sorted(first, key=lambda g: (most is not quota and sizes[g].sum(), first[g])):
            its = sizes[at] > 0
            fresh = most is quota or (taken[wanting][its[wanting]] == 0).any()
            if not held[at] and fresh and (taken + sizes[at] <= most)[its].all():
                held[at], taken = True, taken + sizes[at]
    out, mixed = held[order], np.flatnonzero((taken == 0) & (counts > 0)).tolist()
    for c in mixed:
        members = np.flatnonzero(labels == c)
        out[members] = hold_out(labels[members], [names[m] for m in members], seed, purpose)
    return out, mixed
