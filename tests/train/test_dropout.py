"""Dropout: PyTorch's own numbers, from a generator of the run's own; and StochNorm, which draws from it too."""

import copy
from dataclasses import replace

import pytest
import torch
from test_fit import RECIPE, SIZE, SMALL, run_of
from test_trainers import alone, capture, killed, pictures, together
from torch import nn
from torchvision.ops import StochasticDepth

from transferlab.nets.build import build
from transferlab.nets.taps import batch_norm
from transferlab.specs.networks import Torchvision
from transferlab.train.checkpoint import Checkpoint
from transferlab.train.dropout import own_dropout
from transferlab.train.run import Run

LAYERS = {
    "plain": (lambda: nn.Dropout(0.3), (4, 5, 6)),
    "in place": (lambda: nn.Dropout(0.5, inplace=True), (4, 8)),
    "all": (lambda: nn.Dropout(1.0), (4, 8)),
    "none": (lambda: nn.Dropout(0.0), (4, 8)),
    "1d": (lambda: nn.Dropout1d(0.3), (4, 5, 6)),
    "2d": (lambda: nn.Dropout2d(0.3), (4, 5, 6, 6)),
    "3d": (lambda: nn.Dropout3d(0.3), (4, 5, 2, 3, 3)),
    "depth by row": (lambda: StochasticDepth(0.4, "row"), (8, 5, 3, 3)),
    "depth by batch": (lambda: StochasticDepth(0.4, "batch"), (8, 5, 3, 3)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", LAYERS)
def test_as_pytorch_draws(kind, dtype):
    make, shape = LAYERS[kind]
    layer, x = make(), torch.randn(shape).to(dtype)
    if len(shape) == 4:
        x = x.to(memory_format=torch.channels_last)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        wanted = [layer(x.clone()) for _ in range(3)]
    state = torch.get_rng_state()
    with own_dropout([layer], [torch.Generator().manual_seed(3)]):
        assert all(torch.equal(layer(x.clone()), one) for one in wanted)
        assert torch.equal(layer.eval()(x), x)
    assert torch.equal(torch.get_rng_state(), state)
    assert "forward" not in vars(layer)


def with_dropout(k: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(k)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, 2),
            nn.ReLU(),
            nn.Dropout2d(0.2),
            StochasticDepth(0.2, "row"),
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(8 * 49, 4),
        )


def with_stochastic_norm(k: int) -> nn.Module:
    net = build(SMALL, SIZE, 4, k)
    batch_norm(net, "stochastic")
    return net


NETWORKS = {
    "every kind": (with_dropout, SIZE, 20),
    "squeezenet": (lambda k: build(Torchvision("squeezenet1_0"), 32, 4, k), 32, 4),
    "stochastic": (with_stochastic_norm, SIZE, 20),
}


def runs(kind: str, count: int = 3) -> list[Run]:
    make, size, steps = NETWORKS[kind]
    sample, times = pictures(), size // SIZE
    sample = replace(sample, pixels=sample.pixels.repeat_interleave(times, 1).repeat_interleave(times, 2))
    recipe = replace(RECIPE, steps=steps, batch=8, lr=0.001)
    return [run_of(make(k), sample, recipe, 10 + k) for k in range(count)]


@pytest.mark.parametrize("kind", NETWORKS)
def test_packed_is_alone(kind):
    for row, run in zip(together(runs(kind)), runs(kind), strict=True):
        within = 1e-5 if kind == "squeezenet" else 1e-6
        torch.testing.assert_close(row, alone(run), rtol=within, atol=within)


each_kind = pytest.mark.parametrize("kind", ["every kind", "stochastic"])


@each_kind
def test_it_does_not_matter_what_else_is_in_the_pack(kind):
    assert torch.equal(together(runs(kind))[1], together(runs(kind)[1:])[0])


@each_kind
def test_captured_is_eager(kind, monkeypatch):
    eager = together(runs(kind))
    capture(monkeypatch)
    torch.testing.assert_close(together(runs(kind)), eager, rtol=1e-6, atol=1e-6)


@each_kind
@pytest.mark.parametrize("count", [1, 3])
def test_killed_and_resumed_is_uninterrupted(kind, count, tmp_path, monkeypatch):
    killed(monkeypatch, 7, tmp_path / "c.pt", lambda kept: together(runs(kind, count), kept))
    again = together(runs(kind, count), Checkpoint(tmp_path / "c.pt", 10**6))
    assert torch.equal(again, together(runs(kind, count)))


# ----------------------------------------------------------------------------------------------------------- StochNorm


def some_norm(shape: tuple[int, ...]) -> nn.Module:
    """BatchNorm with statistics, a gain and a bias of its own."""
    draw, norm = torch.Generator().manual_seed(1), {2: nn.BatchNorm1d, 4: nn.BatchNorm2d}[len(shape)](shape[1])
    for value in (norm.running_mean, norm.weight.data, norm.bias.data):
        value.copy_(torch.randn(shape[1], generator=draw))
    norm.running_var.copy_(torch.rand(shape[1], generator=draw) + 0.5)
    norm.stochastic = True
    return norm


@pytest.mark.parametrize("shape", [(6, 40), (6, 12, 3, 4)])
def test_stochastic_norm_by_hand(shape):
    """Value, gradients, and statistics that move, by the formula of the paper written out."""
    norm, x = some_norm(shape), torch.randn(shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    plain, factors = copy.deepcopy(norm), torch.randn(shape, generator=torch.Generator().manual_seed(2))
    with own_dropout([norm], [torch.Generator().manual_seed(3)]):
        (norm(x) * factors).sum().backward()
    over, along = [0, *range(2, len(shape))], (1, -1, *[1] * (len(shape) - 2))
    s = torch.empty(shape[1]).bernoulli_(0.5, generator=torch.Generator().manual_seed(3)).view(along)
    assert 0.2 < s.mean() < 0.8
    y, w, b = (v.detach().clone().requires_grad_() for v in (x, plain.weight, plain.bias))
    mean, var = y.mean(over, keepdim=True), y.var(over, unbiased=False, keepdim=True)
    moving = (y - plain.running_mean.view(along)) / (plain.running_var.view(along) + 1e-5).sqrt()
    hat = (1 - s) * moving + s * (y - mean) / (var + 1e-5).sqrt()
    ((w.view(along) * hat + b.view(along)) * factors).sum().backward()
    for ours, theirs in ((x, y), (norm.weight, w), (norm.bias, b)):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)
    with own_dropout([norm], [torch.Generator().manual_seed(3)]):
        norm.load_state_dict(plain.state_dict())
        torch.testing.assert_close(norm(x), w.view(along) * hat + b.view(along), rtol=1e-4, atol=1e-5)
    plain(x)
    assert all(map(torch.equal, norm.buffers(), plain.buffers())), "they move as those of BatchNorm"


def test_stochastic_norm_in_evaluation_is_batchnorm():
    norm, x = some_norm((6, 40)).eval(), torch.randn(6, 40)
    plain, draw = copy.deepcopy(norm), torch.Generator().manual_seed(3)
    state = draw.get_state()
    with own_dropout([norm], [draw]):
        assert torch.equal(norm(x), plain(x))
    assert torch.equal(draw.get_state(), state)


def test_another_seed_draws_other_channels():
    same, other = runs("stochastic", 1), [replace(run, seed=99) for run in runs("stochastic", 1)]
    assert (together(same) - together(other)).abs().max() > 1e-3
