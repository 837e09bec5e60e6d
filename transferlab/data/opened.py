"""An image set that was opened: its items are known, and not decoded yet; every reader returns one."""

import hashlib
import io
import json
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from ..errors import UserError, check, line
from .subsets import hold_out
from .tree import ClassTree

SPLITS = ("train", "validation", "test")
BAD = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # what Pillow raises


class Item(NamedTuple):
    """One labelled image: its name within the set, its label, how to get its file's bytes or its picture, and which box
    of it, in pixels: left, top, right, bottom.
    """

    path: str
    label: int
    load: Callable[[], bytes | Image.Image]
    box: tuple[float, ...] = ()

    def image(self) -> Image.Image:
        """Return the picture, upright and in RGB.

        Raises
        ------
        UserError
            If it is no whole image.
        """
        try:
            loaded = self.load()
            picture = Image.open(io.BytesIO(loaded)) if isinstance(loaded, bytes) else loaded
            if picture.mode.startswith("I"):  # 16 bits a pixel
                picture = picture.convert("I").point(lambda v: v / 256).convert("L")
            picture = ImageOps.exif_transpose(picture).convert("RGB")
            if not self.box:
                return picture
            left, top, right, bottom = box = tuple(map(round, self.box))
            inside = 0 <= left < right <= picture.width and 0 <= top < bottom <= picture.height
            check(
                inside, "box", box, f"must be left, top, right, bottom within {picture.width} x {picture.height} pixels"
            )
            return picture.crop(box)
        except BAD as e:
            raise UserError(f"image (={self.path}): cannot be read ({line(e)})") from e

    def digest(self) -> str:
        """Return the SHA-256 of the file's bytes, or of the pixels where there is no file."""
        loaded = self.load()
        if not isinstance(loaded, bytes):
            loaded = f"{loaded.mode}{loaded.size}".encode() + loaded.tobytes()
        return hashlib.sha256(loaded + repr(self.box).encode() * bool(self.box)).hexdigest()


class Opened(NamedTuple):
    """An image set whose items are known and whose pixels are not decoded yet."""

    name: str
    classes: tuple[str, ...]
    splits: dict[str, list[Item]]
    tree: ClassTree | None = None
    passed: dict[str, list[str]] = {}  # noqa: RUF012

    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits over class names, class tree, image names, labels and file contents."""
        tree = sorted(self.tree.paths.items()) if self.tree else None
        whole = hashlib.sha256(json.dumps([self.classes, tree]).encode())
        for split, items in self.splits.items():
            for item in items:
                whole.update(f"{split}\t{item.label}\t{item.path}\t{item.digest()}\n".encode())
        return whole.hexdigest()[:16]

    def without(self, left_out: set[str]) -> "Opened":
        """Return the set without the items called ``split/path``."""
        kept = {s: [i for i in items if f"{s}/{i.path}" not in left_out] for s, items in self.splits.items()}
        return checked(self.name, self.classes, kept, self.tree, self.passed)


def checked(
    name: str,
    classes: tuple[str, ...],
    splits: dict[str, list[Item]],
    tree: ClassTree | None = None,
    passed: dict[str, list[str]] | None = None,
) -> Opened:
    check(len(classes) != 1, "data set", name, f"has one class ({classes[:1]}); at least two are needed")
    splits = {s: sorted(splits[s], key=lambda i: (i.label, i.path)) for s in SPLITS if splits.get(s)}
    check(bool(splits), "data set", name, "has no images")
    for split, items in splits.items():
        empty = set(range(len(classes))) - {i.label for i in items}
        check(not empty, "data set", name, f"class {classes[min(empty, default=0)]} has no {split} images")
    if tree is not None:
        tree.covers(classes)
    return Opened(name, classes, splits, tree, passed or {})


def split_off_test(items: list[Item]) -> dict[str, list[Item]]:
    """Return the items of a set without splits as ``train`` and ``test``: each class gives up a fifth."""
    held = hold_out(np.array([i.label for i in items]), [i.path for i in items], seed=0, purpose="test")
    return {s: [i for i, out in zip(items, held, strict=True) if out == (s == "test")] for s in ("train", "test")}
