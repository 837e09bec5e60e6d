"""Networks that are held near what they were, and what is seen of networks after they have learned."""

from dataclasses import replace

import pytest
import torch
from small_world import small_world  # noqa: F401  (a fixture for the whole module)

from transferlab import methods
from transferlab.backbones import AlexNet, Torchvision
from transferlab.data.augment import normalise
from transferlab.data.images import target_sample
from transferlab.errors import UserError
from transferlab.measure.representation import nearest_neighbours
from transferlab.nets.build import build, head_of
from transferlab.specs import FineTune, Grow, Recipe, Source, Subset, Target, Trial, Weights
from transferlab.train import fit
from transferlab.train.feed import Batch
from transferlab.train.predict import features, predict

CPU = torch.device("cpu")
RECIPE = Recipe(steps=20, batch=16, lr=0.01, augment="none", weight_decay=0.0)
BACKBONE = AlexNet((8, 12, 16, 16, 12), (32, 24))
SOURCE = Source("synthetic:source", 24, Recipe(steps=4, batch=8, lr=0.01))
TARGET = Target("synthetic:0.5", 24, Subset(classes=6, per_class=5))


def trial(method) -> Trial:
    return Trial(TARGET, method, BACKBONE, 1, SOURCE)


def network():
    classes = target_sample(Target("synthetic:source", 24), "test", 1).classes
    return build(BACKBONE, 24, classes, seed=3)


def tuned(**given) -> FineTune:
    return FineTune(**({"recipe": RECIPE, "head_lr": 3.0} | given))


def after(method) -> tuple[torch.nn.Module, dict]:
    """The network that a trial leaves, and what was measured."""
    kept = []
    with pytest.MonkeyPatch.context() as patch:
        really = methods.measure
        patch.setattr(methods, "measure", lambda net, *rest: (kept.append(net), really(net, *rest))[1])
        found = methods.run(trial(method), network(), CPU)
    return kept[0], found


def moved(net) -> float:
    start = network().state_dict()
    return sum(((p - start[n]) ** 2).sum().item() for n, p in net.named_parameters() if not n.startswith("head")) ** 0.5


def test_the_stronger_the_pull_the_nearer_the_weights_stay():
    far = [moved(after(tuned(**given))[0]) for given in ({}, {"l2_sp": 3.0}, {"l2_sp": 30.0})]
    assert far[0] > 1.2 * far[1] > 2 * far[2] > 0


def test_the_pull_is_half_the_squared_distance():
    net, images = network(), target_sample(TARGET, "train", 1)
    pull = methods.looked_at.NearStart(net, network(), 4.0)
    batch = Batch(normalise(images.pixels[images.rows[:8]]), images.labels[:8])
    before = pull(net, batch, RECIPE) - fit.cross_entropy(net, batch, RECIPE)
    assert before.item() == 0
    with torch.no_grad():
        net.fc6.linear.weight[0, :3] += 0.5
        net.head.weight += 1  # the head is new: nothing pulls it
    assert (pull(net.eval(), batch, RECIPE) - fit.cross_entropy(net, batch, RECIPE)).item() == pytest.approx(4 / 2 * 3 * 0.25, rel=1e-4)


def test_old_answers_are_kept():
    images = target_sample(TARGET, "test", 1)
    old = network()
    then = predict(old, images).log_softmax(1)

    def away(net) -> float:
        read = features(net, images, ["fc7"])["fc7"]
        with torch.inference_mode():
            return torch.nn.functional.kl_div(old.head(read).log_softmax(1), then, reduction="batchmean", log_target=True).item()

    free, held = (after(tuned(**given))[0] for given in ({}, {"lwf": 10.0}))
    assert away(held) < 0.3 * away(free)


@pytest.mark.parametrize(
    "method", [tuned(freeze="fc7"), Grow(RECIPE, "widen", (12,), scope="new"), Grow(RECIPE, "deepen", (12,), scope="new")]
)
def test_what_is_frozen_forgets_nothing(method):
    asked = trial(replace(method, examine=True))
    found = methods.run(asked, network(), CPU)
    own = methods.run(Trial.of_source(SOURCE, BACKBONE, 1), network(), CPU)
    assert found["source_accuracy"] == own["accuracy"]
    assert found["alike"] == pytest.approx(1, abs=1e-5)
    assert ("selective_new" in found) == (getattr(method, "how", "") == "widen")


def test_what_is_examined_is_what_the_head_reads():
    method = Grow(RECIPE, "widen", (12,), norm="none")
    net, found = after(replace(method, examine=True))
    before = network()
    for when, read in (("before", before), ("after", net)):
        known, asked = (target_sample(TARGET, split, 1) for split in ("train", "test"))
        inputs = [features(read, sample, ["fc7"])["fc7"] for sample in (known, asked)]
        assert inputs[0].shape[1] == head_of(read)[2].in_features
        assert found[f"near_{when}"] == pytest.approx(nearest_neighbours(inputs[0], known.labels, inputs[1], asked.labels), abs=1e-5)
    assert found["alike"] < 1
    assert 0.5 <= found["selective_old"] <= 1
    assert methods.run(trial(method), network(), CPU).items() <= found.items(), "examining changes nothing"


def test_networks_without_fc7_are_refused_before_any_training(monkeypatch):
    asked = Trial(replace(TARGET, size=64), FineTune(RECIPE, examine=True), Torchvision("squeezenet1_0"), 1, replace(SOURCE, size=64))
    net = build(asked.backbone, 64, 25, seed=0)
    monkeypatch.setattr(methods, "fit_together", lambda *a, **k: pytest.fail("it was trained"))
    with pytest.raises(UserError, match=r"examine \(=SqueezeNet\): wants a network with an FC7"):
        methods.run(asked, net, CPU)


def test_weights_of_others_are_not_examined():
    for method in (tuned(examine=True), Grow(RECIPE, "widen", (12,), examine=True)):
        with pytest.raises(UserError, match=r"examine \(=True\): asks for the source's own images; take a Source"):
            Trial(TARGET, method, Torchvision("alexnet"), 1, Weights("torchvision:IMAGENET1K_V1"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"l2_sp": 0.0}, r"l2_sp \(=0.0\): must be above 0"),
        ({"lwf": -1.0}, r"lwf \(=-1.0\): must be above 0"),
        ({"lwf": 1.0, "l2_sp": 1.0}, r"lwf \(=1.0\): goes without l2_sp"),
        ({"lwf": 1.0, "freeze": "fc6"}, r"lwf \(=1.0\): keeps answers of a network all layers of which learn"),
        ({"examine": False}, r"examine \(=False\): must be True or left out"),
    ],
)
def test_bad_settings(given, message):
    with pytest.raises(UserError, match=message):
        tuned(**given)
