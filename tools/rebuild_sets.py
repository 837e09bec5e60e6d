"""What the project's Parquet sets are made of: where each original keeps its images, and which of them are taken.

A choice that no rule can say is a committed list of names below ``lists``. Every set has a part in ``originals.toml``.
"""

import gzip
import json
import pickle
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
from PIL import Image, ImageOps

from transferlab.data.tree import class_tree
from transferlab.errors import check, choose

LISTS = Path(__file__).with_name("lists")

Box = tuple[str, bool, float, float, float, float]


class Entry(NamedTuple):
    """One image that a set wants.

    Attributes
    ----------
    split, path : str
        Where it goes, and its name in the set.
    label : int or None
        ``None`` in a detection set.
    source : Path, Image or None
        The original's file or picture; ``None`` if the original lacks it.
    boxes : list, optional
        In a detection set, what is in it; in tiny-imagenet the four corners of its one object.
    """

    split: str
    path: str
    label: int | None
    source: Path | Image.Image | None
    boxes: list | None = None


Found = tuple[tuple[str, ...], list[Entry]]


@dataclass(frozen=True)
class Original:
    """Where a set comes from, and what happens to every image of it.

    Parameters
    ----------
    layout : str
        What lies where in the public original.
    markers : list of str
        Patterns of files that only the original's own folder has; one of them must be there.
    find : str
        Which of `FINDERS` lists its images.
    fit : str, optional
        ``fit`` (short side resized, centre crop) or ``contain`` (long side resized) of `PIL.ImageOps`, Lanczos filter.
    side : int
        In pixels.
    save : dict, optional
        How Pillow encodes it; without it the original's bytes are kept.
    mode : str
    classes : list of str
        Where the original does not say them.
    """

    layout: str
    markers: list[str]
    find: str
    fit: str = ""
    side: int = 0
    save: dict | None = None
    mode: str = "RGB"
    classes: list[str] = field(default_factory=list)

    def apply(self, picture: Image.Image) -> Image.Image:
        """Return the picture as it is stored."""
        picture = picture.convert(self.mode)
        return (
            getattr(ImageOps, self.fit)(picture, (self.side, self.side), Image.Resampling.LANCZOS)
            if self.fit
            else picture
        )


def listed(name: str) -> dict[str, list[str]]:
    """Return the committed names of a set by split."""
    splits: dict[str, list[str]] = {}
    for line in (LISTS / f"{name.replace('/', '-')}.txt").read_text().splitlines():
        if line.startswith("["):
            names = splits.setdefault(line.strip("[]"), [])
        elif not line.startswith("#"):
            names.append(line)
    return splits


def _by_list(name: str, find: Callable[[str, str], Path | Image.Image | None]) -> Found:
    """Return the listed images, called CLASS/FILE; `find` has (split, name) and returns the original."""
    names = listed(name)
    classes = tuple(sorted({path.split("/")[0] for paths in names.values() for path in paths}))
    label = {cls: i for i, cls in enumerate(classes)}
    return classes, [
        Entry(s, path, label[path.split("/")[0]], find(s, path)) for s, paths in names.items() for path in paths
    ]


def _folders(name: str, base: Path) -> Found:
    below = base / name.partition("/")[2]  # PACS has a folder for each domain
    return _by_list(name, lambda _, path: below / path)


# 15-Scene goes round under the class names of its authors and, halved into train and test, under those that we use.
SCENES = {
    "Suburb": "CALsuburb",
    "Office": "PARoffice",
    **{s: s.lower() for s in ("Bedroom", "Industrial", "Kitchen", "LivingRoom", "Store")},
}


def _scene15(name: str, base: Path) -> Found:
    def find(_: str, path: str) -> Path:
        cls, file = path.split("/")
        theirs = SCENES.get(cls, f"MIT{cls.lower()}")
        places = [base / folder / file for folder in (cls, f"train/{cls}", f"test/{cls}", theirs)]
        return next(filter(Path.is_file, places), places[0])

    return _by_list(name, find)


def _cifar100(name: str, base: Path) -> Found:
    from torchvision.datasets import CIFAR100
    from torchvision.datasets.utils import check_integrity

    def opened(file: str, md5: str) -> dict:
        # Opening a pickle runs whatever is written in it, so it must be the official one.
        check(
            check_integrity(base / file, md5),
            "file",
            base / file,
            "must be CIFAR-100's own; it is absent, or its MD5 sum another",
        )
        return pickle.loads((base / file).read_bytes(), encoding="latin1")

    classes = opened(CIFAR100.meta["filename"], CIFAR100.meta["md5"])["fine_label_names"]
    pictures = {}
    for split, parts in {"train": CIFAR100.train_list, "test": CIFAR100.test_list}.items():
        for part in parts:
            batch = opened(*part)
            names = [
                f"{classes[label]}/{file}" for label, file in zip(batch["fine_labels"], batch["filenames"], strict=True)
            ]
            pictures |= {(split, name): row for name, row in zip(names, batch["data"], strict=True)}

    def find(split: str, path: str) -> Image.Image | None:
        row = pictures.get((split, path))
        return None if row is None else Image.fromarray(np.ascontiguousarray(row.reshape(3, 32, 32).transpose(1, 2, 0)))

    return _by_list(name, find)


def _mnist(name: str, base: Path) -> Found:
    def read(kind: str) -> np.ndarray:
        (path, *_) = sorted(base.glob(f"{kind}-ubyte*")) or [base / f"{kind}-ubyte".replace("?", "-")]
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        shape = np.frombuffer(content, ">i4", count=content[3], offset=4)
        return np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).reshape(shape)

    images = np.concatenate([read("train-images?idx3"), read("t10k-images?idx3")])
    labels = np.concatenate([read("train-labels?idx1"), read("t10k-labels?idx1")])
    number = {f"{label}/{i}.png": i for i, label in enumerate(labels)}
    return _by_list(name, lambda _, path: Image.fromarray(images[number[path]]) if path in number else None)


def _flowers102(name: str, base: Path) -> Found:
    from scipy.io import loadmat

    ids, labels = (
        loadmat(BytesIO((base / file).read_bytes()), squeeze_me=True) for file in ("setid.mat", "imagelabels.mat")
    )
    labels = labels["labels"]
    entries = []
    for split, part in {"train": "trnid", "validation": "valid", "test": "tstid"}.items():
        for number in ids[part].tolist():
            file = f"image_{number:05d}.jpg"
            entries.append(Entry(split, file, int(labels[number - 1]) - 1, base / "jpg" / file))
    return tuple(str(i) for i in range(1, int(labels.max()) + 1)), entries


def _tiny_imagenet(name: str, base: Path) -> Found:
    label = {wnid: i for i, wnid in enumerate(sorted(class_tree()))}
    entries = []
    for wnid in label:
        folder = base / "train" / wnid
        for line in (folder / f"{wnid}_boxes.txt").read_text().splitlines():
            file, *corners = line.split()
            entries.append(Entry("train", file, label[wnid], folder / "images" / file, [int(c) for c in corners]))
    for line in (base / "val/val_annotations.txt").read_text().splitlines():
        file, wnid, *corners = line.split()
        number = label[choose("class", wnid, label)]
        entries.append(Entry("validation", file, number, base / "val/images" / file, [int(c) for c in corners]))
    return tuple(label), entries


def _imagenet_samples(name: str, base: Path) -> Found:
    files = sorted(f for f in base.iterdir() if f.suffix == ".JPEG")
    classes = tuple(dict.fromkeys(f.name.split("_")[0] for f in files))
    return classes, [Entry("validation", f.name, classes.index(f.name.split("_")[0]), f) for f in files]


def _objects(xml: Path, classes: Sequence[str]) -> list[Box]:
    boxes = []
    for thing in ElementTree.parse(xml).iterfind("object"):
        corners = [float(thing.find(f"bndbox/{side}").text) for side in ("xmin", "ymin", "xmax", "ymax")]
        boxes.append(
            (
                choose("object", thing.findtext("name"), classes),
                thing.findtext("difficult", "0").strip() == "1",
                *corners,
            )
        )
    return boxes


def _voc(name: str, base: Path) -> Found:
    entries, classes = [], ORIGINALS[name].classes
    stems = sorted(f.stem for f in (base / "Annotations").glob("*.xml"))
    splits = listed(name) if (LISTS / f"{name}.txt").is_file() else {"train": stems[::2], "test": stems[1::2]}
    for split, chosen in splits.items():
        for stem in chosen:
            xml, image = base / "Annotations" / f"{stem}.xml", base / "JPEGImages" / f"{stem}.jpg"
            whole = xml.is_file()
            entries.append(
                Entry(split, f"{stem}.webp", None, image if whole else xml, _objects(xml, classes) if whole else None)
            )
    return tuple(classes), entries


def wordnet_json() -> str:
    """Return the content of tiny-imagenet's ``wordnet.json``."""
    return json.dumps(class_tree(), indent=0, ensure_ascii=False)


FINDERS = {
    f.__name__[1:]: f
    for f in (_folders, _scene15, _cifar100, _mnist, _flowers102, _tiny_imagenet, _imagenet_samples, _voc)
}
ORIGINALS = {
    name: Original(**about)
    for name, about in tomllib.loads(Path(__file__).with_name("originals.toml").read_text()).items()
}
