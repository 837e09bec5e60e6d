"""The loss on a line between two networks: none to itself, by hand in the middle, and one between twins."""

import copy
from dataclasses import dataclass, replace

import pytest
import torch
from small_world import give, run, small_world, trainings  # noqa: F401  (a fixture for the whole module)
from torch import nn
from torch.nn import functional as F

from transferlab.data.augment import normalise
from transferlab.data.images import target_sample
from transferlab.errors import UserError
from transferlab.measure import Barrier
from transferlab.measure.barrier import on_the_line
from transferlab.methods import FineTune
from transferlab.nets.build import build
from transferlab.specs import AlexNet, Method, Recipe, Source, Subset, Target, Trial
from transferlab.train.fit import fit
from transferlab.train.run import Run, Stream

RECIPE = Recipe(steps=6, batch=8, lr=0.02, augment="none")
BACKBONE = AlexNet((8, 8, 8, 8, 8), (24, 16))
SOURCE = Source("synthetic:source", 24, RECIPE, Subset(classes=6))
TARGET = Target("synthetic:0.5", 24, Subset(classes=5, per_class=4))


@dataclass(frozen=True)
class Further(Method, kind="own-further", version=1):
    """Go on with the network of the trial before, head and all."""

    recipe: Recipe

    def prepare(self, trial, context):
        sample = context.sample(trial.target, "train", trial.seed)
        return Run(context.network(trial), (Stream(sample, 0),), self.recipe, 0)


HEAD = Trial(TARGET, FineTune(replace(RECIPE, lr=0.1), freeze="representation"), BACKBONE, 1, SOURCE)
CHAIN = replace(HEAD, method=Further(RECIPE), source=HEAD, measures=(Barrier(3),))


def samples():
    return [target_sample(TARGET, split, 1) for split in ("train", "test")]


def trained(seed: int = 3, norm: str | None = None) -> nn.Module:
    net = build(AlexNet((8, 8, 8, 8, 8), (24, 16), norm), 24, 5, seed)
    fit(Run(net, (Stream(samples()[0], 0),), replace(RECIPE, steps=20, lr=0.05), 0))
    return net


def mixture(one: nn.Module, other: nn.Module) -> dict[str, float]:
    """Half of each, its statistics those of all training images in one batch, measured by hand."""
    net, (train, test) = copy.deepcopy(one), samples()
    with torch.no_grad():
        for p, q in zip(net.parameters(), other.parameters(), strict=True):
            p.copy_((p + q) / 2)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
        net.train()(normalise(train.pixels[train.rows]))
        logits = net.eval()(normalise(test.pixels[test.rows]))
    right = (logits.argmax(1) == test.labels).double().mean()
    return {"loss": F.cross_entropy(logits.double(), test.labels).item(), "accuracy": right.item()}


@pytest.mark.parametrize("norm", [None, "none"])
def test_there_is_none_between_a_network_and_itself(norm):
    net = trained(norm=norm)
    before = copy.deepcopy(net.state_dict())
    found = on_the_line(net, net, *samples(), 5, seed=0)
    assert found["barrier"] == found["barrier_accuracy"] == 0
    assert len(set(found["path_losses"])) == 1
    assert found["path_at"] == [0, 0.25, 0.5, 0.75, 1]
    assert all(torch.equal(v, before[name]) for name, v in net.state_dict().items()), "it was changed"


def test_the_middle_by_hand():
    one, other = trained(3), trained(4)
    found = on_the_line(one, other, *samples(), 3, seed=0)
    wanted = [mixture(one, one), mixture(one, other), mixture(other, other)]
    assert found["path_losses"] == pytest.approx([each["loss"] for each in wanted], abs=1e-4)
    assert found["path_accuracies"] == pytest.approx([each["accuracy"] for each in wanted], abs=1e-4)
    first, middle, last = wanted
    assert found["barrier"] == pytest.approx(max(0, middle["loss"] - (first["loss"] + last["loss"]) / 2), abs=1e-4)


def test_twins_are_apart():
    """The same function with its units in another order: ends are equal, and what lies between is worse."""
    one = trained()
    other, order = copy.deepcopy(one), torch.arange(16).roll(5)
    linear, head = other.fc7.linear, other.head
    linear.weight.data, linear.bias.data = linear.weight[order].data, linear.bias[order].data
    head.weight.data = head.weight[:, order].data
    known = samples()[0]
    found = on_the_line(one, other, known, known, 5, seed=0)
    assert found["path_losses"][0] == pytest.approx(found["path_losses"][-1], abs=1e-4)
    assert found["barrier"] > 0.01
    assert found["barrier"] == pytest.approx(max(found["path_losses"]) - found["path_losses"][0], abs=1e-4)


def test_a_chain_is_measured_from_where_its_last_trial_began(tmp_path):
    net = build(BACKBONE, 24, 6, seed=3)
    with trainings() as seen:
        found = run_chain(tmp_path, net)
    first, last = (each.run.trained for each in seen)
    assert found["path_losses"] == pytest.approx(
        [mixture(a, b)["loss"] for a, b in ((first, first), (first, last), (last, last))], abs=1e-4
    )
    assert found["barrier"] >= 0


def run_chain(root, net, asked=CHAIN):
    give(root, HEAD.start, net)
    return run(root, asked)


def test_another_head_is_refused_before_it_is_trained(tmp_path):
    asked = replace(CHAIN, method=FineTune(RECIPE))
    rule = r"measure \(=barrier\): wants a training that goes on with the head of the trial before"
    with trainings() as seen, pytest.raises(UserError, match=rule):
        run_chain(tmp_path, build(BACKBONE, 24, 6, seed=3), asked)
    assert [each.job.trial for each in seen] == [None], "the trial before alone was trained"


def test_it_asks_for_a_chain_and_two_points():
    rule = r"measure \(=barrier\): asks for a chain: the line begins at the network of the trial before"
    with pytest.raises(UserError, match=rule):
        replace(HEAD, measures=(Barrier(),))
    with pytest.raises(UserError, match=r"points \(=1\): must be 2 or more, the ends included"):
        Barrier(1)
