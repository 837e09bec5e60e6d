"""Decoded images: uint8 tensors, made once and cached on disk by fingerprint, and the splits that trials read."""

import json
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from ..cores import cpu_workers
from ..errors import check
from ..paths import cache_root, file_fingerprint, sweep, writable, write_atomically
from ..specs import ImageSet, Source, Subset, Target, catalog
from ..specs.task import SINGLE_LABEL
from . import synthetic
from .decoding import fitted
from .objects import chosen, moved, padded, presence
from .opened import Item
from .readers import open_set
from .subsets import draw, hold_out, relabel
from .tree import ClassTree

STAYS = 4 << 30  # bytes of a split that stays on a device
AT_ONCE = 32  # images that a thread decodes before it takes more: one at a time, threads wait for each other
AHEAD = 40  # pieces of so many images that are decoded before the first of them is written


@dataclass(frozen=True)
class Split:
    """One split of an image set at one size.

    Attributes
    ----------
    pixels : Tensor of uint8, shape (N, size, size, 3)
        May be mapped from disk: index it, don't write to it. Of a set that is being made, pieces of it, one by one.
    labels : ndarray of int64, shape (N,)
        Or, of whole images with objects, their boxes: float32, shape (N, M, 6), see `objects`.
    names : list of str, length N
    """

    pixels: "torch.Tensor | Iterator[np.ndarray]"
    labels: np.ndarray
    names: list[str]


class Decoded(NamedTuple):
    """An image set whose splits can be had at one size."""

    classes: tuple[str, ...]
    tree: ClassTree | None
    splits: dict[str, Split]


@dataclass(frozen=True)
class Sample:
    """Images chosen for a purpose: rows of a split, with the subset's labels.

    Attributes
    ----------
    pixels : Tensor of uint8, shape (N, size, size, 3)
        The whole split; only `rows` of it belong to the sample.
    rows : Tensor of int64, shape (n,)
    labels : Tensor of int64, shape (n,)
        Or of a multi-label target float32, shape (n, classes): 1 where a class is present, NaN where it is only as
        difficult objects, of which nothing is asked. Or of detection float32, shape (n, M, 6): class, left, top, right
        and bottom edge in pixels, and 1 if difficult; behind an image's last box the class is -1.
    classes : int
    images : ImageSet, optional
    size : int, optional
    split : str, optional
        As it is stored: another one may stand in for it.
    grey : bool
        Whoever reads pixels takes their `augment.luma`, batch by batch.
    names : tuple of str
        Of the classes, in the order of the labels.
    """

    pixels: torch.Tensor
    rows: torch.Tensor
    labels: torch.Tensor
    classes: int
    images: ImageSet | None = None
    size: int | None = None
    split: str | None = None
    grey: bool = False
    names: tuple[str, ...] = ()

    def to(self, device: torch.device) -> "Sample":
        """Return the sample on a device.

        Off the CPU its split stays there for all samples of it. If that is too large, its own rows travel; if those are
        too, pixels and rows stay where they are, and labels alone are on the device.
        """
        if device.type == "cpu":
            return self
        labels = self.labels.to(device)
        if self.pixels.nbytes <= STAYS:
            return replace(self, pixels=_placed(self.pixels, device), rows=self.rows.to(device), labels=labels)
        room = torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else STAYS
        if len(self.rows) * self.pixels[0].nbytes > room:
            return replace(self, labels=labels)
        own = torch.empty((len(self.rows), *self.pixels.shape[1:]), dtype=torch.uint8, device=device)
        for there, rows in zip(own.split(AT_ONCE), self.rows.split(AT_ONCE), strict=True):
            there.copy_(self.pixels[rows])
        return replace(self, pixels=own, rows=torch.arange(len(own), device=device), labels=labels)


_placed = lru_cache(maxsize=16)(torch.Tensor.to)


def shrink(picture: Image.Image, size: int) -> np.ndarray:
    """Return a picture as uint8 (size, size, 3): the short side resized with a box filter, then a centre crop.

    Of a very long picture the middle is cut out first: what is made stays as small as what is kept.
    """
    (x, y, width, height), new, (left, top) = fitted(*picture.size, size)
    if (width, height) != picture.size:
        picture = picture.crop((x, y, x + width, y + height))
    return np.asarray(picture.resize(new, Image.Resampling.BOX).crop((left, top, left + size, top + size)))


def load(images: ImageSet, size: int) -> Decoded:
    """Return an image set decoded to `size` px, from the cache if it was decoded before.

    Raises
    ------
    UserError
        If the set is missing, or is not the one that the fingerprint names.
    """
    if images.name.startswith("synthetic:"):
        here, given = catalog.known(images.name), images.fingerprint
        check(given in here, f"{images.name} fingerprint", given, f"this package draws {' and '.join(here)}")
        return synthetic_set(images.name, size, "boxes" in here[given])
    return _decoded(images.name, images.fingerprint, size)


@lru_cache(maxsize=8)
def synthetic_set(name: str, size: int, objects: bool = False) -> Decoded:
    """Return a set of the synthetic world at `size` px, from the cache if it was drawn before; images of several
    objects, if these are meant.
    """
    drawn_by = file_fingerprint(Path(synthetic.__file__))
    folder = cache_root() / "drawn" / f"{drawn_by}-{name.removeprefix('synthetic:')}-{size}{'-objects' * objects}"

    def draw() -> Decoded:
        world = synthetic.World(catalog.synthetic_distance(name))
        drawn = world.draw_scenes if objects else world.draw
        splits = {split: Split(*drawn(split, size)) for split in ("train", "validation", "test")}
        return Decoded(world.classes, world.tree, splits)

    return _kept(folder, size, f"drawing {name}", draw)


@lru_cache(maxsize=16)
def _decoded(name: str, fingerprint: str, size: int) -> Decoded:
    folder = cache_root() / "decoded" / f"{fingerprint}-{size}"
    told: list[int] = []  # objects, where the set is decoded now

    def decode() -> Decoded:
        about = catalog.pinned(name, fingerprint)
        whole, splits = "boxes" in about, {}
        opened = open_set(name, objects=whole).without({*about.get("skipped", ())})
        found = opened.fingerprint()
        rule = f"the trials name {fingerprint}; if this set is meant: transferlab data pin {name}"
        check(found == fingerprint, f"{name} fingerprint", found, rule)
        writable("cache", folder)
        for split, items in opened.splits.items():
            labels = padded([i.objects for i in items]) if whole else np.array([i.label for i in items])
            splits[split] = Split(_pieces(items, labels, size), labels, [i.path for i in items])
            told.extend(len(i.objects) for i in items if whole)
        return Decoded(opened.classes, opened.tree, splits)

    with warnings.catch_warnings(action="ignore"):  # Pillow's, which name no file; `pin` looked at all of them
        found = _kept(folder, size, f"decoding {name}", decode)
    if told:
        left = sum(int((part.labels[..., 0] >= 0).sum()) for part in found.splits.values())
        cut = f"without {sum(told) - left:,} of which the centre crop leaves nothing"
        print(f"{name} at {size} px: {left:,} objects, {cut}", file=sys.stderr)
    return found


def _kept(folder: Path, size: int, doing: str, make: Callable[[], Decoded]) -> Decoded:
    """Return a set from the cache, made first where it is not there, or damaged."""
    with suppress(ValueError, OSError, EOFError, KeyError):
        return _read(folder)
    sweep(folder.parent.glob("*/.*.*"))
    made = make()
    total = sum(len(split.labels) for split in made.splits.values())
    with tqdm(total=total, desc=f"{doing} to {size} px", unit=" images", disable=None, leave=False) as bar:
        for name, split in made.splits.items():
            write_atomically(folder / f"{name}.npy", partial(_write, split, size, bar))
            if split.labels.ndim > 1:
                write_atomically(folder / f"{name}-objects.npy", partial(np.save, arr=split.labels))
    labels = {name: split.labels.tolist() for name, split in made.splits.items() if split.labels.ndim == 1}
    splits = {name: {"labels": labels.get(name), "names": split.names} for name, split in made.splits.items()}
    about = {"classes": made.classes, "splits": splits, "tree": made.tree and made.tree.paths}
    write_atomically(folder / "about.json", json.dumps(about))
    return _read(folder)


def _read(folder: Path) -> Decoded:
    about = json.loads((folder / "about.json").read_text())
    splits = {}
    for name, split in about["splits"].items():
        pixels = torch.from_numpy(np.load(folder / f"{name}.npy", mmap_mode="c"))
        labels = split["labels"]
        labels = np.load(folder / f"{name}-objects.npy") if labels is None else np.array(labels, np.int64)
        splits[name] = Split(pixels, labels, split["names"])
    return Decoded(tuple(about["classes"]), about["tree"] and ClassTree(about["tree"]), splits)


def _write(split: Split, size: int, bar: tqdm, file: IO[bytes]) -> None:
    """Write a split's pixels, which come piece by piece: they may be larger than memory."""
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(split.labels), size, size, 3)}
    np.lib.format.write_array_header_1_0(file, header)
    for piece in split.pixels:
        file.write(piece)
        bar.update(len(piece))


def _pieces(items: list[Item], labels: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Decode images on all our cores, and yield them in order, a few at a time and not far ahead of who takes them.

    Where labels are boxes, they are moved with their image, in place.
    """

    def decode(first: int) -> np.ndarray:
        found = []
        for row, item in enumerate(items[first : first + AT_ONCE], first):
            picture = item.image()
            found.append(shrink(picture, size))
            if labels.ndim > 1:
                labels[row] = moved(labels[row], *picture.size, size)
        return np.stack(found)

    with ThreadPoolExecutor(cpu_workers(1)) as pool:
        waiting: list[Future] = []
        for first in range(0, len(items), AT_ONCE):
            waiting.append(pool.submit(decode, first))
            while len(waiting) > (AHEAD if first + AT_ONCE < len(items) else 0):
                yield waiting.pop(0).result()


def source_sample(source: Source, seed: int) -> Sample:
    """Return the training images of a source: all of its subset, drawn by `seed`.

    Raises
    ------
    UserError
        If the set has no training images.
    """
    return _sample(source, "train", source.subset, seed)


def target_sample(target: Target, split: str, seed: int) -> Sample:
    """Return the images of a target that a trial trains on, validates on or is tested on.

    Parameters
    ----------
    target : Target
        Says what stands in for a split that the set lacks.
    split : {"train", "validation", "test"}
    seed : int

    Raises
    ------
    UserError
        If the set lacks the split and what stands in for it, or no class has a second training image, which could be
        held out for validation.
    """
    data = load(target.images, target.size)
    splits = data.splits
    subset = target.subset if split == "train" else target.subset.shape
    if split == "test" or {"validation", "test"} <= splits.keys():
        stored = "validation" if "test" not in splits and "validation" in splits else split
        return _sample(target, stored, subset, seed)
    train = splits.get("train")
    rule = "has no images for validation: 2 training images of a class are needed at least, or a validation split"
    strata = train and (train.labels if train.labels.ndim == 1 else presence(train.labels, len(data.classes)) == 1)
    some = strata is None or (np.bincount(strata).max() if strata.ndim == 1 else len(strata)) > 1
    check(some, "data set", target.images.name, rule)
    given = train and hold_out(strata, train.names, seed) == (split == "validation")
    sample = _sample(target, "train", subset, seed, given)
    check(len(sample.rows) > 0, "data set", target.label, rule)
    return sample


def _sample(task: Source | Target, split: str, subset: Subset, seed: int, eligible: np.ndarray | bool = True) -> Sample:
    data, grey = load(task.images, task.size), bool(getattr(task, "grey", None))
    check(split in data.splits, "data set", task.images.name, f"has no {split} images")
    part, wanted = data.splits[split], getattr(task, "asks", SINGLE_LABEL).labels
    rule = "an image has boxes of objects, and no label; a target's task must be multi-label or detection"
    rule = rule if part.labels.ndim > 1 else "an image has a label, and no boxes of objects; leave the task out"
    check((wanted == "class") == (part.labels.ndim == 1), "data set", task.images.name, rule)
    labels = relabel(data.classes, subset, seed, data.tree, fewest=1 + (wanted != "boxes"))
    if wanted == "class":
        fine = np.where(eligible & (labels.mapping[part.labels] >= 0), part.labels, -1)
        rows = draw(fine, part.names, subset, seed, data.classes)
        new = labels.mapping[part.labels[rows]]
    else:
        out = relabel(data.classes, Subset(exclude=subset.exclude), seed, data.tree, fewest=0).mapping < 0
        boxes, stays = chosen(part.labels, labels.mapping, out)
        present = presence(boxes, len(labels.names))
        fine = np.where((eligible & stays)[:, None], present == 1, -1)
        rows = draw(fine, part.names, subset, seed, labels.names)
        new = (boxes if wanted == "boxes" else present)[rows]
    about = task.images, task.size, split, grey, labels.names
    return Sample(part.pixels, torch.from_numpy(rows), torch.from_numpy(new), len(labels.names), *about)
