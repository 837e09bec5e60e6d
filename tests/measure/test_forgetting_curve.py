"""The source task along training on the target: by hand, and against what other pieces say of its ends."""

from dataclasses import replace

import pytest
import torch
from sklearn.linear_model import Ridge
from small_world import context, give, run, small_world, trainings  # noqa: F401  (a fixture for the whole module)

from transferlab.data.images import source_sample, target_sample
from transferlab.errors import UserError
from transferlab.measure import ForgettingCurve
from transferlab.measure.forgetting_curve import PROBE_PENALTY
from transferlab.methods import FineTune, Grow, SourceTask
from transferlab.nets.build import build
from transferlab.run import work
from transferlab.specs import AlexNet, Recipe, ResNet, Source, Subset, Target, Trial, Weights
from transferlab.train.fit import fit_together
from transferlab.train.read import read

RECIPE = Recipe(steps=8, batch=8, lr=0.05, augment="none")
BACKBONE = AlexNet((8, 8, 8, 8, 8), (24, 16))
SOURCE = Source("synthetic:source", 24, RECIPE, Subset(classes=6))
TARGET = Target("synthetic:0.5", 24, Subset(classes=5, per_class=4))
CURVE = ForgettingCurve(shares=(0.0, 0.5))


def trial(method=None, measure=CURVE, **given) -> Trial:
    return replace(Trial(TARGET, method or FineTune(RECIPE), BACKBONE, 1, SOURCE, (measure,)), **given)


def network():
    return build(BACKBONE, 24, 6, seed=3)


def by_hand(net) -> tuple[float, float]:
    """Share of held-out source images that the old head, and scikit-learn's ridge regression, get right."""
    known, asked = source_sample(SOURCE, 1), target_sample(Target(SOURCE.images, 24, SOURCE.subset), "test", 1)
    near, far = (read(net, sample, ["fc7"])["fc7"] for sample in (known, asked))
    variance = near.double().var(0, correction=0).mean().item()
    peer = Ridge(PROBE_PENALTY * variance * len(near)).fit(near.double(), torch.nn.functional.one_hot(known.labels))
    with torch.no_grad():
        old = network().head(far)
    found = old.argmax(1), torch.from_numpy(peer.predict(far.double())).argmax(1)
    return tuple((answers == asked.labels).double().mean().item() for answers in found)


def test_by_hand_at_the_start_in_the_middle_and_at_the_end(tmp_path):
    with trainings() as seen:
        found = run(tmp_path, trial(), network())
    ready = trial().prepare(context(tmp_path))
    (fitted,) = fit_together([replace(ready, snapshots=(4,))])
    ready.net.load_state_dict(fitted.snapshots[4])
    heads, probes = zip(*map(by_hand, (network(), ready.net, seen[0].run.trained)), strict=True)
    assert found["forgotten_at"] == [0, 4]
    assert [*found["source_head_accuracies"], found["source_head_accuracy"]] == pytest.approx(heads, abs=1e-5)
    assert [*found["source_probe_accuracies"], found["source_probe_accuracy"]] == pytest.approx(probes, abs=1e-5)
    own = run(tmp_path, Trial.of_source(SOURCE, SourceTask(), BACKBONE, 1))
    assert found["source_head_accuracies"][0] == own["accuracy"]


@pytest.mark.parametrize("method", [FineTune(RECIPE, freeze="fc7"), Grow(RECIPE, "widen", (6,), scope="new")])
def test_what_is_frozen_forgets_nothing(method, tmp_path):
    found = run(tmp_path, trial(method), network())
    for name in ("head", "probe"):
        assert {*found[f"source_{name}_accuracies"]} == {found[f"source_{name}_accuracy"]}


def test_some_images_are_asked(tmp_path):
    give(tmp_path, trial().start, network())
    found = ForgettingCurve(images=7).question(trial(), context(tmp_path))(network())
    assert all(value * 7 == pytest.approx(round(value * 7), abs=1e-3) for value in found.values())


def test_networks_without_fc7_are_refused_before_any_training(tmp_path, monkeypatch):
    monkeypatch.setattr(work, "fit_together", lambda *a, **k: pytest.fail("it was trained"))
    with pytest.raises(UserError, match=r"measure \(=forgetting-curve\): wants a network with an FC7"):
        run(tmp_path, trial(backbone=ResNet(18)), build(ResNet(18), 24, 6, seed=0))


def test_bad_settings_are_refused():
    rule = r"measure \(=forgetting-curve\): asks for the source's own images; take a Source, no weights and no chain"
    with pytest.raises(UserError, match=rule):
        trial(backbone=ResNet(18), source=Weights("torchvision:IMAGENET1K_V1"))
    with pytest.raises(UserError, match=rule):
        trial(source=trial(measures=()))
    with pytest.raises(UserError, match=r"images \(=0\): must be a whole number above 0"):
        ForgettingCurve(0)
    with pytest.raises(UserError, match=r"forgetting-curve shares \(=\(-0.1,\)\): must be shares of the training"):
        ForgettingCurve(shares=(-0.1,))
