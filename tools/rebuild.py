"""Rebuild the project's Parquet sets from their public originals: ``python tools/rebuild.py NAME --from FOLDER``.

``rebuild_sets`` says what a set is made of; here the images are resized, encoded and written. A rebuilt set has its own
fingerprint, because encoders and resize filters differ from one library's version to the next, and so its trials have
records of their own. tiny-imagenet keeps the original's bytes and comes out the same; so may cifar100 and mnist, which
are neither resized nor compressed with loss.
"""

import argparse
import json
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from rebuild_sets import FINDERS, ORIGINALS, Box, Entry, Found, Original, wordnet_json
from tqdm.auto import tqdm

from transferlab.data import pinning
from transferlab.data.parquet import open_parquet
from transferlab.errors import UserError, check, choose, few, line
from transferlab.paths import data_root, writable, write_atomically
from transferlab.specs import catalog

ROWS = 4096  # rows of a Parquet row group, so that a reader need not hold a whole file
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
CORNERS = pa.list_(pa.int16(), 4)
OBJECTS = pa.struct(
    [
        ("bbox", pa.list_(pa.list_(pa.float32(), 4))),
        ("category", pa.list_(pa.int64())),
        ("difficult", pa.list_(pa.bool_())),
    ]
)


def build(name: str, originals: Path, out: Path | None = None) -> Path:
    """Make one of the project's image sets from its public original.

    Parameters
    ----------
    name : str
        ``flowers102``, ``pacs/sketch``, ``voc2007`` ...: a key of `rebuild_sets.ORIGINALS`.
    originals : Path
        The folder that the public original was unpacked into, or one of the two folders above it.
    out : Path, optional
        The set's folder; by default ``data_root()/name``. Only there it can be opened by name, and is pinned.

    Returns
    -------
    Path
        The set's folder; `summary` says in a line what is in it.

    Raises
    ------
    UserError
        If the set is unknown, the folder is not the original's or lacks files, an image is unreadable, or the set's
        folder holds files already.
    """
    original = ORIGINALS[choose("data set", name, ORIGINALS, listed=len(ORIGINALS))]
    folder = out or data_root() / name
    free = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    check(free, "data set", name, f"{folder} is there already; move it away first")
    classes, entries = _found(name, original, _base(name, original, originals))
    writable("data", folder.parent)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".building-") as temporary:
        made = Path(temporary) / folder.name
        _write(name, original, classes, entries, made)
        if entries[0].label is not None:
            open_parquet(made, name)
        made.replace(folder)
    if out is None and entries[0].label is not None:
        pinning.pin(name)
    return folder


def summary(name: str) -> str:
    """Return one line on the set of this name below the data root: how much there is, and whose records it has."""
    folder = data_root() / name
    files = sorted(folder.glob("*.parquet"))
    check(bool(files), "data set", name, f"no Parquet files under {folder}")
    count = sum(pq.read_metadata(file).num_rows for file in files)
    schema = pq.read_schema(files[0])
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    if "objects" in schema.names:
        tables = [pq.read_table(file, columns=["objects"])["objects"].combine_chunks() for file in files]
        objects = sum(len(table.field("category").flatten()) for table in tables)
        classes = len(features["objects"]["category"]["feature"]["names"])
        return f"{name}: {count:,} images with {objects:,} objects of {classes} classes"
    found, published = catalog.pinned(name)["fingerprint"], catalog.packaged().get(name, {}).get("fingerprint")
    if found == published:
        other = "the same as the published one"
    elif published:
        other = f"the published records use {published}: this set has its own, and its trials their own records"
    else:
        other = "no records are published for it"
    return f"{name}: {count:,} images in {len(features['label']['names'])} classes, fingerprint {found} ({other})"


def _base(name: str, original: Original, folder: Path) -> Path:
    """Return the original's own folder, which is `folder` or lies at most two levels below it."""
    check(folder.is_dir(), "originals", folder, f"there is no such folder; wanted for {name}: {original.layout}")
    for above in ("", "*/", "*/*/"):
        for marker in original.markers:
            for match in sorted(folder.glob(above + marker)):
                return match.parents[marker.count("/")]
    raise UserError(f"originals (={folder}): not the original of {name}; wanted: {original.layout}")


def _found(name: str, original: Original, base: Path) -> Found:
    """Return the classes and the entries in canonical order, all of which are there."""
    try:
        classes, entries = FINDERS[original.find](name, base)
    except UserError:
        raise
    except Exception as e:  # a damaged file shows up as whatever its parser trips over: scipy, numpy, gzip, XML ...
        raise UserError(f"originals (={base}): cannot be read as {name} ({line(e)}); wanted: {original.layout}") from e
    check(bool(entries), "originals", base, f"lists no images of {name}; wanted: {original.layout}")
    missing = [
        _shown(e, base) for e in entries if e.source is None or (isinstance(e.source, Path) and not e.source.is_file())
    ]
    rule = f"{len(missing):,} of {len(entries):,} images are missing ({few(missing)}); wanted: {original.layout}"
    check(not missing, "originals", base, rule)
    counts, wanted = Counter(e.split for e in entries), catalog.packaged().get(name, {}).get("splits", {})
    if entries[0].label is None:  # of a detection set, objects are pinned
        wanted = {}
    for split, number in wanted.items():
        check(
            counts[split] == number,
            "originals",
            base,
            f"{counts[split]:,} {split} images of {name}; there must be {number:,}",
        )
    return classes, sorted(entries, key=lambda e: (e.split, e.label or 0, e.path))


def _shown(entry: Entry, base: Path) -> str:
    return entry.source.relative_to(base).as_posix() if isinstance(entry.source, Path) else entry.path


def _write(name: str, original: Original, classes: tuple[str, ...], entries: list[Entry], folder: Path) -> None:
    """Write ``SPLIT-00000-of-00001.parquet`` for every split, and the class tree if there is one."""
    columns = _columns(classes, entries[0])
    features = {"image": {"_type": "Image"}} | {column: feature for column, (_, feature) in columns.items()}
    about = {"huggingface": json.dumps({"info": {"features": features, "description": ""}})}
    schema = pa.schema([("image", IMAGE), *((column, kind) for column, (kind, _) in columns.items())], metadata=about)
    with (
        ThreadPoolExecutor() as pool,
        tqdm(total=len(entries), desc=f"building {name}", unit=" images", disable=None, leave=False) as bar,
    ):
        for split in dict.fromkeys(e.split for e in entries):
            part, rows = [e for e in entries if e.split == split], []
            for row in pool.map(partial(_row, original=original, classes=classes), part):
                rows.append(row)
                bar.update()
            broken = [e.path for e, row in zip(part, rows, strict=True) if row is None]
            check(
                not broken,
                "originals",
                name,
                f"{len(broken):,} unreadable image{'s' * (len(broken) > 1)} in {split} ({few(broken)})",
            )
            content = pa.BufferOutputStream()
            pq.write_table(pa.Table.from_pylist(rows, schema), content, row_group_size=ROWS, compression="zstd")
            write_atomically(folder / f"{split}-00000-of-00001.parquet", content.getvalue().to_pybytes())
    if name == "tiny-imagenet":
        write_atomically(folder / "wordnet.json", wordnet_json())


def _columns(classes: tuple[str, ...], sample: Entry) -> dict[str, tuple[pa.DataType, dict]]:
    """Return the columns beside the image: each one's Arrow type, and its feature in the Hugging Face convention."""

    def value(dtype: str) -> dict:
        return {"dtype": dtype, "_type": "Value"}

    def sequence(feature: dict, **more: int) -> dict:
        return {"feature": feature, **more, "_type": "Sequence"}

    label = {"names": list(classes), "_type": "ClassLabel"}
    if sample.label is None:
        boxes = sequence(sequence(value("float32"), length=4))
        return {
            "objects": (OBJECTS, {"bbox": boxes, "category": sequence(label), "difficult": sequence(value("bool"))})
        }
    corners = {"bbox": (CORNERS, sequence(value("int16"), length=4))}
    return {"label": (pa.int64(), label)} | (corners if sample.boxes else {})


def _row(entry: Entry, original: Original, classes: tuple[str, ...]) -> dict | None:
    """Return an entry as it is stored, or ``None`` if its image is unreadable."""
    try:
        given = entry.source.read_bytes() if isinstance(entry.source, Path) else entry.source
        before = Image.open(BytesIO(given)) if isinstance(given, bytes) else given
        after = original.apply(before)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    file = BytesIO()
    if original.save:
        after.save(file, **original.save)
    row = {"image": {"bytes": file.getvalue() or given, "path": entry.path}}
    if entry.label is None:
        return row | {"objects": _scaled(entry.boxes, classes, before.size, after.size)}
    return row | {"label": entry.label, "bbox": entry.boxes}


def _scaled(boxes: list[Box], classes: tuple[str, ...], before: tuple[int, int], after: tuple[int, int]) -> dict:
    """Return boxes in pixels of the stored image.

    VOC's corners count pixels from 1, both ends included; here they are the edges, from 0 to the width or height.
    """
    scale = [new / old for new, old in zip(after, before, strict=True)] * 2
    edges = [[corner - first for corner, first in zip(box[2:], (1, 1, 0, 0), strict=True)] for box in boxes]
    return {
        "bbox": [[min(max(e * s, 0), most) for e, s, most in zip(box, scale, after * 2, strict=True)] for box in edges],
        "category": [classes.index(box[0]) for box in boxes],
        "difficult": [box[1] for box in boxes],
    }


def main(arguments: list[str] | None = None) -> None:
    """Run the command: an error of the user's is one line and exit code 2."""
    parser = argparse.ArgumentParser(description="Make a small Parquet set from its public original.")
    parser.add_argument("name", help=", ".join(ORIGINALS))
    parser.add_argument("--from", dest="folder", type=Path, required=True, help="where the public original lies")
    given = parser.parse_args(arguments)
    try:
        build(given.name, given.folder)
        print(summary(given.name))
    except UserError as e:
        parser.exit(2, f"rebuild: {e}\n")


if __name__ == "__main__":
    main()
