"""The linear probe: its penalty is chosen on validation images only."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from transferlab.backbones import AlexNet
from transferlab.data.images import target_sample
from transferlab.errors import UserError
from transferlab.measure.metrics import accuracy
from transferlab.methods import probe
from transferlab.methods.solvers import logistic, ridge, squared_hinge
from transferlab.nets.build import build
from transferlab.specs import Probe, Recipe, Source, Subset, Target, Trial
from transferlab.train.predict import features

STRENGTHS = (1e-4, 1e-2, 1.0, 100.0)
SMALL = AlexNet((8, 8, 8, 8, 8), (24, 16))
CPU = torch.device("cpu")


def trial(split: str = "test", tap: str = "fc7", strengths: tuple[float, ...] = STRENGTHS, solver: str | None = None) -> Trial:
    source = Source("synthetic:source", 24, Recipe(steps=1, batch=1, lr=0.1))
    target = Target("synthetic:0", 24, Subset(classes=4, per_class=6))
    return Trial(target, Probe(tap, strengths, solver), SMALL, 0, source, split)


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


@pytest.mark.parametrize(("solver", "solve"), [(None, ridge), ("logistic", logistic), ("squared-hinge", squared_hinge)])
def test_the_penalty_is_chosen_on_validation_images(solver, solve):
    net = build(SMALL, 24, 5, 0)
    part = {split: target_sample(trial().target, split, 0) for split in ("train", "validation", "test")}
    x = {split: features(net, sample, ["fc7"])["fc7"] for split, sample in part.items()}
    weights, biases = solve(x["train"], part["train"].labels, 4, STRENGTHS)
    x = {split: value.to(weights.dtype) for split, value in x.items()}
    right = {s: [accuracy(x[s] @ w + b, part[s].labels)["accuracy"] for w, b in zip(weights, biases, strict=True)] for s in x}
    best = int(np.argmax(right["validation"]))
    expected = accuracy(x["test"] @ weights[best] + biases[best], part["test"].labels) | {"strength": STRENGTHS[best]}
    assert run(trial(solver=solver)) == expected
    assert run(trial("validation", solver=solver))["accuracy"] == max(right["validation"])


def test_solvers_have_keys_of_their_own_and_ridge_the_one_it_had():
    assert trial(solver="ridge") == trial()
    assert trial(solver="ridge").key == trial().key
    assert "solver" not in trial().method.to_dict()
    assert len({trial(solver=solver).key for solver in (None, "logistic", "squared-hinge")}) == 3
    with pytest.raises(UserError, match=r"solver \(=logistics\): must be one of ridge, logistic, squared-hinge; did you mean logistic\?"):
        trial(solver="logistics")


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


def test_a_network_is_loaded_by_who_needs_it():
    assert probe.run(trial(), lambda: build(SMALL, 24, 5, 0), CPU) == run(trial())
