"""Schedules and parameter groups."""

import copy
import math

import pytest
import torch
from test_fit import run_of
from torch import nn

from transferlab.specs.recipe import Recipe
from transferlab.train.optim import factor, parameter_groups
from transferlab.train.trainers import SingleTrainer


def recipe(**changes) -> Recipe:
    return Recipe(**({"steps": 100, "batch": 1, "lr": 0.1, "warmup": 0.2, "weight_decay": 0.01} | changes))


def curve(r: Recipe) -> list[float]:
    return [factor(r, step) for step in range(r.steps)]


# ------------------------------------------------------------------------------------------------------- schedules


def test_cosine_schedule():
    got = curve(recipe())
    assert got[0] == pytest.approx(0.05)  # a twentieth of the warm-up
    assert got[9] == pytest.approx(0.5)
    assert got[19] == 1  # the warm-up's last step
    assert got[20] == pytest.approx(0.5 * (1 + math.cos(math.pi / 80)))
    assert got[59] == pytest.approx(0.5)  # half-way down
    assert got[99] == pytest.approx(0)
    assert got[:20] == sorted(got[:20])
    assert got[19:] == sorted(got[19:], reverse=True)


def test_cosine_without_warmup():
    got = curve(recipe(warmup=0.0))
    assert got[0] == pytest.approx(0.5 * (1 + math.cos(math.pi / 100)))
    assert got == sorted(got, reverse=True)


def test_step_schedule():
    got = curve(recipe(schedule="step", milestones=(0.5, 0.75)))
    assert got[:20] == pytest.approx([(i + 1) / 20 for i in range(20)])
    assert got[20:50] == [1] * 30
    assert got[50:75] == pytest.approx([0.1] * 25)
    assert got[75:] == pytest.approx([0.01] * 25)


def test_a_single_step():
    assert 0 <= factor(recipe(steps=1), 0) <= 1
    assert factor(recipe(steps=1, warmup=0.0, schedule="step", milestones=(0.5,)), 0) == pytest.approx(0.1)


@pytest.mark.parametrize("steps", [1, 2, 7, 200])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.99])
def test_rates_stay_between_zero_and_the_peak(steps, warmup):
    assert all(0 <= f <= 1 for f in curve(recipe(steps=steps, warmup=warmup)))


def test_the_shape_does_not_depend_on_the_number_of_steps():
    assert curve(recipe(steps=200))[1::2] == pytest.approx(curve(recipe(steps=100)))


# ---------------------------------------------------------------------------------------------------------- groups


class Net(nn.Module):
    """A body and a head, with every kind of parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)


def groups(
    net: Net, multiples: dict[nn.Module, float] | None = None, **changes
) -> dict[tuple[float, float], list[str]]:
    """Names of parameters by peak rate and decay."""
    names = {id(p): name for name, p in net.named_parameters()}
    found = parameter_groups(net, recipe(**changes), multiples or {})
    return {(g["peak"], g["weight_decay"]): [names[id(p)] for p in g["params"]] for g in found}


def test_only_matrices_decay():
    assert groups(Net()) == {
        (0.1, 0.01): ["conv.weight", "head.weight"],
        (0.1, 0.0): ["conv.bias", "norm.weight", "norm.bias", "head.bias"],
    }


def test_a_head_has_its_own_rate():
    net = Net()
    assert groups(net, {net.head: 5.0}) == {
        (0.1, 0.01): ["conv.weight"],
        (0.1, 0.0): ["conv.bias", "norm.weight", "norm.bias"],
        (0.5, 0.01): ["head.weight"],
        (0.5, 0.0): ["head.bias"],
    }


def test_frozen_parameters_are_in_no_group():
    net = Net()
    for p in net.conv.parameters():
        p.requires_grad_(False)
    assert sorted(n for names in groups(net).values() for n in names) == [
        "head.bias",
        "head.weight",
        "norm.bias",
        "norm.weight",
    ]


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.9, True), (0.0, False)])
def test_a_step_is_one_of_torchs_own_optimiser(momentum, nesterov):
    """To the last bit; a parameter without a gradient stays, and so does its momentum."""
    net = Net()
    run = run_of(net, recipe=recipe(momentum=momentum))
    theirs = copy.deepcopy(net)
    sgd = torch.optim.SGD(theirs.parameters(), lr=0.1, weight_decay=0.01, momentum=momentum, nesterov=nesterov)
    sgd.param_groups[0]["params"] = [p for p in theirs.parameters() if p.ndim > 1]
    sgd.add_param_group({"params": [p for p in theirs.parameters() if p.ndim == 1], "weight_decay": 0.0})
    trainer, draw = SingleTrainer(run), torch.Generator().manual_seed(0)
    for step in (4, 9, 30):
        gradients = [torch.randn(p.shape, generator=draw) for p in theirs.parameters()]
        if step == 9:
            gradients[0] = None
        for net_of in (net, theirs):
            for p, g in zip(net_of.parameters(), gradients, strict=True):
                p.grad = g
        for group in sgd.param_groups:
            group["lr"] = 0.1 * factor(run.recipe, step)
        sgd.step()
        trainer.backward = lambda *_: ([torch.zeros(())], None)  # the gradients are those from above
        trainer.step(None, step)
        assert all(map(torch.equal, net.parameters(), theirs.parameters()))


def test_what_is_restored_lies_where_the_parameters_do():
    """Checkpoints are read on the CPU; here the device is one without numbers."""
    trainer = SingleTrainer(run_of(Net().to("meta")))
    trainer.restore(trainer.state() | {"velocity": [torch.zeros(p.shape) for p in trainer.velocity]})
    assert {v.device.type for v in trainer.velocity.values()} == {"meta"}
