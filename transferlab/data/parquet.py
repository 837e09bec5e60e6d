"""Read image sets out of Parquet files, as the Hugging Face Hub, and whoever has a table of images, writes them."""

import io
import json
import os
import tempfile
import threading
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import DiskError, UserError, check
from ..paths import cache_root, writable
from ..specs import catalog
from .files import composed
from .objects import cleaned, crops
from .opened import Item, Opened, checked
from .parquet_layout import class_names, columns_of, form, open_file, parquet_files
from .tree import ClassTree

HELD = 32 << 20  # bytes of a file that are read at a time, about
IN_MEMORY = 256 << 20  # bytes of files whose images stay in memory while they are decoded


def open_parquet(folder: Path, name: str, columns: dict[str, str] | None = None, objects: bool = False) -> Opened:
    """Open a folder of Parquet files.

    Which split a file is of, its name says, or its folder's (``train-00000-of-00001.parquet``, ``val.parquet``,
    ``default/train/0000.parquet``); where none does, each class gives up a fifth for ``test``. One column has the
    images: structs of ``bytes`` and ``path``, bytes, or paths, which are looked for beside the file. Another one has
    the labels: text, or whole numbers, whose names stand in the schema's metadata (else the numbers are the names). Of
    a detection set, which has ``objects`` (lists of ``bbox``, ``category`` and ``difficult``) in place of labels, every
    object's box is an image; those that are marked difficult are left out. A file ``wordnet.json`` beside them, if
    there is one, is the class tree. Rows without a label or an image are passed over. A few rows are in memory at a
    time.

    Parameters
    ----------
    folder : Path
    name : str
        Of the set.
    columns : dict, optional
        Names of the columns called ``image`` and ``label`` here; by default those that were pinned, else found.
    objects : bool
        Of a detection set images are whole, with all their objects.

    Raises
    ------
    UserError
        If there are no such files, some cannot be read, or they may be read in several ways.
    """
    files, passed = parquet_files(folder, name)
    wanted = columns or catalog.local().get(name, {}).get("columns", {})
    chosen: dict[str, str] = {}
    names: tuple[str, ...] = ()
    spool, rows, used = _Spool(sum(path.stat().st_size for _, path, _ in files)), defaultdict(list), set()
    for split, path, here in files:
        file = open_file(path)
        chosen = chosen or columns_of(file, path, name, wanted)
        image, about = chosen["image"], chosen["label"]
        count = file.schema_arrow.names.count
        once = count(image) == 1 and count(about) < 2
        check(once, "Parquet file", path, f"must have one column {image}, and not several {about}")
        found = class_names(file, about)
        check(found in ((), names or found), "Parquet file", path, "names other classes than the files before it")
        names = names or found
        for row, (called, content, told) in enumerate(_rows(file, path, image, about)):
            where = f"{here} row {row}"
            label, its = (0, _objects(told, where)) if about == "objects" else (_label(told, where), None)
            if content is None and not called:
                passed["rows without an image"].append(where)
                continue
            if label is None:
                passed["rows without a label"].append(where)
                continue
            if content is None:
                check(len(called) < 1024, "Parquet file", path, f"{where}: {image} is a long text, and names no file")
                place = _beside(path.parent, folder, called)
                used.add(place)
                load = place.read_bytes
            else:
                load = spool.put(content)
            rows[split].append((Item(called or f"{path.stem}/{row}", label, load, objects=its), where))
    passed["other suffixes"] = [here for here in passed["other suffixes"] if folder / here not in used]
    labels = {item.label for some in rows.values() for item, _ in some}
    check(len({*map(type, labels)}) < 2, "data set", name, "labels are text in some rows, and numbers in others")
    if names and not any(isinstance(label, str) for label in labels):
        at = {number: number for number in range(len(names))}
    else:
        check(about != "objects", "data set", name, "objects want names in the metadata (features, objects, category)")
        at, names = {label: i for i, label in enumerate(sorted(labels))}, tuple(map(str, sorted(labels)))
    splits: dict[str, list[Item]] = defaultdict(list)
    for split, some in rows.items():
        for item, where in some:
            for label in [item.label] if item.objects is None else [of[0] for of in item.objects]:
                check(label in at, "label", label, f"{where}: must be 0 to {len(names) - 1}")
            splits[split].append(item._replace(label=at[item.label]))
    check(about == "objects" or not objects, "data set", name, "has labels of images, and no boxes of objects")
    if about == "objects":
        splits = {split: (cleaned if objects else crops)(items, passed) for split, items in splits.items()}
    tree = folder / "wordnet.json"
    return checked(name, names, splits, wordnet_tree(tree) if os.path.isfile(tree) else None, dict(passed))


class _Spool:
    """Bytes of images, from which they are read one by one: in memory, or if they are too many in a temporary file."""

    def __init__(self, size: int) -> None:
        large, folder = size > IN_MEMORY, None  # that of the system
        if large:
            with suppress(UserError):
                folder = writable("cache", cache_root())
        self.file = tempfile.TemporaryFile(dir=folder) if large else io.BytesIO()  # noqa: SIM115  (closed with the set)
        weakref.finalize(self, self.file.close)
        self.end, self.lock = 0, threading.Lock()

    def put(self, content: bytes) -> Callable[[], bytes]:
        """Write an image's bytes, and return what reads them."""
        try:
            self.file.write(content)
        except OSError as e:
            rule = f"cannot hold the images while they are read ({e.strerror}); free the disk or name another folder"
            raise DiskError(f"cache (={cache_root()}): {rule}") from e
        self.end += len(content)
        return partial(self._get, self.end - len(content), len(content))

    def _get(self, at: int, size: int) -> bytes:
        with self.lock:
            self.file.seek(at)
            return self.file.read(size)


def _beside(near: Path, folder: Path, called: str) -> Path:
    """Return where an image lies that a row only names: where the row says, or beside its file or in the set's folder,
    under as many of the last names of the path as are there.
    """
    parts = called.replace("\\", "/").split("/")
    places = [Path(at, "/".join(parts[first:])) for first in range(len(parts)) for at in (near, folder)]
    return next((place for place in places if os.path.isfile(place)), places[0])


def _rows(file: Any, path: Path, image: str, about: str) -> Iterator[tuple[str | None, bytes | None, Any]]:
    """Yield of each row the image's name and bytes, and what says its label: nothing where the file has no such column.

    Raises
    ------
    UserError
        If the file is damaged, or the columns hold something else.
    """
    from pyarrow import types

    schema, about_all = file.schema_arrow, file.metadata
    there = about in schema.names
    kind, told = schema.field(image).type, schema.field(about).type if there else None
    size = sum(about_all.row_group(i).total_byte_size for i in range(about_all.num_row_groups))
    some = max(1, min(1000, HELD * about_all.num_rows // max(1, size)))
    plain = told is None or types.is_dictionary(told) or types.is_null(told) or types.is_boolean(told)
    plain = plain or types.is_integer(told) or types.is_floating(told) or types.is_decimal(told) or form(told) == "text"
    if about == "objects":
        known = types.is_struct(told) and min(map(told.get_field_index, ("bbox", "category", "difficult"))) >= 0
        check(known, "Parquet file", path, f"objects (={told}) must be a struct of bbox, category and difficult")
    else:
        rule = f"{about} (={told}) must be whole numbers or text"
        check(plain, "Parquet file", path, rule)
    try:
        for batch in file.iter_batches(some, columns=[image] + [about] * there):
            images, paths = batch.column(image), [None] * len(batch)
            if types.is_struct(kind):
                parts = dict(zip((field.name for field in kind), images.flatten(), strict=True))
                images, paths = parts.get("bytes", paths), parts.get("path", paths)
            elif form(kind) == "text":
                images, paths = paths, images
            contents = images if isinstance(images, list) else (value.as_py() for value in images)
            paths = paths if isinstance(paths, list) else paths.to_pylist()
            yield from zip(
                paths, contents, batch.column(about).to_pylist() if there else [None] * len(batch), strict=True
            )
    except (OSError, ValueError) as e:
        if isinstance(e, UserError):
            raise
        raise UserError(f"Parquet file (={path}): cannot be read ({str(e).splitlines()[0]})") from e


def _label(told: Any, where: str) -> int | str | None:
    """Return a row's label; nothing where it has none: null, not a number, below zero, or empty."""
    if isinstance(told, str):
        return composed(told.strip()) or None
    if told is None or told != told or told < 0:
        return None
    check(told == int(told), "label", told, f"{where}: must be a whole number")
    return int(told)


def _objects(found: dict | None, where: str) -> tuple[tuple, ...]:
    """Return a row's objects as `Item.objects`."""
    category, bbox, difficult = ((found or {}).get(name) or [] for name in ("category", "bbox", "difficult"))
    whole = all(box and len(box) == 4 and None not in box for box in bbox)
    fits = whole and len(category) == len(bbox) == len(difficult)
    check(fits, "objects", where, "must have a bbox of four numbers, a category and difficult for each object")
    return tuple((of, *box, bool(hard)) for of, box, hard in zip(category, bbox, difficult, strict=True))


def wordnet_tree(path: Path) -> ClassTree:
    """Read a class tree from JSON: ``{class: {"path": [{"wnid": node}, ...]}}``, from the root to the class."""
    try:
        return ClassTree.of(json.loads(path.read_text()))
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        wanted = "{class: {path: [{wnid: node}, ...]}}"
        raise UserError(f"class tree (={path}): cannot be read; wanted: {wanted}") from e
