"""The linear probe: ridge regression as others compute it, and a penalty that is chosen on validation images only."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from transferlab.backbones import AlexNet
from transferlab.data.images import target_sample
from transferlab.errors import UserError
from transferlab.measure.metrics import accuracy
from transferlab.methods import probe
from transferlab.methods.probe import ridge
from transferlab.nets.build import build
from transferlab.specs import Probe, Recipe, Source, Subset, Target, Trial
from transferlab.train.predict import features

STRENGTHS = (1e-4, 1e-2, 1.0, 100.0)
SMALL = AlexNet((8, 8, 8, 8, 8), (24, 16))
CPU = torch.device("cpu")


def problem(count: int, width: int, classes: int = 3, offset: float = 5.0) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % classes
    x = torch.randn(count, width, generator=random) * torch.linspace(0.1, 3, width) + offset
    return x + labels[:, None] * torch.randn(width, generator=random), labels


@pytest.mark.parametrize(("count", "width"), [(60, 8), (20, 40), (6, 1)], ids=["tall", "wide", "one feature"])
@pytest.mark.parametrize("strength", STRENGTHS)
def test_ridge_against_scikit_learn(count, width, strength):
    x, labels = problem(count, width)
    weights, biases = ridge(x, labels, 3, (strength,))
    spread = np.linalg.eigvalsh(np.cov(x.double().numpy().T, bias=True).reshape(width, width)).mean()
    theirs = Ridge(alpha=strength * spread * count).fit(x.double().numpy(), np.eye(3)[labels.numpy()])
    assert weights.shape == (1, width, 3)
    assert np.allclose(weights[0].T.numpy(), theirs.coef_, rtol=1e-6, atol=1e-9)
    assert np.allclose(biases[0].numpy(), theirs.intercept_, rtol=1e-6, atol=1e-9)


def test_all_penalties_at_once():
    x, labels = problem(30, 7)
    weights, biases = ridge(x, labels, 3, STRENGTHS)
    assert (weights.shape, biases.shape, weights.dtype) == ((4, 7, 3), (4, 3), torch.float64)
    for i, strength in enumerate(STRENGTHS):
        w, b = ridge(x, labels, 3, (strength,))
        assert torch.allclose(weights[i], w[0])
        assert torch.allclose(biases[i], b[0])
    norms = weights.flatten(1).norm(dim=1).tolist()
    assert norms == sorted(norms, reverse=True)


def test_penalties_are_relative_to_the_size_of_the_features():
    x, labels = problem(30, 7)
    (weights, biases), (smaller, same) = ridge(x, labels, 3, (0.1,)), ridge(1024 * x, labels, 3, (0.1,))
    assert torch.allclose(weights, 1024 * smaller)
    assert torch.allclose(biases, same)


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_features_that_say_nothing(value):
    """All features are constant: every class gets its share."""
    weights, biases = ridge(torch.full((9, 4), value), torch.tensor([0] * 6 + [1] * 3), 3, STRENGTHS)
    assert (weights == 0).all()
    assert torch.allclose(biases, torch.tensor([2 / 3, 1 / 3, 0]).double().expand(4, 3))


def test_a_single_image():
    weights, biases = ridge(torch.ones(1, 2), torch.tensor([1]), 2, (1.0,))
    assert weights.isfinite().all()
    assert biases.tolist() == [[0, 1]]


def test_a_class_without_images_is_never_the_answer():
    x, labels = problem(20, 4, classes=2)
    weights, biases = ridge(x, labels, 3, STRENGTHS)
    assert ((x.double() @ weights + biases[:, None]).argmax(2) < 2).all()


# ------------------------------------------------------------------------------------------------------ the method


def trial(split: str = "test", tap: str = "fc7", strengths: tuple[float, ...] = STRENGTHS) -> Trial:
    source = Source("synthetic:source", 24, Recipe(steps=1, batch=1, lr=0.1))
    target = Target("synthetic:0", 24, Subset(classes=4, per_class=6))
    return Trial(target, Probe(tap, strengths), SMALL, 0, source, split)


def run(asked: Trial) -> dict[str, float]:
    return probe.run(asked, build(SMALL, 24, 5, 0), CPU)


@pytest.fixture
def altered(monkeypatch):
    """A function that makes another sample of one split, for the probe alone."""

    def alter(split: str, change) -> None:
        def altered_sample(target, asked, seed):
            sample = target_sample(target, asked, seed)
            return change(sample) if asked == split else sample

        monkeypatch.setattr(probe, "target_sample", altered_sample)

    return alter


def shuffled(sample):
    order = torch.randperm(len(sample.labels), generator=torch.Generator().manual_seed(1))
    return replace(sample, labels=sample.labels[order])


def test_the_penalty_is_chosen_on_validation_images():
    asked = trial()
    net = build(SMALL, 24, 5, 0)
    part = {split: target_sample(asked.target, split, 0) for split in ("train", "validation", "test")}
    x = {split: features(net, sample, ["fc7"])["fc7"].double() for split, sample in part.items()}
    weights, biases = ridge(x["train"], part["train"].labels, 4, STRENGTHS)
    right = {s: [accuracy(x[s] @ w + b, part[s].labels)["accuracy"] for w, b in zip(weights, biases, strict=True)] for s in x}
    best = int(np.argmax(right["validation"]))
    assert run(asked) == accuracy(x["test"] @ weights[best] + biases[best], part["test"].labels) | {"strength": STRENGTHS[best]}
    assert run(trial("validation"))["accuracy"] == max(right["validation"])


def test_test_images_do_not_choose(altered):
    before = run(trial())
    altered("test", shuffled)
    after = run(trial())
    assert after["strength"] == before["strength"]
    assert after["accuracy"] < before["accuracy"]


def test_validation_images_do_choose(altered):
    chosen = {run(trial())["strength"]}
    altered("validation", shuffled)
    chosen.add(run(trial())["strength"])
    assert len(chosen) == 2


def test_equal_penalties_go_to_the_first():
    assert run(trial(strengths=(1e-9, 1e-9)))["strength"] == 1e-9
    assert run(trial(strengths=(0.5, 0.5000001)))["strength"] == 0.5


def test_the_network_stays_as_it_is():
    net = build(SMALL, 24, 5, 0).train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    first = probe.run(trial(), net, CPU)
    assert all(torch.equal(net.state_dict()[k], v) for k, v in before.items())
    assert probe.run(trial(), net, CPU) == first


def test_unknown_layer():
    with pytest.raises(UserError, match=r"layer \(=layer4\): must be one of conv1_pre"):
        run(trial(tap="layer4"))
