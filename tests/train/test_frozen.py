"""Frozen layers are computed once: the same training, and the same network in the end."""

import copy
from dataclasses import replace

import pytest
import torch
import torchvision
from test_fit import RECIPE, SIZE, SMALL, run_of
from test_trainers import pictures
from torch import nn

from transferlab.data.images import Sample
from transferlab.nets.build import build, head_name, name_head
from transferlab.nets.grow import deepen, new_modules, train_only, widen, widen_twice
from transferlab.nets.taps import freeze
from transferlab.train.fit import fit_together
from transferlab.train.frozen import shortened, trained_part
from transferlab.train.read import inputs_of, predict
from transferlab.train.run import Run

PLAIN = replace(RECIPE, steps=20, augment="none")
SURGERY = {
    "widen": lambda net: widen(net, 6),
    "widen_twice": lambda net: widen_twice(net, (3, 6)),
    "deepen": lambda net: deepen(net, 6),
}


def grown(net: nn.Module, sample: Sample | None = None, recipe=PLAIN, **more) -> Run:
    return run_of(net, sample or pictures(), recipe, 7, lr_multipliers=dict.fromkeys(new_modules(net), 10.0), **more)


def losses_of(*runs: Run) -> torch.Tensor:
    return torch.stack([fitted.losses for fitted in fit_together(runs)])


def same(one: nn.Module, two: nn.Module) -> None:
    for (name, a), b in zip(one.state_dict().items(), two.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("how", SURGERY)
@pytest.mark.parametrize("scope", ["new", "fc7-new", "fc6-new"])
def test_the_same_network_comes_out(how, scope):
    net = SURGERY[how](build(SMALL, SIZE, 4, 0))
    train_only(net, scope)
    one, two = grown(net), grown(copy.deepcopy(net))
    short = shortened(two)
    assert short.whole is two.net
    assert short.streams[0].sample.pixels.ndim == 2
    assert sum(1 for _ in short.net.parameters()) < sum(1 for _ in net.parameters())
    torch.testing.assert_close(losses_of(short), losses_of(one), rtol=1e-4, atol=1e-5)
    same(short.trained, one.trained)
    assert torch.equal(predict(short.trained, pictures()).argmax(1), predict(one.trained, pictures()).argmax(1))


def test_several_train_together():
    def team() -> list[Run]:
        nets = [widen(build(SMALL, SIZE, 4, k), 6, seed=k) for k in range(3)]
        for net in nets:
            train_only(net, "fc7-new")
        return [grown(net, recipe=replace(PLAIN, lr=0.001 * (k + 1))) for k, net in enumerate(nets)]

    whole, short = team(), [shortened(t) for t in team()]
    torch.testing.assert_close(losses_of(*short), torch.cat([losses_of(t) for t in whole]), rtol=1e-4, atol=1e-5)
    for a, b in zip(short, whole, strict=True):
        same(a.trained, b.trained)


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_0", "mobilenet_v3_small", "convnext_tiny", "alexnet"])
def test_torchvisions_networks_are_shortened_behind_their_representation(name):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = widen(name_head(torchvision.models.get_model(name, weights=None, num_classes=4)), 6).eval()
    train_only(net, "new")
    sample = replace(pictures(6), pixels=torch.randint(0, 256, (12, 64, 64, 3), dtype=torch.uint8))
    entrance, top = trained_part(net)
    found = top.eval()(inputs_of(net, entrance, sample))
    torch.testing.assert_close(found, predict(net, sample), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("last", ["conv2", "pool5", "fc6", "fc7"])
def test_only_what_is_frozen_is_computed_once(last):
    net = build(SMALL, SIZE, 4, 0)
    freeze(net, last)
    part = trained_part(net)
    if last == "conv2":
        assert part is None
    else:
        first = {"pool5": "fc6", "fc6": "fc7", "fc7": "head"}[last]
        assert next(part[1].named_children())[0] == first
        assert {n for n, p in net.named_parameters() if p.requires_grad} == {n for n, _ in part[1].named_parameters()}


def test_what_is_augmented_or_not_frozen_is_trained_as_it_is():
    net = build(SMALL, SIZE, 4, 0)
    free = grown(net)
    assert shortened(free) is free
    freeze(net, "pool5")
    augmented = grown(net, recipe=replace(PLAIN, augment="crop-flip"))
    assert shortened(augmented) is augmented
    assert head_name(shortened(grown(net)).net) == "head"
