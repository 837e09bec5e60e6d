"""What is shown of units: images, selectivity and filters, by hand."""

import base64
from dataclasses import replace

import numpy as np
import pytest
from small_world import run, small_world, trainings  # noqa: F401  (a fixture for the whole module)

from transferlab.data.images import load, target_sample
from transferlab.errors import UserError
from transferlab.measure import Gallery
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
    assert found["gallery_layers"] == ["conv1"] * 3 + ["conv4"] * 3 + ["fc7"] * 3
    gains = {}
    for i, (layer, unit) in enumerate(zip(found["gallery_layers"], found["gallery_units"], strict=True)):
        known = {when: selectivity(read(net, sample, [layer])[layer], sample.labels) for when, net in nets.items()}
        change = (known["after"] - known["before"]).numpy()
        gains.setdefault(layer, []).append((change[unit], np.sort(change)))
        for when, net in nets.items():
            excited = read(net, sample, [layer])[layer][:, unit].numpy()
            rows = found[f"gallery_{when}"][i]
            places = [sample.rows.tolist().index(row) for row in rows]
            assert excited[places] == pytest.approx(np.sort(excited)[::-1][:2])
            names = [stored.classes[label] for label in stored.splits["test"].labels[rows]]
            assert found[f"gallery_{when}_classes"][i] == names
            assert found[f"gallery_selectivity_{when}"][i] == pytest.approx(known[when][unit].item(), abs=1e-4)
    for three in gains.values():
        change = three[0][1]
        assert [gain for gain, _ in three] == pytest.approx([change[0], change[(len(change) - 1) // 2], change[-1]])


def test_filters_can_be_drawn(tmp_path):
    with trainings() as seen:
        found = run(tmp_path, trial(), network())
    for when, net in (("before", network()), ("after", seen[0].run.trained)):
        weights = net.conv1.conv.weight.detach().permute(0, 2, 3, 1).numpy()
        assert len(found[f"filters_{when}"]) == 5
        for text, one in zip(found[f"filters_{when}"], weights, strict=False):
            pixels = np.frombuffer(base64.b64decode(text), np.uint8).reshape(one.shape)
            assert (pixels.astype(float) - 128) / 127 == pytest.approx(one / abs(one).max(), abs=0.51 / 127)


def test_what_it_cannot_look_at_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"measure \(=gallery\): wants a network that keeps its layers; this one grows"):
        run(tmp_path, trial(Grow(RECIPE, "widen", (6,))), network())
    with pytest.raises(UserError, match=r"measure \(=gallery\): asks for a source"):
        Trial(TARGET, Scratch(RECIPE), BACKBONE, 1, None, (Gallery(),))
    with pytest.raises(UserError, match=r"units \(=0\): must be a whole number above 0"):
        Gallery(0)
