"""Read image sets out of Parquet files, in the Hugging Face image convention."""

import json
from pathlib import Path

from ..errors import UserError, check
from .opened import SPLITS, Item, Opened, checked
from .tree import ClassTree


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
    return checked(name, classes, splits, wordnet_tree(tree) if tree.is_file() else None)


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
