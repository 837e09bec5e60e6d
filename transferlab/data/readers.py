"""Open labelled image sets of three kinds: Parquet files, a folder a class, torchvision's own; `images` decodes them.

A reader returns an `Opened`: class names, and for each split its items in canonical order (by label, then by name), so
that neither the order of files nor of rows matters anywhere.
"""

import json
import os
from functools import partial
from pathlib import Path

from ..errors import check
from ..paths import data_root, write_atomically
from ..specs import catalog
from .files import read_file
from .folders import open_folder
from .opened import Item as Item
from .opened import Opened, checked
from .parquet import open_parquet


def open_set(name: str, columns: dict[str, str] | None = None, cut: bool = True, objects: bool = False) -> Opened:
    """Open an image set by name.

    Parameters
    ----------
    name : str
        ``flowers102`` or another folder of Parquet files below the data root, ``folder:PATH`` or ``torchvision:NAME``.
    columns : dict, optional
        Of Parquet files, the columns called ``image`` and ``label`` here.
    cut : bool
        Whether a folder without splits gives up images for ``test``: otherwise all are ``train``.
    objects : bool
        Of a set with boxes of objects images are whole (`Opened.annotated`); otherwise each box is one.

    Raises
    ------
    UserError
        If it is not there, holds no images or no labels, has one class, or a class without training images, or no
        objects where they are asked for.
    """
    if columns:
        parquet = not name.startswith(("folder:", "torchvision:"))
        check(parquet, "columns", ", ".join(columns.values()), "are named of Parquet files only")
    if name.startswith("folder:"):
        check(name != "folder:", "data set", name, "must name a folder: folder:PATH")
        path = Path(os.path.expanduser(name.removeprefix("folder:")))
        if name.endswith(catalog.LIST) and not objects:
            return open_list(path, name)
        return open_folder(path, name, cut, objects)
    check(not (objects and name.startswith("torchvision:")), "data set", name, "has no boxes of objects")
    if name.startswith("torchvision:"):
        from .torchvision_sets import open_torchvision

        return open_torchvision(name.removeprefix("torchvision:"))
    return open_parquet(data_root() / name, name, columns, objects)


def open_list(path: Path, name: str) -> Opened:
    """Open files that are listed, with their names, labels and splits, wherever they lie: see `write_list`."""
    about = catalog.listed(path)
    splits = {
        split: [Item(n, label, partial(read_file, place), tuple(box), place) for n, label, place, *box in rows]
        for split, rows in about["items"].items()
    }
    return checked(name, tuple(about["classes"]), splits)


def write_list(folder: Path, opened: Opened) -> str:
    """Write a list of a set's files, whose name is that of its content, and return the name of the set that it is."""
    entry = {"fingerprint": opened.fingerprint(), "splits": {s: len(items) for s, items in opened.splits.items()}}
    items = {s: [(i.path, i.label, os.path.abspath(i.place), *i.box) for i in its] for s, its in opened.splits.items()}
    path = folder.absolute() / f"{entry['fingerprint']}{catalog.LIST}"
    write_atomically(path, json.dumps({"classes": opened.classes, "pinned": entry, "items": items}))
    return f"folder:{path}"
