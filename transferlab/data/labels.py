"""Labels of images out of tables that lie beside them (CSV): a column of file names, one of labels. No torch here."""

import csv
import io
import re
from collections import defaultdict
from collections.abc import Callable
from typing import NoReturn

from .files import File, Found, Parts, composed, letters
from .shapes import split_of

LABEL_COLUMNS = {
    "label", "labels", "class", "classes", "classname", "labelname", "category", "target", "breed", "species", "tag",
    "diagnosis", "classid", "labelid",
}  # fmt: skip
UNREAD = "tables without labels of these images"
NO_LABEL = {"nan", "null", "n/a", "<na>", "#n/a"}  # what tables hold where there is no label
SPLIT_COLUMNS = {"split", "subset", "set", "partition", "usage"}
Index = dict[str, list[File]]


def labels(found: Found, refuse: Callable[[str], NoReturn]) -> dict[Parts, tuple[str, str]]:
    """Return for each picture that a table lists its label, and its split (empty if no table says it).

    The column of files is the one with the most names of pictures, with their suffix or without; that of labels the
    only other one, or the one that is called so. The split is a column of that name, or the table's own
    (``train.csv``). A table that lists no picture is passed over, and so is a sample submission: its labels are none.

    Raises
    ------
    UserError
        If it is open which column is the label, which picture a row is of, or which of two labels a picture has.
    """
    index = index_of(found.pictures)
    known: dict[Parts, tuple[str, str]] = {}
    for table in found.tables:
        rows = [] if "submission" in table.parts[-1].casefold() else rows_of(table, refuse)
        width = max(map(len, rows), default=0)
        rows = [[*row, *[""] * (width - len(row))] for row in rows]
        hits = [len({row[c] for row in rows if listed_in(row[c], index)}) for c in range(width)]
        if sum(map(bool, hits)) > 1:  # numbers of classes may also be names of files
            hits = [n * (letters(title) not in LABEL_COLUMNS) for n, title in zip(hits, rows[0], strict=True)]
        if not any(hits):
            found.passed[UNREAD].append(table.path)
            continue
        at = hits.index(max(hits))
        head = [f"column {c + 1}" for c in range(width)] if listed_in(rows[0][at], index) else rows.pop(0)
        side = next((c for c, title in enumerate(head) if letters(title) in SPLIT_COLUMNS and c != at), None)
        stem = split_of(table.parts[-1].rpartition(".")[0])
        label = _label(table, head, rows, {at, side}, (stem or ("train",))[0] == "train", refuse)
        if label is None:
            found.passed[UNREAD].append(table.path)
            continue
        for row in rows:
            said = stem if side is None else split_of(row[side])
            if side is not None and not said:
                refuse(f"{table.path}: {head[side]} (={row[side]}) of {row[at]} must be train, validation or test")
            split = said[0] if said else ""
            files = nearest(listed_in(row[at], index), table, split)
            if len(files) > 1:
                refuse(f"{table.path} lists {row[at]}, which may be {files[0].path} or {files[1].path}")
            if not files:
                found.passed["listed and not there"].append(row[at])
                continue
            now, before = (label_text(row[label]), split), known.get(files[0].parts, ("", ""))
            for what, one, other in zip(("labels", "splits"), before, now, strict=True):
                if one and other and one != other:
                    refuse(f"{files[0].path} has two {what}: {one} and {other}")
            known[files[0].parts] = now[0] or before[0], now[1] or before[1]
    return {parts: said for parts, said in known.items() if said[0]}


def index_of(pictures: list[File]) -> Index:
    """Return pictures by the ends of their paths, with their suffix and without."""
    index: Index = defaultdict(list)
    for file in pictures:
        for first in range(len(file.parts)):
            whole = "/".join(file.parts[first:])
            for tail in {whole, whole.rpartition(".")[0] or whole}:
                index[tail].append(file)
    return index


def rows_of(table: File, refuse: Callable[[str], NoReturn]) -> list[list[str]]:
    """Return the rows of a table that are not empty."""
    try:
        with open(table.place, "rb") as file:
            raw = file.read()
        wide = raw[:2] in (b"\xff\xfe", b"\xfe\xff")
        try:
            text = raw.decode("utf-16" if wide else "utf-8-sig")
        except UnicodeDecodeError:
            text = raw.decode("latin-1")
        between = max("\t,;|", key=text.partition("\n")[0].count)
        csv.field_size_limit(1 << 30)  # captions, masks
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=between, skipinitialspace=True)
        return [row for row in reader if any(row)]
    except (OSError, csv.Error) as e:
        return refuse(f"{table.path} cannot be read ({e})")


def label_text(label: str) -> str:
    """Return a label as it is written everywhere, empty where it is none: numbers of classes may have become floats."""
    text = composed(re.sub(r"^(-?\d+)\.0+$", r"\1", label.strip()))
    return "" if text.casefold() in NO_LABEL else text


def listed_in(value: str, index: Index) -> list[File]:
    """Return the pictures that a value of a table can name: a path of any beginning, with a suffix or without."""
    parts = [p for p in composed(value.strip()).replace("\\", "/").split("/") if p not in ("", ".")]
    tails = ("/".join(parts[first:]) for first in range(len(parts)))
    return next((index[tail] for tail in tails if tail in index), [])


def nearest(files: list[File], table: File, split: str) -> list[File]:
    """Return of several pictures of one name those in the table's split, if there are some, and beside the table."""
    if len(files) > 1 and split:
        files = [f for f in files if any((split_of(p) or ("",))[0] == split for p in f.parts[:-1])] or files
    if len(files) > 1:
        files = [f for f in files if f.parts[: len(table.parts) - 1] == table.parts[:-1]] or files
    return files


def _label(table: File, head: list, rows: list, taken: set, wanted: bool, refuse: Callable) -> int | None:
    """Return the column of labels, or of a table of test images that there is none."""
    others = [c for c in range(len(head)) if c not in taken]
    called = others if len(others) == 1 else [c for c in others if letters(head[c]) in LABEL_COLUMNS]
    both = {tuple(row[c] for c in called) for row in rows}
    if not called and (not others or not wanted):
        return None
    if not called or any(len({pair[i] for pair in both}) < len(both) for i in range(len(called))):
        refuse(
            f"{table.path}: one column must be called label; columns: {', '.join(head[c] for c in others) or 'none'}"
        )
    return called[0]
