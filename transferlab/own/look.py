"""A look at a folder of images before anything is trained: what there is, and what to do about it. No torch here."""

import tomllib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps
from tqdm.auto import tqdm

from ..cores import cpu_workers
from ..data import decoding
from ..data.alike import look_hash, near
from ..data.opened import Item, counted
from ..data.pictures import address
from ..data.readers import open_set
from ..errors import UserError, few
from ..specs import Duplicates
from .page import percent, wilson

ALIKE = Duplicates.bits  # in which the perceptual hashes of images differ at most that look alike
SHEET, SHEETS, THUMBNAIL = 12, 1200, 96  # pictures of a class, of all classes about, and their side in px
NAMED = 20  # pairs of a kind that are named
SPARSE, NARROW, ELONGATED, UNEVEN = 20, 32, 2, 3  # images a class, px, long by short side, most by least images
PORTION = 512  # images that are decoded before more are


class Seen(NamedTuple):
    """What is kept of an image: which one it is, why it is unreadable, or how it looks."""

    name: str
    split: str
    item: Item
    trouble: str = ""
    size: tuple[int, int] = (0, 0)
    mode: str = ""
    several: bool = False
    hash: int = 0
    picture: str = ""


class Overview(NamedTuple):
    """What a folder holds: as plain values (see `overview`); names and pictures by class; pairs with both pictures."""

    about: dict[str, Any]
    sheets: dict[str, list[tuple[str, str]]]
    pairs: list[tuple[dict, str, str]]


def overview(folder: str) -> Overview:
    """Look at every image of a folder once.

    Parameters
    ----------
    folder : str
        As `data.readers.open_set` takes it behind ``folder:``, or with that.

    Returns
    -------
    Overview
        `about` has ``folder``, ``images``, ``splits`` (images by split; one without a name where there are none),
        ``classes`` (the same by class), ``sizes`` (px), ``modes``, ``several`` (files with several pictures),
        ``unreadable`` (reason by name), ``passed``, ``duplicates`` and ``advice``.

    Raises
    ------
    UserError
        As `open_set`; unreadable images are named, not refused.
    """
    opened = open_set(f"folder:{folder.removeprefix('folder:')}", cut=False)
    splits = opened.splits if len(opened.splits) > 1 else {"": opened.splits["train"]}
    seen = list(_looked(splits, min(SHEET, max(2, SHEETS // len(opened.classes)))))
    good = [s for s in seen if not s.trouble]
    counts = Counter((s.item.label, s.split) for s in seen)
    sizes = sorted((s.size for s in good), key=lambda size: (size[0] * size[1], size))
    found, pairs = _duplicates(good)
    about = {
        "folder": opened.name.removeprefix("folder:"),
        "images": len(seen),
        "splits": {split: len(items) for split, items in splits.items()},
        "classes": {name: {s: counts[label, s] for s in splits} for label, name in enumerate(opened.classes)},
        "sizes": {"smallest": sizes[0], "middle": sizes[len(sizes) // 2], "largest": sizes[-1]} if sizes else {},
        "narrow": sum(min(size) < NARROW for size in sizes),
        "long": sum(max(size) > ELONGATED * min(size) for size in sizes),
        "modes": dict(Counter(s.mode for s in good).most_common()),
        "several": sum(s.several for s in good),
        "unreadable": {s.name: s.trouble for s in seen if s.trouble},
        "passed": counted(opened.passed),
        "duplicates": found,
    }
    about["advice"] = list(advice(about))
    sheets: dict[str, list[tuple[str, str]]] = {name: [] for name in opened.classes}
    for s in filter(lambda s: s.picture, good):
        sheets[opened.classes[s.item.label]].append((s.name, s.picture))
    pairs = zip(found["first"], pairs[:SHEET], strict=False)
    return Overview(
        about, sheets, [(told, *(_seen(s.split, s.item, True).picture for s in both)) for told, both in pairs]
    )


def _looked(splits: dict[str, list[Item]], shown: int) -> Iterator[Seen]:
    """Yield what is seen of each image, of some of each class, evenly over it, with their pictures."""
    whole = [(split, item) for split, items in splits.items() for item in items]
    place, of = Counter(), Counter(item.label for _, item in whole)
    bar = tqdm(total=len(whole), desc="looking", unit=" images", disable=None, leave=False)
    with ThreadPoolExecutor(cpu_workers(1)) as pool, bar:
        for first in range(0, len(whole), PORTION):
            asked = []
            for split, item in whole[first : first + PORTION]:
                at, n = place[item.label], of[item.label]
                asked.append((split, item, at * shown // n < (at + 1) * shown // n or n <= shown))
                place[item.label] += 1
            for seen in pool.map(_seen, *zip(*asked, strict=True)):
                bar.update()
                yield seen


def _seen(split: str, item: Item, show: bool) -> Seen:
    name = f"{split}/{item.path}".lstrip("/")
    try:
        content = item.content()  # once: files may be large, or far away
        picture = item._replace(load=lambda: content).image()
    except UserError as e:
        return Seen(name, split, item, str(e).partition("): ")[2])
    size, box = picture.size, Image.Resampling.BOX
    shown = address(ImageOps.fit(picture, (THUMBNAIL, THUMBNAIL), box)) if show else ""
    picture.thumbnail((THUMBNAIL, THUMBNAIL), box)
    bits = look_hash(picture)
    return Seen(name, split, item, "", size, decoding.opened(content).mode, decoding.several(content), bits, shown)


def _duplicates(seen: list[Seen]) -> tuple[dict[str, Any], list[tuple[Seen, Seen]]]:
    """Return how many pairs look alike and the first ones; these also as what is kept of both images."""
    split, label = np.array([s.split for s in seen]), np.array([s.item.label for s in seen])
    count, first = Counter(), {"across": [], "classes_differ": [], "within": []}  # what matters most comes first
    for pairs in near(np.array([s.hash for s in seen], np.uint64), ALIKE):
        across, differ = (of[pairs[:, 0]] != of[pairs[:, 1]] for of in (split, label))
        for kind, which in {"across": across, "classes_differ": differ, "within": ~across}.items():
            count[kind] += int(which.sum())
            first[kind] += map(tuple, pairs[which][: NAMED - len(first[kind])].tolist())
    named = [(seen[i], seen[j]) for i, j in dict.fromkeys(chain(*first.values()))]
    told = [
        {"images": [a.name, b.name], "across": a.split != b.split, "classes_differ": a.item.label != b.item.label}
        for a, b in named
    ]
    return {"pairs": count["across"] + count["within"], **{k: count[k] for k in first}, "first": told}, named


def advice(about: dict[str, Any]) -> Iterator[dict[str, str]]:
    """Yield what matters in what `overview` found, ``what``, and what to ``do`` about it."""
    divided, found = "train" in about["splits"], about["duplicates"]
    of = {name: n["train" if divided else ""] for name, n in about["classes"].items()}
    sparse, tests = sorted((c for c in of if of[c] < SPARSE), key=of.get), about["splits"].get("test", SPARSE**2)
    most, least = max(of, key=of.get), min(of, key=of.get)
    low, high = (percent(share, 0) for share in wilson(round(0.8 * tests), tests))
    counts: dict[str, tuple[int, dict[str, object]]] = {
        "unreadable": (len(about["unreadable"]), {"names": few([*about["unreadable"]])}),
        "sparse": (len(sparse), {"names": few([f"{c} ({of[c]})" for c in sparse], 6)}),
        "uneven": (round(of[most] / of[least]) * (of[most] > UNEVEN * of[least]), {"most": most, "least": least}),
        "small_test": (tests * (tests < SPARSE**2), {"low": low, "high": high}),
        "across": (found["across"], {}),
        "classes_differ": (found["classes_differ"], {}),
        "within" if divided else "undivided": (found["within"], {}),
        "narrow": (about["narrow"], {}),
        "long": (about["long"], {}),
    }
    words = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))
    limits = {"SPARSE": SPARSE, "NARROW": NARROW, "ELONGATED": ELONGATED, "kind": "training " * divided + "images"}
    for name, (n, more) in counts.items():
        if n:
            text = words[name]["one" if n == 1 else "many"]
            yield {"what": text.format(n=n, **limits, **more), "do": words[name]["do"]}
