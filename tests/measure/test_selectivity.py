"""Selectivity layer by layer, by hand with scikit-learn, and the signed-rank test by all signs."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score
from small_world import run, small_world, trainings  # noqa: F401  (a fixture for the whole module)

from transferlab.data.images import target_sample
from transferlab.errors import UserError
from transferlab.measure import Selectivity
from transferlab.measure.along import layer_taps
from transferlab.measure.selectivity import signed_rank
from transferlab.methods import FineTune, Grow, Scratch
from transferlab.nets.build import build
from transferlab.specs import AlexNet, Recipe, ResNet, Source, Subset, Target, Torchvision, Trial
from transferlab.train.read import read

RECIPE = Recipe(steps=6, batch=8, lr=0.01, augment="none")
BACKBONE = AlexNet((8, 8, 8, 8, 8), (24, 16))
SOURCE = Source("synthetic:source", 24, RECIPE, Subset(classes=6))
TARGET = Target("synthetic:0.5", 24, Subset(classes=5, per_class=4))
LAYERS = ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7"]


def trial(method, **given) -> Trial:
    return replace(Trial(TARGET, method, BACKBONE, 1, SOURCE, (Selectivity(),)), **given)


def network():
    return build(BACKBONE, 24, 6, seed=3)


def test_by_hand(tmp_path):
    with trainings() as seen:
        found = run(tmp_path, trial(FineTune(RECIPE)), network())
    assert found["selective_layers"] == LAYERS
    sample = target_sample(TARGET, "test", 1)
    for i, layer in enumerate(LAYERS):
        medians = []
        for net in (network(), seen[0].run.trained):
            x = read(net, sample, [layer], grid=None)[layer].numpy()
            x = x.reshape(*x.shape[:2], -1).mean(2)
            medians.append(np.median([max(roc_auc_score(sample.labels == c, u) for c in range(5)) for u in x.T]))
        assert [found["unit_selectivity_before"][i], found["unit_selectivity_after"][i]] == pytest.approx(
            medians, abs=1e-5
        )
    assert all(0 < p <= 1 for p in found["selectivity_p"])


def test_what_is_frozen_is_as_selective_as_before(tmp_path):
    found = run(tmp_path, trial(FineTune(replace(RECIPE, lr=0.3), freeze="fc6")), network())
    assert found["unit_selectivity_before"][:6] == found["unit_selectivity_after"][:6]
    assert found["selectivity_p"][:6] == [1.0] * 6
    assert found["selectivity_p"][6] < 1


@given(st.lists(st.integers(1, 40), min_size=2, max_size=9, unique=True), st.integers(0, 511))
def test_signed_ranks_are_those_of_all_signs(sizes, signs):
    """By definition: how many patterns of signs have a sum of positive ranks as far from its mean."""
    ranks, flips = rankdata(sizes), [signs >> i & 1 for i in range(len(sizes))]
    sums = np.array([ranks @ np.array(s) for s in itertools.product((0, 1), repeat=len(sizes))])
    seen, middle = ranks @ np.array(flips), ranks.sum() / 2
    wanted = (abs(sums - middle) >= abs(seen - middle) - 1e-9).mean()
    assert signed_rank([s if f else -s for s, f in zip(sizes, flips, strict=True)]) == pytest.approx(wanted)


def test_no_change_is_no_evidence():
    assert signed_rank([0.0] * 5) == 1


def test_layers_that_are_read():
    assert layer_taps(network()) == LAYERS
    assert layer_taps(build(AlexNet((8, 8, 8, 8, 8), (24, 16), "none"), 24, 6, 0)) == LAYERS
    assert layer_taps(build(ResNet(18), 16, 6, 0)) == ["conv1", "layer1", "layer2", "layer3", "layer4"]
    convolutions = [f"features.{i}" for i in (0, 3, 6, 8, 10)]
    assert layer_taps(build(Torchvision("alexnet"), 64, 6, 0)) == [*convolutions, "fc6", "fc7"]
    fires = [f"features.{i}" for i in (0, 3, 4, 5, 7, 8, 9, 10, 12)]
    assert layer_taps(build(Torchvision("squeezenet1_0"), 32, 6, 0)) == fires


def test_what_grows_is_refused(tmp_path):
    with pytest.raises(
        UserError, match=r"measure \(=selectivity\): wants a network that keeps its layers; this one grows"
    ):
        run(tmp_path, trial(Grow(RECIPE, "widen", (6,))), network())


def test_it_asks_for_a_source():
    with pytest.raises(UserError, match=r"measure \(=selectivity\): asks for a source"):
        Trial(TARGET, Scratch(RECIPE), BACKBONE, 1, None, (Selectivity(),))
