"""Parquet sets in the project's convention: an image struct and a label, class names in the metadata."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from flat_images import encoded

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
CLASSES = ("ant", "bee", "cat")
SCHEMA = {"image": IMAGE, "label": pa.int64()}


def row(label: int, path: str, content: bytes | None = None) -> dict:
    """Return a row: a flat PNG of the class's colour, or `content`."""
    return {"image": {"bytes": encoded(label, ".png") if content is None else content, "path": path}, "label": label}


def rows(per_class: int, classes: int = 3, prefix: str = "") -> list[dict]:
    """Return a few rows of every class, named ``CLASS/NUMBER.png``."""
    return [row(c, f"{prefix}{c}/{i:02d}.png") for c in range(classes) for i in range(per_class)]


def write_parquet(
    path: Path, content: list[dict], names: tuple[str, ...] | None = CLASSES, schema: dict | None = None
) -> Path:
    """Write rows to a Parquet file; without `names` it has no metadata."""
    about = (
        {"huggingface": json.dumps({"info": {"features": {"label": {"names": list(names), "_type": "ClassLabel"}}}})}
        if names
        else None
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(content, pa.schema(schema or SCHEMA, metadata=about)), path)
    return path


def write_set(folder: Path, **splits: list[dict]) -> Path:
    """Write a set of three classes, one file a split."""
    for split, content in splits.items():
        write_parquet(folder / f"{split}-00000-of-00001.parquet", content)
    return folder
