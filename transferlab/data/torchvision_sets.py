"""Torchvision's own classification sets by name, their official splits, and how their files come to be there."""

import sys
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ..errors import UserError, check, choose
from ..paths import data_root, writable
from .readers import Item, Opened, _checked, split_off_test


class Row(NamedTuple):
    """What the package knows about one of torchvision's sets.

    Attributes
    ----------
    splits : dict
        Our splits, and the arguments that make torchvision's class return them. A set with only ``train`` has no
        official splits: every class gives up a fifth of its images for ``test``, the same ones on every machine.
    wants : str
        Where its files lie below the root folder.
    downloads : bool
        Whether torchvision can fetch them.
    file : str
        Where a class that keeps no paths keeps its images, in terms of category, class number and image number.
    """

    splits: dict[str, dict]
    wants: str
    downloads: bool = True
    file: str = ""


def _by(**splits: str) -> dict[str, dict]:
    return {ours: {"split": theirs} for ours, theirs in splits.items()}


FLAGGED = {"train": {"train": True}, "test": {"train": False}}
UNSPLIT = {"train": {}}
TWO = _by(train="train", test="test")
THREE = _by(train="train", validation="val", test="test")
HELD_OUT = _by(train="train", validation="val")

SETS = {
    "CIFAR10": Row(FLAGGED, "cifar-10-batches-py/"),
    "CIFAR100": Row(FLAGGED, "cifar-100-python/"),
    "Caltech101": Row(UNSPLIT, "caltech101/101_ObjectCategories/", file="101_ObjectCategories/{category}/image_{number:04d}.jpg"),
    "Caltech256": Row(UNSPLIT, "caltech256/256_ObjectCategories/", file="256_ObjectCategories/{category}/{label:03d}_{number:04d}.jpg"),
    "Country211": Row(_by(train="train", validation="valid", test="test"), "country211/"),
    "DTD": Row(THREE, "dtd/dtd/"),
    "EuroSAT": Row(UNSPLIT, "eurosat/2750/"),
    "FGVCAircraft": Row(THREE, "fgvc-aircraft-2013b/"),
    "FashionMNIST": Row(FLAGGED, "FashionMNIST/raw/"),
    "Flowers102": Row(THREE, "flowers-102/"),
    "Food101": Row(TWO, "food-101/"),
    "GTSRB": Row(TWO, "gtsrb/"),
    "ImageNet": Row(HELD_OUT, "ILSVRC2012_devkit_t12.tar.gz, ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar", downloads=False),
    "Imagenette": Row(HELD_OUT, "imagenette2/"),
    "KMNIST": Row(FLAGGED, "KMNIST/raw/"),
    "MNIST": Row(FLAGGED, "MNIST/raw/"),
    "OxfordIIITPet": Row(_by(train="trainval", test="test"), "oxford-iiit-pet/"),
    "Places365": Row(
        {"train": {"split": "train-standard", "small": True}, "validation": {"split": "val", "small": True}},
        "categories_places365.txt, places365_train_standard.txt, places365_val.txt, data_256_standard/ and val_256/",
    ),
    "RenderedSST2": Row(THREE, "rendered-sst2/"),
    "STL10": Row(TWO, "stl10_binary/"),
    "SUN397": Row(UNSPLIT, "SUN397/"),
    "SVHN": Row(TWO, "train_32x32.mat and test_32x32.mat"),
    "StanfordCars": Row(TWO, "stanford_cars/", downloads=False),
    "USPS": Row(FLAGGED, "usps.bz2 and usps.t.bz2"),
}


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
    made = {split: _make(name, arguments, root) for split, arguments in row.splits.items()}
    classes = _classes(f"torchvision:{name}", made)
    splits = {split: _items(dataset, root, row.file) for split, dataset in made.items()}
    return _checked(f"torchvision:{name}", classes, split_off_test(splits["train"]) if row.splits is UNSPLIT else splits)


def _make(name: str, arguments: dict, root: Path):
    """Return torchvision's set from the files that are there, else from those that it downloads."""
    from torchvision import datasets

    row, title = SETS[name], f"torchvision:{name}"
    construct = partial(getattr(datasets, name), root, **arguments)
    try:
        dataset = construct()
        first = _files(dataset, row.file)[:1]
        if not first or first[0].is_file():
            return dataset
        reason = f"no {first[0].name}"
    except (RuntimeError, OSError) as e:  # this is how torchvision says that files are absent, or not those that it knows
        reason = _line(e)
    except Exception as e:  # half a file shows up as whatever its parser trips over: pickle, scipy, numpy, csv ...
        raise UserError(f"data set (={title}): damaged ({_line(e)}); put {row.wants} afresh into {root}") from e
    check(
        row.downloads,
        "data set",
        title,
        f"not there or not whole ({reason}), and torchvision does not download it; put {row.wants} into {root}",
    )
    print(f"{title}: downloading {row.wants} to {writable('data', root)}", file=sys.stderr)
    try:
        with _old_tarfile():
            return construct(download=True)
    except Exception as e:
        same = _line(e) == reason  # then torchvision found all that it looks for, and fetched nothing
        trouble = f"damaged ({reason})" if same else f"not there or not whole, and the download failed ({_line(e)})"
        raise UserError(f"data set (={title}): {trouble}; put {row.wants} {'afresh ' * same}into {root}") from e


@contextmanager
def _old_tarfile() -> Iterator[None]:
    """Let torchvision unpack where Python's tarfile is older than its filters (3.11.4 has them, Debian 12 has 3.11.2)."""
    if hasattr(tarfile, "data_filter"):
        yield
        return
    extract = tarfile.TarFile.extractall
    tarfile.TarFile.extractall = lambda *arguments, filter=None, **named: extract(*arguments, **named)
    try:
        yield
    finally:
        tarfile.TarFile.extractall = extract


def _line(e: Exception) -> str:
    return " ".join(f"{type(e).__name__}: {e}".split())[:200]


def _classes(title: str, made: dict[str, object]) -> tuple[str, ...]:
    """Return the class names; WordNet ids where there are some, because ImageNet has two cranes; else the labels."""
    for attribute in ("wnids", "classes", "categories"):
        if hasattr(made["train"], attribute):
            found = {tuple(getattr(dataset, attribute)) for dataset in made.values()}
            check(len(found) == 1, "data set", title, "its splits have different classes; some of its files are missing")
            return found.pop()
    return tuple(str(i) for i in range(1 + max(max(_labels(d)) for d in made.values())))


def _labels(dataset) -> list[int]:
    for attribute in ("targets", "_labels", "labels", "y"):
        if hasattr(dataset, attribute):
            return [int(label) for label in getattr(dataset, attribute)]
    return [int(label) for _, label in dataset._samples]


def _files(dataset, pattern: str) -> Sequence[Path]:
    """Return the images' files in the order of the set, none if it keeps its pixels in memory."""
    if pattern:
        numbered = zip(dataset.y, dataset.index, strict=True)
        return [Path(dataset.root, pattern.format(category=dataset.categories[y], label=y + 1, number=n)) for y, n in numbered]
    for attribute in ("_image_files", "_images"):
        if hasattr(dataset, attribute):
            return [Path(file) for file in getattr(dataset, attribute)]
    for attribute in ("_samples", "samples", "imgs"):
        if hasattr(dataset, attribute):
            return [Path(file) for file, _ in getattr(dataset, attribute)]
    return []


def _items(dataset, root: Path, pattern: str) -> list[Item]:
    labels, files = _labels(dataset), _files(dataset, pattern)
    if files:
        return [Item(f.relative_to(root).as_posix(), label, partial(_read, f)) for f, label in zip(files, labels, strict=True)]
    digits = len(str(len(labels)))
    return [Item(f"{i:0{digits}}", label, lambda i=i: dataset[i][0]) for i, label in enumerate(labels)]


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as e:
        raise UserError(f"image (={file}): the set lists it, and it cannot be read ({e.strerror})") from e
