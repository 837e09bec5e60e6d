"""Objects in images: boxes with a class, as readers find them, and where they come to lie in a decoded image. No torch.

A box has a left, upper, right and lower edge in pixels from an image's upper left corner: the first pixel reaches from
0 to 1. An array of boxes has one row of `COLUMNS` each; behind an image's last one the class is -1.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from . import decoding
from .opened import Item

COLUMNS = 6  # class, left, top, right, bottom, and 1 if it is difficult
LEAST = 0.25  # share of its area below which what a crop leaves of a box is difficult


def padded(objects: Sequence[Sequence[Sequence[float]]]) -> np.ndarray:
    """Return the boxes of N images as float32 (N, M, 6), M the most that one has, or 1."""
    found = np.full((len(objects), max([1, *map(len, objects)]), COLUMNS), -1, np.float32)
    for row, its in zip(found, objects, strict=True):
        row[: len(its)] = np.reshape(its, (-1, COLUMNS))
    return found


def front(boxes: np.ndarray, stays: np.ndarray) -> np.ndarray:
    """Return boxes (N, M, 6) without those that go, each image's before the rows of -1."""
    stays = stays & (boxes[..., 0] >= 0)
    order = np.argsort(~stays, axis=1, kind="stable")[..., None]
    return np.take_along_axis(np.where(stays[..., None], boxes, np.float32(-1)), order, 1)


def chosen(boxes: np.ndarray, mapping: np.ndarray, out: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return boxes with new labels, and which images stay: all of those without objects, and none with objects of a
    class that is `out`, or only with such as the mapping leaves out (-1).
    """
    there, label = boxes[..., 0] >= 0, boxes[..., 0].astype(int)
    new = np.where(there, mapping[label], -1)
    stays = ~(there & out[label]).any(1) & ((new >= 0).any(1) | ~there.any(1))
    return front(np.concatenate([new[..., None], boxes[..., 1:]], 2).astype(np.float32), new >= 0), stays


def presence(boxes: np.ndarray, classes: int) -> np.ndarray:
    """Return which classes images have objects of, as float32 (N, classes): 1, or 0, or NaN where all are difficult."""
    found = np.zeros((len(boxes), classes), np.float32)
    for hard, value in ((True, np.nan), (False, 1)):
        image, at = np.nonzero((boxes[..., 0] >= 0) & ((boxes[..., 5] > 0) == hard))
        found[image, boxes[image, at, 0].astype(int)] = value
    return found


def moved(boxes: np.ndarray, width: int, height: int, size: int) -> np.ndarray:
    """Return where boxes (M, 6) of a picture lie in the square that `images.shrink` makes of it.

    What a crop leaves less than a quarter of is difficult; that of which nothing is left goes.
    """
    (left, top, wide, high), (new_width, new_height), corner = decoding.fitted(width, height, size)
    scale = np.array([new_width / wide, new_height / high] * 2, np.float32)
    at = (boxes[:, 1:5] - np.float32([left, top] * 2)) * scale - np.float32(corner * 2)
    inside = at.clip(0, size)
    share = _area(inside) / np.maximum(_area(at), 1e-6)
    found = np.concatenate([boxes[:, :1], inside, np.where(share < LEAST, 1, boxes[:, 5])[:, None]], 1)
    return front(found[None], share[None] > 0)[0]


def _area(edges: np.ndarray) -> np.ndarray:
    return (edges[:, 2] - edges[:, 0]).clip(0) * (edges[:, 3] - edges[:, 1]).clip(0)


def cleaned(items: Iterable[Item], passed: dict[str, list[str]]) -> list[Item]:
    """Return images with boxes that lie inside them: reversed corners are turned, what reaches out is cut, and what
    then has no area goes; names of all these are put under what was `passed` over.
    """
    found = []
    for item in items:
        size, kept = decoding.upright_size(item.content()), []
        for number, (label, *edges, hard) in enumerate(item.objects):
            turned = [min(edges[::2]), min(edges[1::2]), max(edges[::2]), max(edges[1::2])]
            most = size * 2 if size else (np.inf,) * 4  # else it is damaged, which decoding says
            cut = [float(min(max(edge, 0), end)) for edge, end in zip(turned, most, strict=True)]
            kinds = {"boxes with reversed corners, which were turned": turned != edges}
            if not np.isfinite(edges).all() or turned[0] == turned[2] or turned[1] == turned[3]:
                kinds = {"boxes of no area": True}
            elif cut[0] == cut[2] or cut[1] == cut[3]:
                kinds = {"boxes outside of their image": True}
            else:
                kinds["boxes that reach out of their image, which were cut"] = cut != turned
                kept.append((label, *cut, hard))
            for kind in (kind for kind, applies in kinds.items() if applies):
                passed.setdefault(kind, []).append(f"{item.path}#{number}")
        found.append(item._replace(objects=tuple(kept)))
    return found


def crops(items: Iterable[Item], passed: dict[str, list[str]], least: int = 0) -> list[Item]:
    """Return an image of each object that is not difficult, with its label, and has `least` pixels a side."""
    found = []
    for item in items:
        shown = [(label, tuple(edges)) for label, *edges, hard in item.objects if not hard]
        if not item.objects:
            passed.setdefault("images without objects", []).append(item.path)
        for number, (label, box) in enumerate(shown):
            if least and min(round(box[2]) - round(box[0]), round(box[3]) - round(box[1])) < least:
                passed.setdefault("boxes of less than a pixel", []).append(f"{item.path}#{number}")
                continue
            found.append(item._replace(path=f"{item.path}#{number}", label=label, box=box, objects=None))
    return found
