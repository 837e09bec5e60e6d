"""A synthetic image world: labelled pictures drawn by formula, at any resolution, with no download.

The world has a class tree of 4 families x 5 kinds x 5 sorts. A *family* is a way to draw an outline (lobed, boxy, ring,
bars), a *kind* its proportions, a *sort* the pattern that fills it. Everything else varies within a class: position,
rotation, size, colours, the phase of the pattern, clutter, light, noise. Image number i of a seed is a function of
(seed, i) alone. A target set has classes of its own; a dial moves it away from the source: outlines and patterns of
other proportions, rotated hues, colour fading to grey, heavier clutter.
"""

import itertools
import math
from collections.abc import Iterable, Iterator

import numpy as np
import torch

from .objects import COLUMNS, LEAST
from .tree import ClassTree

KINDS, SORTS = 5, 5
FAMILY_NAMES = ("lobed", "boxy", "ring", "bars")
PER_CLASS = {role: {"train": n, "validation": 10, "test": 20} for role, n in {"source": 100, "target": 40}.items()}
FIRST_INDEX = {"train": 0, "validation": 1 << 20, "test": 1 << 21}
DRAWS = 26  # random numbers an image
OBJECTS, SCENE_ZOOM, SCENE_ROOM = 3, 0.5, 1.2  # in an image of several: how many at most, how large and how far apart
FIRST_SCENE = 1 << 24  # index of what is drawn in images of several objects
PIXELS_AT_ONCE = 2000 * 32 * 32  # pixels drawn at once


def uniform(seed: int, index: torch.Tensor, draws: int) -> torch.Tensor:
    """Return numbers in [0, 1) that depend on (seed, index, column) alone (the SplitMix64 hash).

    Parameters
    ----------
    seed : int
    index : Tensor of int64, shape (N,)
    draws : int
        Columns.

    Returns
    -------
    Tensor of float32, shape (N, draws)
    """
    start = ((seed + 1) * 0x1F83D9ABFB41BD6B) % (1 << 64) - (1 << 63)
    z = index[:, None] * 0x632BE59BD9B4E019 + torch.arange(1, draws + 1) * -0x61C8864680B583EB + start
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        z = (z ^ ((z >> shift) & ((1 << (64 - shift)) - 1))) * factor
    z = z ^ ((z >> 31) & ((1 << 33) - 1))
    return ((z >> 40) & 0xFFFFFF).float() / (1 << 24)


def hue(angle: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    """Return saturated colours, shape (N, 3), for hue angles in turns and strengths in [0, 1], both shape (N,)."""
    phases = torch.tensor([0.0, 1 / 3, 2 / 3])
    return 0.5 + 0.5 * strength[:, None] * torch.cos(2 * math.pi * (angle[:, None] + phases))


def _ends(covered: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return where what is covered of lines, (N, size), begins and ends."""
    return covered.float().argmax(1), covered.shape[1] - covered.flip(1).float().argmax(1)


class World:
    """The source set, or a target set at some distance from it.

    Parameters
    ----------
    distance : float or None
        ``None`` for the source; for a target from 0 (near) to 1 (far).
    seed : int
        Of the world; every seed has other classes and images.
    """

    def __init__(self, distance: float | None, seed: int = 0) -> None:
        self.far = distance or 0.0
        self.role = "source" if distance is None else "target"
        self.seed = 2 * seed + (distance is not None)
        paths = {}
        for family, k, s in itertools.product(FAMILY_NAMES, range(KINDS), range(SORTS)):
            leaf = f"{family}-{k}-{s}"
            paths[leaf] = ("world", family, f"{family}-{k}", leaf)
        self.tree, self.classes = ClassTree(paths), tuple(paths)

    def draw(self, split: str, size: int) -> tuple[Iterator[np.ndarray], np.ndarray, list[str]]:
        """Draw every image of a split.

        Returns
        -------
        pieces : iterator of ndarray of uint8, shapes (n, size, size, 3)
        labels : ndarray of int64, shape (N,)
        names : list of str, length N
        """
        labels = torch.arange(len(self.classes)).repeat_interleave(PER_CLASS[self.role][split])
        index, few = FIRST_INDEX[split] + torch.arange(len(labels)), max(1, PIXELS_AT_ONCE // size**2)
        pieces = (self.render(i, of, size).numpy() for i, of in zip(index.split(few), labels.split(few), strict=True))
        return pieces, labels.numpy(), [str(i) for i in range(len(labels))]

    def draw_scenes(self, split: str, size: int) -> tuple[Iterator[np.ndarray], np.ndarray, list[str]]:
        """As `draw`, images of one to `OBJECTS` objects: labels are their boxes (N, OBJECTS, 6), see `objects`, there
        when the pieces are drawn.
        """
        rows = torch.arange(len(self.classes) * PER_CLASS[self.role][split])
        boxes = np.full((len(rows), OBJECTS, COLUMNS), -1, np.float32)

        def pieces() -> Iterator[np.ndarray]:
            for some in rows.split(max(1, PIXELS_AT_ONCE // size**2)):
                pictures, found = self.scenes(FIRST_INDEX[split] + some, size)
                boxes[some.numpy()] = found.numpy()
                yield pictures.numpy()

        return pieces(), boxes, [str(i) for i in range(len(rows))]

    def scenes(self, index: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw images of several objects: uint8 (N, size, size, 3), and their boxes, float32 (N, OBJECTS, 6).

        Later ones cover earlier ones, which are difficult where less than a quarter can be seen.
        """
        drawn, boxes, masks = uniform(self.seed + 4000, index, 1 + OBJECTS), [], []
        for k in range(OBJECTS):
            labels = index % len(self.classes) if k == 0 else (drawn[:, k] * len(self.classes)).long()
            there = (drawn[:, 0] * OBJECTS).long() >= k
            its = FIRST_SCENE + OBJECTS * index + k
            scene, paint, mask, u = self.layers(its, labels, size, SCENE_ZOOM, SCENE_ROOM)
            mask = mask * there[:, None, None, None]
            if k == 0:
                picture, light = scene, u
            picture = picture + mask * (paint - picture)
            masks = [before * (1 - mask) for before in masks] + [mask]
            ends = [_ends(mask[..., 0].amax(axis) > 0.5) for axis in (1, 2)]  # of columns, and of rows
            box = [ends[0][0], ends[1][0], ends[0][1], ends[1][1]]
            boxes.append(torch.stack([labels.float(), *box, mask.sum((1, 2, 3))], 1))
            boxes[-1][~there] = -1
        found = torch.stack(boxes, 1)
        seen = torch.stack([mask.sum((1, 2, 3)) for mask in masks], 1)
        found[..., 5] = torch.where(found[..., 0] < 0, -1.0, (seen < LEAST * found[..., 5]).float())
        return self.lit(picture, light, FIRST_SCENE + OBJECTS * index), found

    def sample(self, labels: Iterable[int], size: int) -> np.ndarray:
        """Return one image of each of some classes, uint8 of shape (N, size, size, 3)."""
        chosen = torch.tensor(list(labels))
        return self.render(chosen, chosen, size).numpy()

    def traits(self, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return what makes the classes: outline and pattern parameters, each of shape (N,)."""
        family, kind, sort = labels // (KINDS * SORTS), labels // SORTS % KINDS, labels % SORTS
        of_kind = uniform(self.seed + 1000, family * KINDS + kind, 3)
        of_sort = uniform(self.seed + 2000, labels, 4)
        return {
            "family": family,
            "sort": sort,
            "lobes": 2 + kind + torch.round(3 * self.far * of_kind[:, 0]),
            "depth": 0.2 + 0.35 * of_kind[:, 1],
            "aspect": 0.45 + 0.13 * kind + 0.2 * self.far * (of_kind[:, 2] - 0.5),
            "frequency": 1.5 + 2.5 * of_sort[:, 0] + 2 * self.far,
            "slant": math.pi * of_sort[:, 1],
            "hue": of_sort[:, 2] + 0.4 * self.far,
        }

    def render(self, index: torch.Tensor, labels: torch.Tensor, size: int) -> torch.Tensor:
        """Draw images.

        Parameters
        ----------
        index, labels : Tensor of int64, shape (N,)
        size : int

        Returns
        -------
        Tensor of uint8, shape (N, size, size, 3)
        """
        scene, paint, mask, u = self.layers(index, labels, size)
        return self.lit(scene + mask * (paint - scene), u, index)

    def layers(
        self, index: torch.Tensor, labels: torch.Tensor, size: int, zoom: float = 1.0, room: float = 0.5
    ) -> tuple[torch.Tensor, ...]:
        """Return what is behind objects, and what they are painted with, both of shape (N, size, size, 3) or alike, how
        much of each pixel they cover, (N, size, size, 1), and the numbers that all was drawn by.

        They are `zoom` times as large as in images of one object, and their middles lie in the middle share `room`.
        """
        u, trait, far = uniform(self.seed, index, DRAWS), self.traits(labels), self.far
        at = lambda column: u[:, column, None, None]  # noqa: E731  (N, 1, 1)
        axis = (torch.arange(size) + 0.5) / size * 2 - 1
        down, right = axis[None, :, None], axis[None, None, :]

        # pose: from picture coordinates to the object's own
        turn, extent = 0.8 * (at(0) - 0.5), zoom * (0.6 + 0.25 * at(1))
        x, y = right - room * (at(2) - 0.5), down - room * (at(3) - 0.5)
        x, y = (x * turn.cos() + y * turn.sin()) / extent, (y * turn.cos() - x * turn.sin()) / extent
        edge = 3.0 / (size * extent)
        mask = (self.outline(trait, x, y) / edge).clamp(-0.5, 0.5) + 0.5  # (N, size, size), antialiased

        # the pattern that fills it, in two colours
        filled = self.pattern(trait, x, y, u)[..., None]
        grey = 1 - 0.8 * far * u[:, 4]
        first = hue(trait["hue"] + 0.15 * (u[:, 5] - 0.5), (0.6 + 0.4 * u[:, 6]) * grey) * (0.5 + 0.5 * u[:, 7, None])
        second = hue(u[:, 8], 0.6 * u[:, 9] * grey) * (0.2 + 0.8 * u[:, 10, None])
        paint = filled * first[:, None, None] + (1 - filled) * second[:, None, None]

        # behind it: a gradient, a grating and blobs of clutter
        ground = hue(u[:, 11], 0.7 * u[:, 12] * grey) * (0.3 + 0.6 * u[:, 13, None])
        slope = (right * (at(14) - 0.5) + down * (at(15) - 0.5))[..., None]
        wave = torch.sin((8 * right * (at(16) - 0.5) + 8 * down * (at(17) - 0.5)) * 2.5 + 6 * at(18))[..., None]
        scene = ground[:, None, None] + 0.3 * slope + (0.08 + 0.1 * far) * wave
        for blob in range(2):
            bx, by = right - 2 * (at(19 + 2 * blob) - 0.5), down - 2 * (at(20 + 2 * blob) - 0.5)
            radius = 0.1 + (0.1 + 0.3 * far) * at(12 + blob)
            spot = ((radius - (bx**2 + by**2).sqrt()) / (3.0 / size)).clamp(-0.5, 0.5) + 0.5
            scene = scene + spot[..., None] * (hue(u[:, 9 - blob], 0.8 * grey)[:, None, None] - scene)

        return scene, paint, mask[..., None], u

    def lit(self, picture: torch.Tensor, u: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Return pictures as uint8, under their light and with their grain."""
        size, at = picture.shape[1], lambda column: u[:, column, None, None]
        axis = (torch.arange(size) + 0.5) / size * 2 - 1
        down, right = axis[None, :, None], axis[None, None, :]
        light = 1 + 0.8 * (at(23) - 0.5) + 0.5 * (right * (at(24) - 0.5) + down * (at(25) - 0.5))
        pixel = index[:, None] * size**2 + torch.arange(size**2)
        grain = uniform(self.seed + 3000, pixel.reshape(-1), 1).reshape(len(index), size, size, 1)
        picture = picture * light[..., None] + 0.1 * (grain - 0.5)
        return (picture.clamp(0, 1) * 255).round().to(torch.uint8)

    @staticmethod
    def outline(trait: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return a field that is positive inside the object, shape (N, size, size), for its coordinates `x` and `y`."""
        of = lambda name: trait[name][:, None, None]  # noqa: E731
        radius, angle = (x**2 + y**2).sqrt(), torch.atan2(y, x)
        lobed = 0.8 * (1 + of("depth") * torch.cos((of("lobes") + 1) * angle)) - radius
        power = 1 + of("lobes")
        boxy = 0.9 - ((x.abs() ** power + (y.abs() / of("aspect")) ** power) + 1e-9) ** (1 / power)
        gap = torch.cos(of("lobes") * angle) + 0.8
        ring = torch.minimum(0.12 + 0.3 * of("depth") - (radius - 0.7).abs(), 0.4 * gap)
        stripes = torch.cos(math.pi * of("lobes") * x) + 1 - 2 * of("aspect") + 0.6
        bars = torch.minimum(0.9 - torch.maximum(x.abs(), y.abs()), 0.3 * stripes)
        return torch.stack([lobed, boxy, ring, bars]).gather(0, of("family")[None].expand(1, *x.shape))[0]

    @staticmethod
    def pattern(trait: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        """Return how much of the first colour the pattern has, in [0, 1], shape (N, size, size)."""
        of = lambda name: trait[name][:, None, None]  # noqa: E731
        phase, frequency = 2 * math.pi * u[:, 7, None, None], math.pi * of("frequency")
        along = x * of("slant").cos() + y * of("slant").sin()
        across = y * of("slant").cos() - x * of("slant").sin()
        stripes = torch.sin(frequency * along + phase)
        checks = 1.5 * (stripes * torch.sin(frequency * across + phase))
        rings = torch.sin(frequency * 1.3 * (x**2 + y**2).sqrt() + phase)
        dots = torch.cos(frequency * 1.2 * along + phase) + torch.cos(frequency * 1.2 * across + phase) - 0.6
        fields = torch.stack([0.6 * along, stripes, checks, rings, dots])
        return (fields.gather(0, of("sort")[None].expand(1, *x.shape))[0] * 1.5).clamp(-1, 1) * 0.5 + 0.5
