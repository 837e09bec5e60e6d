"""Objects of the images in a folder, out of files of annotations in the usual forms. No torch here.

VOC's XML: ``JPEGImages``, ``Annotations/*.xml`` and lists of names, ``ImageSets/Main/{train,val,trainval,test}.txt``.
COCO's JSON: ``annotations/instances_SPLIT.json`` beside folders of images, or ``_annotations.coco.json`` in each.
A table (CSV) of the columns image, class, xmin, ymin, xmax and ymax, with a row for each object.
"""

import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NoReturn
from xml.etree import ElementTree

from .files import File, Found, Parts, composed, letters, read_file
from .labels import LABEL_COLUMNS, SPLIT_COLUMNS, index_of, label_text, listed_in, nearest, rows_of
from .opened import Item
from .shapes import split_of

EDGES = ("xmin", "ymin", "xmax", "ymax")
Refuse = Callable[[str], NoReturn]
Shown = tuple[str, File, list[tuple]]  # split, image, and of each object class (by name), edges and difficult or not


def annotated(found: Found, folder: str, refuse: Refuse) -> tuple[tuple[str, ...], dict[str, list[Item]]] | None:
    """Return the classes, and by split the images with their `Item.objects`; nothing where there are no annotations.

    Images that no annotation names, and the reverse, are put under what was passed over.

    Parameters
    ----------
    found : Found
    folder : str
    refuse : callable
        Raises an error with the rule that is broken.

    Raises
    ------
    UserError
        If a file cannot be read, or an image is in two splits.
    """
    others = [File(tuple(p.split("/")), os.path.join(folder, p)) for p in found.passed["other suffixes"]]
    shown = _voc(found, others, refuse) or [*_coco(found, others, refuse)] or [*_tables(found, refuse)]
    if not shown:
        return None
    seen: dict[Parts, str] = {}
    for split, file, _ in shown:
        if seen.setdefault(file.parts, split) != split:
            refuse(f"{file.path} is in two splits, {seen[file.parts]} and {split}")
    found.passed["images without annotations"] += [f.path for f in found.pictures if f.parts not in seen]
    classes = tuple(sorted({its[0] for _, _, objects in shown for its in objects}))
    at, images = {name: i for i, name in enumerate(classes)}, defaultdict(list)
    for split, file, objects in shown:
        images[split, file] += [(at[name], *rest) for name, *rest in objects]
    splits = defaultdict(list)
    for (split, file), its in images.items():
        item = Item(file.path, 0, partial(read_file, file.place), place=file.place, objects=tuple(its))
        splits[split].append(item)
    return classes, splits


def _voc(found: Found, others: list[File], refuse: Refuse) -> list[Shown]:
    """Return what VOC's XML says: edges there count pixels from 1, both ends included."""
    files = [f for f in others if f.parts[-2:-1] == ("Annotations",) and f.parts[-1].endswith(".xml")]
    bases = sorted(
        {f.parts[:-2] for f in files} & {p.parts[:-2] for p in found.pictures if p.parts[-2:-1] == ("JPEGImages",)}
    )
    if not bases:
        return []
    if len(bases) > 1:
        refuse(f"holds several sets ({', '.join('/'.join(b) for b in bases)}); name one")
    (base,) = bases
    pictures = {f.parts[-1].rpartition(".")[0]: f for f in found.pictures if f.parts[:-1] == (*base, "JPEGImages")}
    told = {f.parts[-1].removesuffix(".xml"): f for f in files}
    lists = {f.parts[-1]: f for f in others if f.parts[:-1] == (*base, "ImageSets", "Main")}
    splits = {}
    for listed, split in (("test", "test"), ("trainval", "train"), ("val", "validation"), ("train", "train")):
        if file := lists.get(f"{listed}.txt"):  # later ones go before: of trainval those of val are validation
            splits |= {line.split()[0]: split for line in _text(file, refuse).splitlines() if line.strip()}
    found.passed["annotations without an image"] += sorted({*told} - {*pictures})
    found.passed["listed and not there"] += sorted({*splits} - {*pictures})
    known = [name for name in told if name in pictures]
    if splits:
        found.passed["of no split"] += [name for name in known if name not in splits]
        known = [name for name in known if name in splits]
    used = {told[name].path for name in known} | {f.path for f in lists.values()}
    found.passed["other suffixes"] = [p for p in found.passed["other suffixes"] if p not in used]
    return [(splits.get(name, ""), pictures[name], _xml(told[name], refuse)) for name in known]


def _xml(file: File, refuse: Refuse) -> list[tuple]:
    try:
        found = []
        for thing in ElementTree.fromstring(read_file(file.place)).iterfind("object"):
            left, top, right, bottom = (float(thing.find(f"bndbox/{edge}").text) for edge in EDGES)
            hard = thing.findtext("difficult", "0").strip() == "1"
            found.append((composed(thing.find("name").text.strip()), left - 1, top - 1, right, bottom, hard))
        return found
    except ElementTree.ParseError as e:
        return refuse(f"{file.path} is no whole XML ({e})")
    except (AttributeError, TypeError, ValueError):
        return refuse(f"{file.path}: each object must have a name and a bndbox of numbers {', '.join(EDGES)}")


def _coco(found: Found, others: list[File], refuse: Refuse) -> Iterator[Shown]:
    """Yield what COCO's JSON says; crowds count as difficult."""
    index, used = index_of(found.pictures), {}
    for file in others:
        stem = file.parts[-1].rpartition(".")[0]
        apart = file.parts[-1].casefold() == "_annotations.coco.json"
        if not apart and not (stem.startswith("instances") and file.parts[-1].endswith(".json")):
            continue
        found.passed["other suffixes"].remove(file.path)
        said = split_of(file.parts[-2] if apart and len(file.parts) > 1 else stem)
        split = said[0] if said else ""
        try:
            about = json.loads(_text(file, refuse))
            names = {c["id"]: composed(str(c["name"])) for c in about["categories"]}
            called = {i["id"]: i["file_name"] for i in about["images"]}
            objects = [(a["image_id"], a["category_id"], a["bbox"], a.get("iscrowd", 0)) for a in about["annotations"]]
            boxes = [(image, of, [float(v) for v in box], bool(crowd)) for image, of, box, crowd in objects]
        except (ValueError, KeyError, TypeError, AttributeError) as e:
            wanted = "images (id, file_name), categories (id, name), annotations (image_id, category_id, bbox)"
            refuse(f"{file.path} cannot be read ({type(e).__name__}: {e}); wanted: {wanted}")
        its: dict[Any, list[tuple]] = defaultdict(list)
        for image, of, box, crowd in boxes:
            if of not in names:
                refuse(f"{file.path}: category_id (={of}) must be one of its categories, {_few(names)}")
            if len(box) != 4:
                refuse(f"{file.path}: bbox (={box}) must be left, top, width and height")
            if image not in called:
                found.passed["annotations without an image"].append(f"{file.path} image_id {image}")
            found.passed["crowds, which count as difficult"] += [called.get(image, "")] * (crowd and image in called)
            left, top, wide, high = box
            its[image].append((names[of], left, top, left + wide, top + high, crowd))
        used = dict.fromkeys(names.values(), False) | used | {name: True for b in its.values() for name, *_ in b}
        for image, name in called.items():
            if picture := _picture(name, index, file, split, refuse):
                yield split, picture, its[image]
            else:
                found.passed["listed and not there"].append(name)
    found.passed["categories without objects"] += [name for name, some in used.items() if not some]


def _tables(found: Found, refuse: Refuse) -> Iterator[Shown]:
    """Yield what tables say; a row without edges is of an image without objects."""
    index = index_of(found.pictures)
    for table in list(found.tables):
        head, *rows = rows_of(table, refuse) or [[]]
        titles = [letters(title) for title in head]
        if not {*EDGES} <= {*titles}:
            continue
        found.tables.remove(table)
        edges, legal = [titles.index(edge) for edge in EDGES], (LABEL_COLUMNS, SPLIT_COLUMNS, {"difficult"})
        label, side, hard = (next((c for c, title in enumerate(titles) if title in of), None) for of in legal)
        hits = [sum(bool(listed_in(row[c], index)) for row in rows if c < len(row)) for c in range(len(head))]
        if label is None or not any(hits):
            refuse(f"{table.path}: must have a column of images that are here, and one called class")
        stem = split_of(table.parts[-1].rpartition(".")[0])
        for number, row in enumerate(rows, 2):
            row += [""] * (len(head) - len(row))
            said, name = split_of(row[side]) if side is not None else stem, row[hits.index(max(hits))]
            split = said[0] if said else ""
            if not (picture := _picture(name, index, table, split, refuse)):
                found.passed["listed and not there"].append(name)
                continue
            cells = [label_text(row[c]) for c in (label, *edges)]
            try:
                its = [(cells[0], *map(float, cells[1:]), hard is not None and row[hard].strip() in ("1", "True"))]
            except ValueError:
                its = []
            if any(cells) and not (its and cells[0]):
                refuse(f"{table.path} line {number}: must have a class and numbers {', '.join(EDGES)}, or none of them")
            yield split, picture, its


def _picture(name: str, index: dict, by: File, split: str, refuse: Refuse) -> File | None:
    files = nearest(listed_in(name, index), by, split)
    if len(files) > 1:
        refuse(f"{by.path} lists {name}, which may be {files[0].path} or {files[1].path}")
    return files[0] if files else None


def _few(names: dict) -> str:
    return ", ".join(map(str, [*names][:5])) + " ..." * (len(names) > 5)


def _text(file: File, refuse: Refuse) -> str:
    try:
        return read_file(file.place).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as e:
        return refuse(f"{file.path} cannot be read ({e})")
