"""What is shown of units: images, selectivity and filters, by hand."""

import base64
import io
import itertools
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from small_world import run, small_world, trainings  # noqa: F401  (a fixture for the whole module)

from transferlab.data.images import load, target_sample
from transferlab.errors import UserError
from transferlab.measure import Gallery
from transferlab.measure.gallery import SIDE
from transferlab.measure.representation import selectivity
from transferlab.methods import FineTune, Grow, Scratch
from transferlab.nets.build import build
from transferlab.specs import AlexNet, Recipe, Source, Subset, Target, Trial
from transferlab.train.read import read

RECIPE = Recipe(steps=8, batch=8, lr=0.05, augment="none")
BACKBONE = AlexNet((8, 8, 8, 8, 8), (24, 16))
SOURCE = Source("synthetic:source", 24, RECIPE, Subset(classes=6))
TARGET = Target("synthetic:0.5", 24, Subset(classes=5, per_class=4))


def trial(method=None, **given) -> Trial:
    return replace(Trial(TARGET, method or FineTune(RECIPE), BACKBONE, 1, SOURCE, (Gallery(3, 2, 5),)), **given)


def network():
    return build(BACKBONE, 24, 6, seed=3)


def test_by_hand(tmp_path):
    with trainings() as seen:
        found = run(tmp_path, trial(), network())
    nets = {"before": network(), "after": seen[0].run.trained}
    sample, stored = target_sample(TARGET, "test", 1), load(TARGET.images, 24)
    groups = itertools.groupby(found["gallery"], lambda row: tuple(row[:4]))
    told = {about: [row[4:] for row in rows] for about, rows in groups}
    ranks = [(layer, rank, when) for layer in ("conv1", "conv4", "fc7") for rank in range(3) for when in nets]
    assert [(layer, rank, when) for layer, rank, _, when in told] == ranks
    gains = {}
    for (layer, rank, unit, when), rows in told.items():
        known = {w: selectivity(read(net, sample, [layer])[layer], sample.labels) for w, net in nets.items()}
        change = (known["after"] - known["before"]).numpy()
        gains.setdefault(layer, {})[rank] = change[unit], np.sort(change)
        excited = read(nets[when], sample, [layer])[layer][:, unit].numpy()
        for place, (now, at, row, name) in enumerate(rows, 1):
            assert (now, at) == (pytest.approx(known[when][unit].item(), abs=1e-4), place)
            assert excited[sample.rows.tolist().index(row)] == pytest.approx(np.sort(excited)[-place])
            assert name == stored.classes[stored.splits["test"].labels[row]]
    for three in gains.values():
        change = three[0][1]
        assert [gain for gain, _ in three.values()] == pytest.approx(
            [change[0], change[(len(change) - 1) // 2], change[-1]]
        )


def test_filters_can_be_looked_at(tmp_path):
    with trainings() as seen:
        found = run(tmp_path, trial(), network())
    was, now = (net.conv1.conv.weight.detach().numpy() for net in (network(), seen[0].run.trained))
    changes = np.sqrt(((now - was) ** 2).sum((1, 2, 3)) / (was**2).sum((1, 2, 3)))
    which = [one for one in np.argsort(-changes)[:5] for _ in range(2)]
    assert [row[0] for row in found["filters"]] == which
    assert [row[1] for row in found["filters"]] == ["before", "after"] * 5
    for number, when, url in found["filters"]:
        one = {"before": was, "after": now}[when][number].transpose(1, 2, 0)
        picture = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
        assert picture.size == (SIDE, SIDE)
        small = np.asarray(picture.resize(one.shape[:2], Image.Resampling.BOX), float)
        light, wanted = small.mean(2), (128 + 127 * one / abs(one).max()).mean(2)
        assert np.corrcoef(light.ravel(), wanted.ravel())[0, 1] > 0.9


def test_what_it_cannot_look_at_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"measure \(=gallery\): wants a network that keeps its layers; this one grows"):
        run(tmp_path, trial(Grow(RECIPE, "widen", (6,))), network())
    with pytest.raises(UserError, match=r"measure \(=gallery\): asks for a source"):
        Trial(TARGET, Scratch(RECIPE), BACKBONE, 1, None, (Gallery(),))
    with pytest.raises(UserError, match=r"units \(=0\): must be a whole number above 0"):
        Gallery(0)
