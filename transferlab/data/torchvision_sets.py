"""Torchvision's own classification sets by name, their official splits, and how their files come to be there."""

import sys
import tomllib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ..errors import UserError, check, choose, line, torchvision
from ..paths import data_root, writable
from .opened import Item, Opened, checked

ABOUT = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))
SETS = ABOUT["sets"]


def open_torchvision(name: str) -> Opened:
    """Open one of torchvision's sets below ``data_root()/torchvision``; what is absent is downloaded to there.

    Parameters
    ----------
    name : str
        The name of torchvision's class, such as ``OxfordIIITPet``.

    Raises
    ------
    UserError
        If there is no such set, its files are damaged, or they are absent and cannot be downloaded.
    """
    row = SETS[choose("torchvision set", name, SETS)]
    root = data_root() / "torchvision"
    made = {split: _make(name, arguments, root) for split, arguments in ABOUT["splits"][row["splits"]].items()}
    classes = _classes(f"torchvision:{name}", made)
    splits = {split: _items(dataset, root, row.get("file", "")) for split, dataset in made.items()}
    splits = {"": splits["train"]} if row["splits"] == "unsplit" else splits
    return checked(f"torchvision:{name}", classes, splits)


def _make(name: str, arguments: dict, root: Path):
    """Return torchvision's set from the files that are there, else from those that it downloads."""
    title, wants = f"torchvision:{name}", SETS[name]["wants"]
    construct = partial(getattr(torchvision("datasets"), name), root, **arguments)
    try:
        dataset = construct()
        first = _files(dataset, SETS[name].get("file", ""))[:1]
        if not first or first[0].is_file():
            return dataset
        reason = f"no {first[0].name}"
    except (RuntimeError, OSError) as e:  # so torchvision says that files are absent, or not those that it knows
        reason = line(e)
    except Exception as e:  # half a file shows up as whatever its parser trips over: pickle, scipy, numpy, csv ...
        raise UserError(f"data set (={title}): damaged ({line(e)}); put {wants} afresh into {root}") from e
    rule = f"not there or not whole ({reason}), and torchvision does not download it; put {wants} into {root}"
    check(SETS[name].get("downloads", True), "data set", title, rule)
    print(f"{title}: downloading {wants} to {writable('data', root)}", file=sys.stderr)
    try:
        return construct(download=True)
    except Exception as e:
        same = line(e) == reason  # then torchvision found all that it looks for, and fetched nothing
        trouble = f"damaged ({reason})" if same else f"not there or not whole, and the download failed ({line(e)})"
        raise UserError(f"data set (={title}): {trouble}; put {wants} {'afresh ' * same}into {root}") from e


def _first(dataset, *attributes: str):
    """Return the first attribute that a set of torchvision's has, ``None`` if it has none of them."""
    return next((getattr(dataset, name) for name in attributes if hasattr(dataset, name)), None)


def _classes(title: str, made: dict[str, object]) -> tuple[str, ...]:
    """Return the class names; WordNet ids where there are some, because ImageNet has two cranes; else the labels."""
    found = {tuple(_first(dataset, "wnids", "classes", "categories") or ()) for dataset in made.values()}
    check(len(found) == 1, "data set", title, "its splits have different classes; some of its files are missing")
    return found.pop() or tuple(str(i) for i in range(1 + max(max(_labels(d)) for d in made.values())))


def _labels(dataset) -> list[int]:
    labels = _first(dataset, "targets", "_labels", "labels", "y")
    return [int(label) for label in ([y for _, y in dataset._samples] if labels is None else labels)]


def _files(dataset, pattern: str) -> Sequence[Path]:
    """Return the images' files in the order of the set, none if it keeps its pixels in memory."""
    if pattern:
        named = ((dataset.categories[y], y + 1, n) for y, n in zip(dataset.y, dataset.index, strict=True))
        return [Path(dataset.root, pattern.format(category=c, label=y, number=n)) for c, y, n in named]
    pairs = _first(dataset, "_samples", "samples", "imgs") or ()
    return [Path(file) for file in _first(dataset, "_image_files", "_images") or (file for file, _ in pairs)]


def _items(dataset, root: Path, pattern: str) -> list[Item]:
    labels, files = _labels(dataset), _files(dataset, pattern)
    if files:
        return [Item(f.relative_to(root).as_posix(), y, f.read_bytes) for f, y in zip(files, labels, strict=True)]
    digits = len(str(len(labels)))
    return [Item(f"{i:0{digits}}", label, lambda i=i: dataset[i][0]) for i, label in enumerate(labels)]
