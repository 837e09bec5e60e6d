"""What a network has forgotten of the source, and what it knows of the target."""

from dataclasses import replace

import pytest
import torch
from small_world import run, small_world, trainings  # noqa: F401  (a fixture for the whole module)

from transferlab.data.images import target_sample
from transferlab.errors import UserError
from transferlab.lab import Lab
from transferlab.measure import Forgetting
from transferlab.measure.representation import knn_accuracy
from transferlab.methods import FineTune, Grow, Scratch, SourceTask
from transferlab.nets.build import build, head_of
from transferlab.run import work
from transferlab.specs import AlexNet, Recipe, Source, Subset, Target, Torchvision, Trial, Weights
from transferlab.train.read import read

RECIPE = Recipe(steps=20, batch=16, lr=0.01, augment="none", weight_decay=0.0)
BACKBONE = AlexNet((8, 12, 16, 16, 12), (32, 24))
SOURCE = Source("synthetic:source", 24, Recipe(steps=4, batch=8, lr=0.01))
TARGET = Target("synthetic:0.5", 24, Subset(classes=6, per_class=5))


def trial(method, **given) -> Trial:
    return Trial(TARGET, method, BACKBONE, 1, SOURCE, **given)


def looked_at(method) -> Trial:
    return trial(method, measures=(Forgetting(),))


def network():
    classes = target_sample(Target("synthetic:source", 24), "test", 1).classes
    return build(BACKBONE, 24, classes, seed=3)


@pytest.mark.parametrize(
    "method",
    [
        FineTune(RECIPE, freeze="fc7"),
        Grow(RECIPE, "widen", (12,), scope="new"),
        Grow(RECIPE, "deepen", (12,), scope="new"),
    ],
)
def test_what_is_frozen_forgets_nothing(method, tmp_path):
    found = run(tmp_path, looked_at(method), network())
    own = run(tmp_path, Trial.of_source(SOURCE, SourceTask(), BACKBONE, 1))
    assert found["source_accuracy"] == own["accuracy"]
    assert found["cka_old_units"] == pytest.approx(1, abs=1e-5)
    assert ("selectivity_new" in found) == (getattr(method, "how", "") == "widen")


def test_what_is_measured_is_what_the_head_reads(tmp_path):
    method = Grow(RECIPE, "widen", (12,), norm="none")
    with trainings() as seen:
        found = run(tmp_path, looked_at(method), network())
    for when, net in (("before", network()), ("after", seen[0].run.trained)):
        known, asked = (target_sample(TARGET, split, 1) for split in ("train", "test"))
        inputs = [read(net, sample, ["fc7"])["fc7"] for sample in (known, asked)]
        assert inputs[0].shape[1] == head_of(net)[2].in_features
        by_hand = knn_accuracy(inputs[0], known.labels, inputs[1], asked.labels)
        assert found[f"knn_accuracy_{when}"] == pytest.approx(by_hand, abs=1e-5)
    assert found["cka_old_units"] < 1
    assert 0.5 <= found["selectivity_old"] <= 1
    assert set(Forgetting.columns) < found.keys()
    assert run(tmp_path / "plain", trial(method), network()).items() <= found.items(), "looking changes nothing"


@pytest.mark.parametrize("frozen", [None, "fc6"])
def test_in_a_pack_the_same_is_seen(frozen, tmp_path):
    """Of each trial its own network, before and after."""
    asked = [replace(looked_at(FineTune(replace(RECIPE, lr=1e-3), freeze=frozen)), seed=seed) for seed in range(2)]
    found = []
    for root, pack in ((tmp_path / "packed", 2), (tmp_path / "alone", 1)):
        all_found = run_all(root, asked, pack)
        found.append([[one[name] for name in Forgetting.columns] for one in all_found])
    for packed, alone in zip(*found, strict=True):
        assert packed == pytest.approx(alone, abs=0.02)
    assert found[0][0] != found[0][1]


def run_all(root, asked, pack: int) -> list[dict]:
    """All at once: the last call reads what the first one has made."""
    Lab(root, workers=1, device="cpu", quiet=True, pack=pack).run(asked)
    return [run(root, one) for one in asked]


def test_networks_without_fc7_are_refused_before_any_training(tmp_path, monkeypatch):
    net, target, source = Torchvision("squeezenet1_0"), replace(TARGET, size=64), replace(SOURCE, size=64)
    monkeypatch.setattr(work, "fit_together", lambda *a, **k: pytest.fail("it was trained"))
    with pytest.raises(UserError, match=r"measure \(=forgetting\): wants a network with an FC7"):
        run(tmp_path, Trial(target, FineTune(RECIPE), net, 1, source, (Forgetting(),)), build(net, 64, 25, seed=0))


def test_what_has_no_source_of_its_own_is_refused():
    rule = r"measure \(=forgetting\): asks for the source's own images; take a Source, no weights and no chain"
    for method in (FineTune(RECIPE), Grow(RECIPE, "widen", (12,))):
        weights = Weights("torchvision:IMAGENET1K_V1")
        with pytest.raises(UserError, match=rule):
            Trial(TARGET, method, Torchvision("alexnet"), 1, weights, (Forgetting(),))
        with pytest.raises(UserError, match=rule):
            Trial(TARGET, method, BACKBONE, 1, trial(FineTune(RECIPE)), (Forgetting(),))
    with pytest.raises(UserError, match=rule):
        Trial(TARGET, Scratch(RECIPE), BACKBONE, 1, None, (Forgetting(),))


def test_the_heads_old_weights_are_asked_of_held_out_images(tmp_path):
    """By hand: source accuracy of a fine-tuned network under the head that it had."""
    with trainings() as seen:
        found = run(tmp_path, looked_at(FineTune(RECIPE)), network())
    own = target_sample(Target("synthetic:source", 24), "test", 1)
    read_now = read(seen[0].run.trained, own, ["fc7"])["fc7"]
    with torch.inference_mode():
        right = network().head(read_now).argmax(1) == own.labels
    assert found["source_accuracy"] == pytest.approx(right.double().mean().item(), abs=1e-5)
