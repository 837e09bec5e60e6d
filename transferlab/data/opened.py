"""An image set that was opened: its items are known, and not decoded yet; every reader returns one."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..errors import UserError, check, few, line
from ..specs.catalog import passed_over
from . import decoding
from .files import letters
from .subsets import hold_out
from .tree import ClassTree

SPLITS = ("train", "validation", "test")


class Item(NamedTuple):
    """One labelled image: its name within the set, its label, how to get its file's bytes or its picture, which box of
    it, in pixels: left, top, right, bottom; and where its file lies, if that is a plain one. Of a whole image the
    `objects` that it has, each with class, left, top, right, bottom and whether it is difficult; ``None`` of one with a
    label.
    """

    path: str
    label: int
    load: Callable[[], bytes | Image.Image]
    box: tuple[float, ...] = ()
    place: str = ""
    objects: tuple[tuple, ...] | None = None

    def content(self) -> bytes | Image.Image:
        """Return its file's bytes, or its picture.

        Raises
        ------
        UserError
            If it is not there, or may not be read.
        """
        try:
            return self.load()
        except OSError as e:
            raise UserError(f"image (={self.path}): cannot be read ({line(e)})") from e

    def image(self) -> Image.Image:
        """Return the picture, upright and in RGB, as `decoding` makes it.

        Raises
        ------
        UserError
            If it is no whole image; a `decoding.TooLargeError` if it has more pixels than are allowed.
        """
        content = self.content()
        try:
            picture = decoding.decode(content)
            if not self.box:
                return picture
            left, top, right, bottom = box = tuple(map(round, self.box))
            inside = 0 <= left < right <= picture.width and 0 <= top < bottom <= picture.height
            check(
                inside, "box", box, f"must be left, top, right, bottom within {picture.width} x {picture.height} pixels"
            )
            return picture.crop(box)
        except decoding.TooLargeError as e:
            raise decoding.TooLargeError(f"image (={self.path}): {e}") from e
        except Exception as e:  # a damaged file is whatever its parser trips over
            raise UserError(f"image (={self.path}): cannot be read ({decoding.reason(content, e)})") from e

    def digest(self) -> str:
        """Return the SHA-256 of the file's bytes, or of the pixels where there is no file, and of what else decides
        which pixels are read: the box, and the version of decoding where it is not the first.
        """
        loaded = self.content()
        version = decoding.version(loaded, self.box)
        if not isinstance(loaded, bytes):
            loaded = f"{loaded.mode}{loaded.size}".encode() + loaded.tobytes()
        more = repr(self.box) * bool(self.box) + f"decoder {version}" * (version > 1)
        more += f"objects {self.objects!r}" * (self.objects is not None)
        return hashlib.sha256(loaded + more.encode()).hexdigest()


class Opened(NamedTuple):
    """An image set whose items are known and whose pixels are not decoded yet. No two items of a split share a name,
    unless their content is the same; `passed` are the names of what was passed over, by kind; of a `whole` set, which
    comes without splits, each class gave up a fifth for ``test``.
    """

    name: str
    classes: tuple[str, ...]
    splits: dict[str, list[Item]]
    tree: ClassTree | None = None
    passed: dict[str, list[str]] = {}  # noqa: RUF012
    whole: bool = False

    @property
    def annotated(self) -> bool:
        """Whether images are whole, with objects instead of a label."""
        return any(item.objects is not None for items in self.splits.values() for item in items)

    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits over class names, class tree, image names, labels and file contents."""
        tree = sorted(self.tree.paths.items()) if self.tree else None
        whole = hashlib.sha256(json.dumps([self.classes, tree]).encode())
        for split, items in self.splits.items():
            for item in items:
                whole.update(f"{split}\t{item.label}\t{item.path}\t{item.digest()}\n".encode())
        return whole.hexdigest()[:16]

    def without(self, left_out: set[str]) -> "Opened":
        """Return the set without the items called ``split/path``; what a whole one gives up is drawn afresh."""
        kept = {s: [i for i in items if f"{s}/{i.path}" not in left_out] for s, items in self.splits.items()}
        kept = {"": [i for items in kept.values() for i in items]} if self.whole else kept
        passed = self.passed | {"left out": sorted(left_out)}
        return checked(self.name, self.classes, kept, self.tree, passed)._replace(passed=self.passed)


def counted(passed: dict[str, list[str]]) -> dict[str, list]:
    """Return of what was passed over how many there are of each kind, and the first names."""
    return {kind: [len(names), few(names)] for kind, names in sorted(passed.items()) if names}


def checked(
    name: str,
    classes: tuple[str, ...],
    splits: dict[str, list[Item]],
    tree: ClassTree | None = None,
    passed: dict[str, list[str]] | None = None,
) -> Opened:
    """Return a set in canonical order, if each split has images of every class; one without a name is the whole set.

    Of whole images with objects, some training images must have objects.
    """
    passed = passed or {}
    more = "".join(f"; {words}" for words in [passed_over(counted(passed))] if words)
    splits = {s: _apart(splits[s]) for s in (*SPLITS, "") if splits.get(s)}
    whole = any(item.objects is not None for items in splits.values() for item in items)
    check(whole or len(classes) != 1, "data set", name, f"has one class ({classes[:1]}); at least two are needed{more}")
    check(bool(splits), "data set", name, f"has no images{more}")
    if whole:
        some = any(item.objects for split in ("train", "") for item in splits.get(split, ()))
        check(some, "data set", name, f"has no objects in its training images{more}")
    for split, items in splits.items() if not whole else ():
        count = Counter(i.label for i in items)
        lacking = [c for label, c in enumerate(classes) if count[label] < (1 if split else 2)]
        alike = [c for c in classes if lacking and c != lacking[0] and letters(c) == letters(lacking[0])]
        rule = f"has no {split} images" if split else "has fewer than 2 images, of which one is to test on"
        rule = " ".join(["class", *lacking[:1], rule, *(f"(is {c} the same class?)" for c in alike[:1])])
        check(not lacking, "data set", name, rule + more)
    if tree is not None:
        tree.covers(classes)
    undivided = splits.pop("", None)
    splits = split_off_test(undivided, len(classes)) if undivided else splits
    return Opened(name, classes, splits, tree, passed, undivided is not None)


def _apart(items: Iterable[Item]) -> list[Item]:
    """Return items in order, with names of their own: those that share one are told apart by what they hold."""
    shared = Counter(i.path for i in items)
    named = (i._replace(path=f"{i.path}~{i.digest()[:8]}") if shared[i.path] > 1 else i for i in items)
    return sorted(named, key=lambda i: (i.label, i.path))


def split_off_test(items: list[Item], classes: int) -> dict[str, list[Item]]:
    """Return the items of a set without splits as ``train`` and ``test``: each class gives up a fifth."""
    if items[0].objects is None:
        labels = np.array([i.label for i in items])
    else:
        labels = np.array([np.isin(range(classes), [of[0] for of in i.objects if not of[-1]]) for i in items])
    held = hold_out(labels, [i.path for i in items], seed=0, purpose="test")
    return {s: [i for i, out in zip(items, held, strict=True) if out == (s == "test")] for s in ("train", "test")}
