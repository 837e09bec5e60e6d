"""Similarity to before, after and along training: against the definition on maps that are read by hand."""

import io
from dataclasses import replace

import pytest
import torch
from small_world import context, give, run, small_world, trainings  # noqa: F401  (a fixture for the whole module)

from transferlab.data.images import target_sample
from transferlab.errors import UserError
from transferlab.lab import Lab
from transferlab.measure import Similarity
from transferlab.measure.along import Watcher
from transferlab.measure.representation import debiased_cka, gram
from transferlab.methods import FineTune, Grow, Scratch
from transferlab.nets.build import build
from transferlab.run import work
from transferlab.seeds import stream
from transferlab.specs import AlexNet, Pretrained, Recipe, Source, Subset, Target, Trial
from transferlab.train.fit import fit_together
from transferlab.train.read import read

RECIPE = Recipe(steps=8, batch=8, lr=0.02, augment="none")
BACKBONE = AlexNet((8, 8, 8, 8, 8), (24, 16))
SOURCE = Source("synthetic:source", 24, RECIPE, Subset(classes=6))
TARGET = Target("synthetic:0.5", 24, Subset(classes=5, per_class=4))
LAYERS = ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7"]
LOOKS = Similarity(batch=5, shares=(0.0, 0.5))


def trial(method=None, measure=LOOKS, **given) -> Trial:
    return replace(Trial(TARGET, method or FineTune(RECIPE), BACKBONE, 1, SOURCE, (measure,)), **given)


def network():
    return build(BACKBONE, 24, 6, seed=3)


def by_hand(after, batch: int = 5) -> list[float]:
    sample = target_sample(TARGET, "test", 1)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(stream(1, "similarity")))
    one, other = (read(net, sample, LAYERS, None) for net in (network(), after))
    pairs = {tap: [(one[tap][some], other[tap][some]) for some in order.split(batch)] for tap in LAYERS}
    return [debiased_cka((gram(a), gram(b)) for a, b in pairs[tap]) for tap in LAYERS]


def test_by_hand_after_and_along_training(tmp_path):
    with trainings() as seen:
        found = run(tmp_path, trial(), network())
    assert found["similar_layers"] == LAYERS
    assert found["cka"] == pytest.approx(by_hand(seen[0].run.trained), abs=2e-4)
    assert found["cka_at"] == [0, 4]
    start, middle = found["cka_along"]
    assert start == pytest.approx([1] * 7, abs=1e-5)
    asked = trial()
    ready = asked.prepare(context(tmp_path))
    (fitted,) = fit_together([replace(ready, snapshots=(4,))])
    ready.net.load_state_dict(fitted.snapshots[4])
    assert middle == pytest.approx(by_hand(ready.net), abs=2e-4)


def test_what_is_frozen_sees_what_it_saw(tmp_path):
    found = run(tmp_path, trial(FineTune(replace(RECIPE, lr=0.3), freeze="fc6")), network())
    for values in (found["cka"], *found["cka_along"]):
        assert values[:6] == pytest.approx([1] * 6, abs=1e-5)
    assert found["cka"][6] < 0.9999


def test_in_a_pack_the_same_is_seen(tmp_path):
    asked = [replace(trial(FineTune(replace(RECIPE, lr=1e-3))), seed=seed) for seed in range(2)]
    found = []
    for root, pack in ((tmp_path / "packed", 2), (tmp_path / "alone", 1)):
        for one in asked:
            give(root, Pretrained(SOURCE, BACKBONE, one.seed), network())
        Lab(root, workers=1, device="cpu", quiet=True, pack=pack).run(asked)
        found.append([run(root, one)["cka_along"][1] for one in asked])
    for packed, alone in zip(*found, strict=True):
        assert packed == pytest.approx(alone, abs=0.01)


def test_a_watcher_leaves_the_network_as_it_was_and_goes_on_from_a_checkpoint():
    def see(net):
        return {"sum": sum(p.sum().item() for p in net.eval().parameters())}

    net = network().train()
    net.conv1.eval()
    watcher = Watcher(10, (0.0, 0.31, 0.3), "at", see)
    assert watcher.steps == [0, 3]
    watcher.bind(net)
    modes = [m.training for m in net.modules()]
    with watcher.look(0):
        assert [m.training for m in net.modules()] == modes
    file = io.BytesIO()
    torch.save(watcher.state(), file)
    file.seek(0)
    kept = torch.load(file, weights_only=True)
    again = Watcher(10, (0.0, 0.3), "at", see)
    again.bind(net)
    again.restore(kept)
    with again.look(3):
        pass
    assert again.found == {"at": [0, 3], "sum": watcher.found["sum"] * 2}


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ({"images": 3}, r"images \(=3\): must be 4 or more"),
        ({"batch": 3}, r"batch \(=3\): must be 4 or more"),
        (
            {"shares": (1.0,)},
            r"similarity shares \(=\(1.0,\)\): must be shares of the training, at least 0 and below 1",
        ),
        ({"shares": ()}, r"similarity shares \(=\(\)\): must be shares of the training"),
    ],
)
def test_bad_settings(given, rule):
    with pytest.raises(UserError, match=rule):
        Similarity(**given)


def test_what_cannot_be_compared_is_refused_before_any_training(tmp_path, monkeypatch):
    monkeypatch.setattr(work, "fit_together", lambda *a, **k: pytest.fail("it was trained"))
    with pytest.raises(
        UserError, match=r"measure \(=similarity\): wants a network that keeps its layers; this one grows"
    ):
        run(tmp_path, trial(Grow(RECIPE, "widen", (6,))), network())
    with pytest.raises(UserError, match=r"measure \(=similarity\): asks for a source"):
        Trial(TARGET, Scratch(RECIPE), BACKBONE, 1, None, (LOOKS,))
