"""Decoded images: uint8 tensors, made once and cached on disk by fingerprint, and the splits that trials read."""

import hashlib
import json
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from ..errors import UserError, check, few
from ..paths import cache_root, file_fingerprint, weights_file, writable, write_atomically
from ..specs import ImageSet, Source, Subset, Target
from . import catalog, synthetic
from .readers import Item, Opened, open_set
from .subsets import draw, hold_out, relabel
from .tree import ClassTree

STAYS = 4 << 30  # bytes of a split that stays on a device
AT_ONCE = 128  # images that a thread decodes before it takes more: one at a time, threads wait for each other


@dataclass(frozen=True)
class Split:
    """One split of an image set at one size.

    Attributes
    ----------
    pixels : Tensor of uint8, shape (N, size, size, 3)
        May be mapped from disk: index it, don't write to it.
    labels : ndarray of int64, shape (N,)
    names : list of str, length N
    """

    pixels: torch.Tensor
    labels: np.ndarray
    names: list[str]


@dataclass(frozen=True)
class Decoded:
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
    classes : int
    """

    pixels: torch.Tensor
    rows: torch.Tensor
    labels: torch.Tensor
    classes: int

    def to(self, device: torch.device) -> "Sample":
        """Return the sample on a device; off the CPU its split stays there for all samples of it, or, if too large, its own rows travel."""
        if device.type == "cpu":
            return self
        if self.pixels.nbytes <= STAYS:
            return Sample(_placed(self.pixels, device), self.rows.to(device), self.labels.to(device), self.classes)
        rows = torch.arange(len(self.rows), device=device)
        return Sample(self.pixels[self.rows].to(device), rows, self.labels.to(device), self.classes)


@lru_cache(maxsize=16)
def _placed(pixels: torch.Tensor, device: torch.device) -> torch.Tensor:
    return pixels.to(device)


def shrink(picture: Image.Image, size: int) -> np.ndarray:
    """Return a picture as uint8 (size, size, 3): the short side resized with a box filter, then a centre crop."""
    width, height = picture.size
    scale = size / min(width, height)
    width, height = max(size, round(width * scale)), max(size, round(height * scale))
    left, top = (width - size) // 2, (height - size) // 2
    return np.asarray(picture.resize((width, height), Image.Resampling.BOX).crop((left, top, left + size, top + size)))


def unreadable(opened: Opened) -> list[str]:
    """Return ``split/path`` of every item that is no whole image."""

    def broken(item: Item) -> bool:
        try:
            item.image()
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            return True
        return False

    with ThreadPoolExecutor() as pool:
        return [f"{s}/{i.path}" for s, items in opened.splits.items() for i, bad in zip(items, pool.map(broken, items), strict=True) if bad]


def pin(name: str, skip_unreadable: bool = False) -> dict:
    """Open a set, check every image, and write its fingerprint into the user's manifest.

    Parameters
    ----------
    name : str
        As in `open_set`; also ``file:NAME`` for weights, whose file is not looked into.
    skip_unreadable : bool
        Leave unreadable images out (their names are kept in the manifest).

    Returns
    -------
    dict
        The manifest's entry.

    Raises
    ------
    UserError
        If images are unreadable and may not be skipped, or as `open_set`.
    """
    if name.startswith("file:"):
        entry = {"fingerprint": file_fingerprint(weights_file(name))}
        catalog.pin(name, entry)
        return entry
    opened = open_set(name)
    bad = unreadable(opened)
    if bad and not skip_unreadable:
        many = f"{len(bad)} unreadable image{'s' * (len(bad) > 1)}"
        raise UserError(f"data set (={name}): {many} ({few(bad)}); leave out with --skip-unreadable")
    entry = describe(opened.without(set(bad))) | ({"skipped": bad} if bad else {})
    catalog.pin(name, entry)
    return entry


def describe(opened: Opened) -> dict:
    """Return a manifest entry: fingerprint, number of classes, images by split, and a hash over the images' names."""
    splits = {s: len(items) for s, items in opened.splits.items()}
    names = names_digest({s: [i.path for i in items] for s, items in opened.splits.items()})
    return {"fingerprint": opened.fingerprint(), "classes": len(opened.classes), "splits": splits, "names": names}


def names_digest(names: dict[str, list[str]]) -> str:
    """Return 16 hexadecimal digits over the names of a set's images by split, in any order."""
    lines = sorted(f"{split}/{name}" for split, paths in names.items() for name in paths)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def load(images: ImageSet, size: int) -> Decoded:
    """Return an image set decoded to `size` px, from the cache if it was decoded before.

    Raises
    ------
    UserError
        If the set is missing, or is not the one that the fingerprint names.
    """
    if images.name.startswith("synthetic:"):
        here = catalog.SYNTHETIC_FINGERPRINT
        check(images.fingerprint == here, f"{images.name} fingerprint", images.fingerprint, f"this package draws {here}")
        return synthetic_set(images.name, size)
    return _decoded(images.name, images.fingerprint, size)


@lru_cache(maxsize=8)
def synthetic_set(name: str, size: int) -> Decoded:
    """Return a set of the synthetic world at `size` px, from the cache if it was drawn before."""
    distance = catalog.synthetic_distance(name)
    drawn_by = file_fingerprint(Path(synthetic.__file__))
    folder = cache_root() / "drawn" / f"{drawn_by}-{'source' if distance is None else distance}-{size}"

    def draw() -> None:
        world, splits = synthetic.World(distance), ("train", "validation", "test")
        for split in splits:
            pixels, labels = world.draw(split, size)
            _keep(folder, split, pixels.numpy(), labels, [str(i) for i in range(len(labels))])
        _keep_classes(folder, world.classes, splits, world.tree)

    return _kept(folder, draw)


@lru_cache(maxsize=16)
def _decoded(name: str, fingerprint: str, size: int) -> Decoded:
    folder = cache_root() / "decoded" / f"{fingerprint}-{size}"
    return _kept(folder, partial(_decode, name, fingerprint, size, folder))


def _kept(folder: Path, make: Callable[[], None]) -> Decoded:
    """Return a set from the cache, made first where it is not there, or damaged."""
    with suppress(ValueError, OSError, EOFError, KeyError):
        return _read(folder)
    make()
    return _read(folder)


def _read(folder: Path) -> Decoded:
    about = json.loads((folder / "classes.json").read_text())
    splits = {}
    for split in about["splits"]:
        pixels = torch.from_numpy(np.load(folder / f"{split}.npy", mmap_mode="c"))
        names = json.loads((folder / f"{split}.json").read_text())
        splits[split] = Split(pixels, np.load(folder / f"{split}-labels.npy"), names)
    tree = ClassTree(about["tree"]) if about["tree"] else None
    return Decoded(tuple(about["classes"]), tree, splits)


def _keep(folder: Path, split: str, pixels: np.ndarray, labels: np.ndarray, names: list[str]) -> None:
    for name, array in ((split, pixels), (f"{split}-labels", labels)):
        write_atomically(folder / f"{name}.npy", partial(np.save, arr=array))
    write_atomically(folder / f"{split}.json", json.dumps(names))


def _keep_classes(folder: Path, classes: tuple[str, ...], splits: Iterable[str], tree: ClassTree | None) -> None:
    """Write the file that comes last, and says that all is there."""
    write_atomically(folder / "classes.json", json.dumps({"classes": classes, "splits": list(splits), "tree": tree and tree.paths}))


def _decode(name: str, fingerprint: str, size: int, folder: Path) -> None:
    """Decode every split of a set into `folder`."""
    opened = open_set(name).without(set(catalog.pinned(name).get("skipped", ())))
    found = opened.fingerprint()
    rule = f"the trials name {fingerprint}; if this set is meant: transferlab data pin {name}"
    check(found == fingerprint, f"{name} fingerprint", found, rule)
    writable("cache", folder)
    bar = tqdm(total=sum(map(len, opened.splits.values())), desc=f"decoding {name} to {size} px", unit=" images", disable=None, leave=False)
    for split, items in opened.splits.items():
        pixels = np.empty((len(items), size, size, 3), dtype=np.uint8)

        def place(some: range, items: list[Item] = items, pixels: np.ndarray = pixels) -> None:
            for i in some:
                pixels[i] = shrink(items[i].image(), size)
            bar.update(len(some))

        with ThreadPoolExecutor() as pool:
            list(pool.map(place, (range(len(items))[first : first + AT_ONCE] for first in range(0, len(items), AT_ONCE))))
        _keep(folder, split, pixels, np.array([i.label for i in items], dtype=np.int64), [i.path for i in items])
    bar.close()
    _keep_classes(folder, opened.classes, opened.splits, opened.tree)


def source_sample(source: Source, seed: int) -> Sample:
    """Return the training images of a source: all of its subset, drawn by `seed`.

    Raises
    ------
    UserError
        If the set has no training images.
    """
    sample = _sample(load(source.images, source.size), source.images.name, "train", source.subset, seed)
    return grey(sample) if source.grey else sample


LUMA = (0.299, 0.587, 0.114)  # of red, green and blue, ITU-R 601


def grey(sample: Sample) -> Sample:
    """Return a sample without colour: of its own images only, every channel the luma, rounded."""
    pixels = (sample.pixels[sample.rows].float() @ torch.tensor(LUMA)).round().to(torch.uint8)
    return replace(sample, pixels=pixels[..., None].expand(-1, -1, -1, 3).contiguous(), rows=torch.arange(len(sample.rows)))


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
        If the set lacks the split and what stands in for it.
    """
    data = load(target.images, target.size)
    subset = target.subset if split == "train" else target.subset.shape
    if split == "test" or {"validation", "test"} <= data.splits.keys():
        stored = "validation" if "test" not in data.splits and "validation" in data.splits else split
        return _sample(data, target.images.name, stored, subset, seed)
    train = data.splits.get("train")
    held = hold_out(train.labels, train.names, seed) if train else None
    return _sample(data, target.images.name, "train", subset, seed, held if split == "validation" or not train else ~held)


def _sample(data: Decoded, name: str, split: str, subset: Subset, seed: int, eligible: np.ndarray | bool = True) -> Sample:
    check(split in data.splits, "data set", name, f"has no {split} images")
    part = data.splits[split]
    labels = relabel(data.classes, subset, seed, data.tree)
    fine = np.where(eligible & (labels.mapping[part.labels] >= 0), part.labels, -1)
    rows = draw(fine, part.names, subset.per_class, seed, subset.images)
    return Sample(part.pixels, torch.from_numpy(rows), torch.from_numpy(labels.mapping[part.labels[rows]]), len(labels.names))
