"""What is borrowed, and how far it is from who borrows: by hand, image by image."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_world import context, give, run, small_world  # noqa: F401  (a fixture for the whole module)

from transferlab.data.augment import normalise
from transferlab.data.images import load, source_sample, target_sample
from transferlab.errors import UserError
from transferlab.measure import Borrowed
from transferlab.methods import FineTune, JointFineTune
from transferlab.methods.joint import Selected
from transferlab.nets.build import build
from transferlab.seeds import stream
from transferlab.specs import AlexNet, Gabor, Recipe, Source, Subset, Target, Trial

RECIPE = Recipe(steps=2, batch=8, lr=0.005)
BACKBONE = AlexNet((8, 8, 8, 8, 8), (24, 16))
SOURCE = Source("synthetic:source", 24, RECIPE, Subset(classes=6))
TARGET = Target("synthetic:0.5", 24, Subset(classes=5, per_class=4))
SELECTED = Selected(Gabor(2, 2, lowest=0.2, bins=8), 3, 20)
JOINT = JointFineTune(RECIPE, "synthetic:source", SELECTED)
ASKED = Trial(TARGET, JOINT, BACKBONE, 1, SOURCE, (Borrowed(4),))


def unit(values: np.ndarray) -> np.ndarray:
    return values / np.linalg.norm(values)


def test_by_hand(tmp_path):
    net = build(BACKBONE, 24, 6, 3)
    found = run(tmp_path, ASKED, net)
    mine, others = (load(its, 24) for its in (TARGET.images, SOURCE.images))
    ours, theirs = (its.splits["train"].pixels for its in (mine, others))
    rows = target_sample(TARGET, "train", 1).rows[[0, 6, 12, 19]].tolist()
    arrays = context(tmp_path).arrays(JOINT.tables(ASKED)[0])
    table = arrays["indices"]
    assert found["asking"] == rows
    assert found["borrowed"] == [table[row, :3].tolist() for row in rows]
    for row, name, near, names, distances in zip(
        rows,
        *(found[c] for c in ("asking_classes", "borrowed", "borrowed_classes", "borrowed_distances")),
        strict=True,
    ):
        assert name == mine.classes[mine.splits["train"].labels[row]]
        assert names == [others.classes[others.splits["train"].labels[i]] for i in near]
        assert distances == pytest.approx(arrays["distances"][row, :3].tolist(), rel=1e-3)
    generator = torch.Generator().manual_seed(stream(1, "random images"))
    random = torch.randint(len(theirs), (4, 3), generator=generator).tolist()

    def deep(pixels):
        kept = []
        hook = net.head.register_forward_hook(lambda module, inputs, output: kept.append(inputs[0]))
        with torch.no_grad():
            net.eval()(normalise(pixels[None]))
        hook.remove()
        return unit(kept[0].flatten().double().numpy())

    def mean_of(groups, apart):
        return np.mean([apart(ours[row], theirs[i]) for row, group in zip(rows, groups, strict=True) for i in group])

    colour = lambda a, b: np.linalg.norm(a.double().mean((0, 1)).numpy() - b.double().mean((0, 1)).numpy())  # noqa: E731
    turned = lambda a, b: 1 - deep(a) @ deep(b)  # noqa: E731
    near = found["borrowed"]
    assert found["colour_ratio"] == pytest.approx(mean_of(near, colour) / mean_of(random, colour), abs=1e-4)
    assert found["deep_ratio"] == pytest.approx(mean_of(near, turned) / mean_of(random, turned), abs=1e-3)


def test_of_a_part_of_the_pool_the_nearest_are_borrowed(tmp_path):
    part = Subset(per_class=2)
    asked = replace(ASKED, method=replace(JOINT, pool_subset=part))
    found = run(tmp_path, asked, build(BACKBONE, 24, 6, 3))
    inside = source_sample(Target(SOURCE.images, 24, part), 1).rows.tolist()
    arrays = context(tmp_path).arrays(JOINT.tables(asked)[0])
    for row, near, distances in zip(found["asking"], found["borrowed"], found["borrowed_distances"], strict=True):
        wanted = [i for i, n in enumerate(arrays["indices"][row].tolist()) if n in inside][: len(near)]
        assert near == arrays["indices"][row][wanted].tolist()
        assert distances == pytest.approx(arrays["distances"][row][wanted].tolist(), rel=1e-3)
    assert 1 <= len(near) <= 3


@pytest.mark.parametrize(
    "one",
    [
        replace(ASKED, measures=(), method=FineTune(RECIPE)),
        replace(ASKED, measures=(), method=replace(JOINT, selected=None)),
        replace(ASKED, measures=(), method=replace(JOINT, selected=replace(SELECTED, random=True))),
        replace(ASKED, measures=(), method=replace(JOINT, pool=("synthetic:source", "synthetic:1"))),
        replace(ASKED, measures=(), source=None),
    ],
    ids=["nothing", "all", "random", "two pools", "from scratch"],
)
def test_it_asks_for_a_selection_of_one_pool(one):
    with pytest.raises(UserError, match=r"measure \(=borrowed\): asks for a source, and for a selection of one pool"):
        replace(one, measures=(Borrowed(),))
