"""Read image sets out of folders: a folder for each class, or a table of labels."""

import os
from collections import defaultdict
from functools import partial
from pathlib import Path

from ..errors import UserError, check
from .annotations import annotated
from .files import Parts, read_file, walk
from .labels import labels
from .objects import cleaned, crops
from .opened import Item, Opened, checked
from .shapes import Shape, refuse


def open_folder(folder: Path, name: str, cut: bool = True, objects: bool = False) -> Opened:
    """Open class-per-folder images: ``FOLDER/CLASS/*``, or ``FOLDER/train/CLASS/*`` beside ``validation`` and ``test``.

    Splits may have other names (see `shapes.split_of`), and may lie in the classes: ``FOLDER/CLASS/train/*``. A folder
    without splits gives up a fifth of each class for ``test``, unless it is not to be `cut`. Where there are no folders
    of classes, a table says the labels (see `labels.labels`). What is passed over is in `Opened.passed`.

    Where files of annotations lie beside the images (see `annotations`), these say where `objects` are: images are
    whole then, if that is asked for; otherwise each box is an image.

    Raises
    ------
    UserError
        If there is no such folder, it holds no classes or no images, or it can be read in two ways.
    """
    check(os.path.isdir(folder), "data set", name, "there is no such folder")
    found = walk(os.fspath(folder))
    if of := annotated(found, os.fspath(folder), partial(refuse, name, found)):
        classes, splits = of
        splits = {split: cleaned(items, found.passed) for split, items in splits.items()}
        if not objects:
            splits = {split: crops(items, found.passed, least=1) for split, items in splits.items()}
        if len(splits) > 1 or not cut:
            splits["train"] = splits.get("train", []) + splits.pop("", [])
        return checked(name, classes, splits, passed=found.passed)
    check(not objects, "data set", name, "has no boxes of objects")
    shape = Shape(name, found)
    if not found.pictures:
        no_images = "holds no images (JPEG, PNG, WebP, TIFF and what else Pillow opens)"
        shape.refuse(no_images if found.folders else "holds no folders of images; wanted: FOLDER/CLASS/image.jpg")
    flat, known = _tabled(shape)
    sides = {} if flat or "" not in shape.roots else shape.sides()
    names = {f[-1] for root in {*shape.roots.values()} - flat for f in found.folders if f[:-1] == root}
    rows: list[tuple[str, str, Item]] = []
    for file in found.pictures:
        split, root = next(
            ((s, r) for s, r in shape.roots.items() if file.parts[: len(r)] == r and len(file.parts) > len(r)),
            (None, ()),
        )
        inner, (label, said) = file.parts[len(root) :], known.get(file.parts, ("", ""))
        if split is None:
            found.passed["beside the splits"].append(file.path)
        elif root in flat and not label:
            found.passed["without a label"].append(file.path)
        elif root not in flat and len(inner) == 1:
            found.passed["without a class"].append(file.path)
        else:
            split, label = (said or split, label) if root in flat else (sides.get(inner[:2], split), inner[0])
            rows.append((split, label, Item("/".join(inner), 0, partial(read_file, file.place), place=file.place)))
    classes = tuple(sorted(names | {label for _, label, _ in rows}))
    at = {label: number for number, label in enumerate(classes)}
    splits = defaultdict(list)
    for split, label, item in rows:
        splits[split].append(item._replace(label=at[label]))
    if len(splits) > 1 or not cut:
        splits["train"] += splits.pop("", [])
    return checked(name, classes, splits, passed=found.passed)


def _tabled(shape: Shape) -> tuple[set[Parts], dict[Parts, tuple[str, str]]]:
    """Return the folders of splits that have no folders of classes, and the labels that a table says instead.

    Raises
    ------
    UserError
        If there is no such table for the training images, or there are both, and they say different things.
    """
    found, whole = shape.found, shape.roots.get("")
    flat = {root for root in shape.roots.values() if not shape.classes(root)}
    if whole is not None and found.tables and len(shape.classes(whole)) == 1:
        flat = {whole}
    if flat and (known := labels(found, shape.refuse)):
        return flat, known
    if whole in flat and not shape.classes(whole):
        shape.refuse("holds no folders of images; wanted: FOLDER/CLASS/image.jpg, or a table (.csv) of their labels")
    if flat:
        if shape.roots.get("train") in flat:
            where = "/".join(shape.roots["train"])
            shape.refuse(f"{where} holds images, but no folders of classes, and no table (.csv) says their labels")
        return flat - {whole}, {}
    own = found._replace(passed=defaultdict(list))
    try:
        known = labels(own, shape.refuse)
    except UserError:  # the folders say enough
        known = {}
    found.passed["other suffixes"] += [table.path for table in found.tables]
    said = defaultdict(set)
    for parts, (label, _) in known.items():
        for root in shape.roots.values():
            if parts[: len(root)] == root and len(parts) > len(root) + 1:
                said[parts[len(root)]].add(label)
    for folder, names in said.items():
        if len(names) > 1:
            shape.refuse(
                f"can be read in two ways: by its folders ({folder} ...), or by the labels of {found.tables[0].path} "
                f"({', '.join(sorted(names)[:3])} in {folder}); rename the table, or put all images into one folder"
            )
    return flat, {}
