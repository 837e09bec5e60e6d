"""Open labelled image sets of three kinds: Parquet files, a folder a class, torchvision's own; `images` decodes them.

A reader returns an `Opened`: class names, and for each split its items in canonical order (by label, then by name), so
that neither the order of files nor of rows matters anywhere.
"""

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from ..errors import UserError, check, line
from ..paths import data_root
from .subsets import hold_out
from .tree import ClassTree

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
SPLITS = ("train", "validation", "test")
FOLDERS = dict(zip(SPLITS, SPLITS, strict=True)) | {"val": "validation", "valid": "validation"}
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
        return _checked(self.name, self.classes, kept, self.tree)


def open_set(name: str) -> Opened:
    """Open an image set by name.

    Parameters
    ----------
    name : str
        ``flowers102`` or another folder of Parquet files below the data root, ``folder:PATH`` or ``torchvision:NAME``.

    Raises
    ------
    UserError
        If it is not there, holds no images or no labels, has one class, or a class without training images.
    """
    if name.startswith("folder:"):
        check(name != "folder:", "data set", name, "must name a folder: folder:PATH")
        return open_folder(Path(name.removeprefix("folder:")).expanduser(), name)
    if name.startswith("torchvision:"):
        from .torchvision_sets import open_torchvision

        return open_torchvision(name.removeprefix("torchvision:"))
    return open_parquet(data_root() / name, name)


def _checked(name: str, classes: tuple[str, ...], splits: dict, tree: ClassTree | None = None) -> Opened:
    check(len(classes) != 1, "data set", name, f"has one class ({classes[:1]}); at least two are needed")
    splits = {s: sorted(splits[s], key=lambda i: (i.label, i.path)) for s in SPLITS if splits.get(s)}
    check(bool(splits), "data set", name, "has no images")
    for split, items in splits.items():
        empty = set(range(len(classes))) - {i.label for i in items}
        check(not empty, "data set", name, f"class {classes[min(empty, default=0)]} has no {split} images")
    if tree is not None:
        tree.covers(classes)
    return Opened(name, classes, splits, tree)


def split_off_test(items: list[Item]) -> dict[str, list[Item]]:
    """Return the items of a set without splits as ``train`` and ``test``: each class gives up a fifth."""
    held = hold_out(np.array([i.label for i in items]), [i.path for i in items], seed=0, purpose="test")
    return {s: [i for i, out in zip(items, held, strict=True) if out == (s == "test")] for s in ("train", "test")}


def open_parquet(folder: Path, name: str) -> Opened:
    """Open a folder of ``SPLIT-*.parquet`` files in the Hugging Face image convention.

    Each file has a struct column ``image`` (``bytes``, ``path``) and an integer column ``label``; class names stand in
    the schema's metadata. Of a detection set, which has ``objects`` (lists of ``bbox``, ``category`` and
    ``difficult``) in place of labels, every object's box is an image; those that are marked difficult are left out. A
    file ``wordnet.json`` beside them, if there is one, is the class tree.
    """
    files = [(split, path) for split in SPLITS for path in sorted(folder.glob(f"{split}-*.parquet"))]
    rule = f"no Parquet files under {folder}; set TRANSFERLAB_DATA to the folder of image sets"
    check(bool(files), "data set", name, rule)
    classes: tuple[str, ...] = ()
    splits: dict[str, list[Item]] = {}
    for split, path in files:
        names, contents, rows = _parquet(path)
        classes = classes or names
        check(names == classes, "Parquet file", path, "names other classes than the files before it")
        for row, (image, shown) in enumerate(rows):
            for number, (label, box) in enumerate(shown):
                known = label is not None and 0 <= label < len(classes)
                check(known, "label", label, f"{path.name} row {row}: must be 0 to {len(classes) - 1}")
                called = (image or f"{path.stem}/{row}") + f"#{number}" * bool(box)
                item = Item(called, label, lambda c=contents, r=row: c[r].as_py() or b"", box)
                splits.setdefault(split, []).append(item)
    tree = folder / "wordnet.json"
    return _checked(name, classes, splits, wordnet_tree(tree) if tree.is_file() else None)


def _parquet(path: Path):
    """Return of a Parquet file the class names, the images' bytes, and for each row its name and what it shows: labels,
    each with a box, which is empty where the label is that of the whole image.
    """
    from pyarrow import parquet, types

    try:
        file = parquet.ParquetFile(path)
        about = "objects" if {"objects", "label"} & {*file.schema_arrow.names} == {"objects"} else "label"
        rows = file.read(["image", about])
    except (OSError, ValueError) as e:
        raise UserError(f"Parquet file (={path}): cannot be read ({str(e).splitlines()[0]})") from e
    missing = [c for c in ("image", about) if c not in rows.column_names]
    check(not missing, "Parquet file", path, f"has no column {' and none '.join(missing)}")
    image, label = (rows.schema.field(name).type for name in ("image", about))
    proper = types.is_struct(image) and min(map(image.get_field_index, ("bytes", "path"))) >= 0
    rule = f"image (={image}) must be a struct of bytes and path, {about} (={label}) "
    if about == "label":
        check(proper and types.is_integer(label), "Parquet file", path, rule + "a whole number")
    else:
        known = types.is_struct(label) and min(map(label.get_field_index, ("bbox", "category", "difficult"))) >= 0
        check(proper and known, "Parquet file", path, rule + "one of bbox, category and difficult")
    try:
        features = json.loads(rows.schema.metadata[b"huggingface"])["info"]["features"][about]
        names = tuple((features["category"]["feature"] if about == "objects" else features)["names"])
    except (KeyError, TypeError, ValueError) as e:
        wanted = f"huggingface, features, {about}, names"
        raise UserError(f"Parquet file (={path}): names no classes in its metadata ({wanted})") from e
    shown = ([(label, ())] for label in rows[about].to_pylist())
    if about == "objects":
        shown = [_objects(found, f"{path.name} row {row}") for row, found in enumerate(rows[about].to_pylist())]
    rows = rows.flatten()
    return names, rows["image.bytes"], zip(rows["image.path"].to_pylist(), shown, strict=True)


def _objects(found: dict | None, where: str) -> list[tuple[int, tuple[float, ...]]]:
    """Return the labels and boxes of a row's objects, but for the difficult ones."""
    category, bbox, difficult = ((found or {}).get(name) or [] for name in ("category", "bbox", "difficult"))
    whole = all(box and len(box) == 4 and None not in box for box in bbox)
    fits = whole and len(category) == len(bbox) == len(difficult)
    check(fits, "objects", where, "must have a bbox of four numbers, a category and difficult for each object")
    return [(of, tuple(box)) for of, box, hard in zip(category, bbox, difficult, strict=True) if not hard]


def wordnet_tree(path: Path) -> ClassTree:
    """Read a class tree from JSON: ``{class: {"path": [{"wnid": node}, ...]}}``, from the root to the class."""
    try:
        return ClassTree.of(json.loads(path.read_text()))
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        wanted = "{class: {path: [{wnid: node}, ...]}}"
        raise UserError(f"class tree (={path}): cannot be read; wanted: {wanted}") from e


def _folders(root: Path) -> set[str]:
    return {d.name for d in root.iterdir() if d.is_dir() and not d.name.startswith(".")}


def open_folder(folder: Path, name: str) -> Opened:
    """Open class-per-folder images: ``FOLDER/CLASS/*``, or ``FOLDER/train/CLASS/*`` beside ``validation`` and ``test``.

    ``val`` and ``valid`` are read as ``validation``. A folder without splits gives up a fifth of each class for
    ``test``. Hidden files and folders are left out.
    """
    check(folder.is_dir(), "data set", name, "there is no such folder")
    roots = {FOLDERS[d.name]: d for d in sorted(folder.iterdir()) if d.name in FOLDERS and d.is_dir()}
    if "train" not in roots:
        others = _folders(folder) - {d.name for d in roots.values()}
        check(bool(others) or not roots, "data set", name, f"has {' and '.join(roots)} but no train folder")
        roots = {"train": folder}
    classes = tuple(sorted(set().union(*map(_folders, roots.values()))))
    check(bool(classes), "data set", name, "holds no folders of images; wanted: FOLDER/CLASS/image.jpg")
    splits: dict[str, list[Item]] = {}
    for split, root in roots.items():
        for label, cls in enumerate(classes):
            for file in sorted((root / cls).rglob("*")):
                path = file.relative_to(root)
                shown = not any(part.startswith(".") for part in path.parts)
                if shown and file.suffix.lower() in IMAGE_SUFFIXES and file.is_file():
                    splits.setdefault(split, []).append(Item(path.as_posix(), label, file.read_bytes))
    check(bool(splits), "data set", name, f"holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return _checked(name, classes, splits if roots["train"] != folder else split_off_test(splits["train"]))
