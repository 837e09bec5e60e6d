"""How far weights moved, layer by layer: against numpy, and where the answer is known."""

from dataclasses import replace

import numpy as np
import pytest
from small_world import run, small_world, trainings  # noqa: F401  (a fixture for the whole module)

from transferlab.errors import UserError
from transferlab.measure import WeightChange
from transferlab.methods import FineTune, Grow, Scratch
from transferlab.methods.regularisers import CoTuning
from transferlab.nets.build import build
from transferlab.run import work
from transferlab.specs import AlexNet, Recipe, Source, Subset, Target, Torchvision, Trial

RECIPE = Recipe(steps=4, batch=8, lr=0.01, augment="none")
BACKBONE = AlexNet((8, 8, 8, 8, 8), (24, 16))
SOURCE = Source("synthetic:source", 24, RECIPE, Subset(classes=6))
TARGET = Target("synthetic:0.5", 24, Subset(classes=5, per_class=4))
LAYERS = ["conv1.conv", "conv2.conv", "conv3.conv", "conv4.conv", "conv5.conv", "fc6.linear", "fc7.linear"]


def trial(method=None, **given) -> Trial:
    return replace(Trial(TARGET, method or FineTune(RECIPE), BACKBONE, 1, SOURCE, (WeightChange(),)), **given)


def network():
    return build(BACKBONE, 24, 6, seed=3)


def test_by_hand(tmp_path):
    with trainings() as seen:
        found = run(tmp_path, trial(), network())
    assert found["changed_layers"] == LAYERS
    was, now = (dict(net.named_parameters()) for net in (network(), seen[0].run.trained))
    for i, layer in enumerate(LAYERS):
        a, b = (weights[f"{layer}.weight"].detach().numpy().ravel().astype(float) for weights in (was, now))
        assert found["relative_change"][i] == pytest.approx(np.sqrt(((b - a) ** 2).sum() / (a**2).sum()), abs=1e-6)
        assert found["sign_flips"][i] == pytest.approx(np.mean(a * b < 0), abs=1e-6)
        assert found["weight_cosine"][i] == pytest.approx(
            1 - np.arccos(a @ b / np.sqrt(a @ a * (b @ b))) ** 2 / 2, abs=1e-4
        )
        assert found["relative_change"][i] > 0


def test_what_is_frozen_has_not_moved(tmp_path):
    found = run(tmp_path, trial(FineTune(RECIPE, freeze="pool5")), network())
    frozen = slice(5)
    assert found["relative_change"][frozen] == found["sign_flips"][frozen] == [0] * 5
    assert found["weight_cosine"][frozen] == [1] * 5
    assert min(found["relative_change"][5:]) > 0


def test_the_head_that_is_kept_beside_is_no_layer(tmp_path):
    assert run(tmp_path, trial(FineTune(RECIPE, hold=CoTuning(1.0))), network())["changed_layers"] == LAYERS


def test_of_squeezenet_all_convolutions_but_the_last(tmp_path):
    net, few = Torchvision("squeezenet1_0"), replace(RECIPE, steps=1, batch=2)
    asked = trial(FineTune(few), backbone=net, source=replace(SOURCE, size=32), target=replace(TARGET, size=32))
    found = run(tmp_path, asked, build(net, 32, 6, seed=0))
    assert len(found["relative_change"]) == 25
    assert found["changed_layers"][0] == "features.0"
    assert "classifier.1" not in found["changed_layers"]


@pytest.mark.parametrize("how", ["widen", "deepen"])
def test_what_grows_is_refused_before_any_training(how, tmp_path, monkeypatch):
    monkeypatch.setattr(work, "fit_together", lambda *a, **k: pytest.fail("it was trained"))
    rule = r"measure \(=weight-change\): wants a network that keeps its layers; this one grows"
    with pytest.raises(UserError, match=rule):
        run(tmp_path, trial(Grow(RECIPE, how, (6,))), network())


def test_it_asks_for_a_source():
    with pytest.raises(UserError, match=r"measure \(=weight-change\): asks for a source"):
        Trial(TARGET, Scratch(RECIPE), BACKBONE, 1, None, (WeightChange(),))
