"""Folders of small drawn pictures of a few classes, and a small network to start from, for tests."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_world import give

from transferlab import scales
from transferlab.nets.build import build
from transferlab.own import networks
from transferlab.paths import store_root
from transferlab.specs import AlexNet, Pretrained, Recipe, Source, Subset

SIZE = 16


def picture(label: int, seed: int, size: tuple[int, int] = (20, 20)) -> Image.Image:
    """A picture like no other one: coarse noise in which the class's colour is strong."""
    noise = np.random.default_rng([label, seed]).integers(0, 130, (5, 5, 3))
    noise[..., label % 3] += 60 + 20 * (label // 3)
    return Image.fromarray(noise.astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)


def draw(folder: Path, counts: dict[str, int]) -> Path:
    """Write as many pictures into each folder below one as `counts` says; the last name is that of the class."""
    names = sorted({name.rpartition("/")[2] for name in counts})
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            seed = 1000 * sorted(counts).index(name) + number
            picture(names.index(name.rpartition("/")[2]), seed).save(folder / name / f"{number:03d}.png")
    return folder


@pytest.fixture
def own_network(monkeypatch):
    """The book's own network is a smaller one, at 16 px, which nobody trained; there are seeds 0 and 1."""
    source = Source("synthetic:source", SIZE, Recipe(2, 8, 0.1), Subset(classes=4))
    small = replace(
        scales.scale("cpu"), size=SIZE, backbone=AlexNet((8, 8, 8, 8, 8), (16, 16)), seeds=2,
        source="synthetic:source", pretrain=source.recipe, reference=source.recipe, source_subset=source.subset,
    )  # fmt: skip
    monkeypatch.setattr(networks, "scale", lambda name: small)
    for seed in range(2):
        made = Pretrained(small.source_of(), small.backbone, seed)
        give(store_root(), made, build(small.backbone, SIZE, 4, seed))
