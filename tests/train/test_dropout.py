"""Dropout: PyTorch's own numbers, from a generator of the run's own."""

from dataclasses import replace

import pytest
import torch
from test_fit import RECIPE, SIZE, run_of
from test_trainers import alone, capture, killed, pictures, together
from torch import nn
from torchvision.ops import StochasticDepth

from transferlab.nets.build import build
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


NETWORKS = {
    "every kind": (with_dropout, SIZE, 20),
    "squeezenet": (lambda k: build(Torchvision("squeezenet1_0"), 32, 4, k), 32, 4),
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
        within = 1e-6 if kind == "every kind" else 1e-5
        torch.testing.assert_close(row, alone(run), rtol=within, atol=within)


def test_it_does_not_matter_what_else_is_in_the_pack():
    assert torch.equal(together(runs("every kind"))[1], together(runs("every kind")[1:])[0])


def test_captured_is_eager(monkeypatch):
    eager = together(runs("every kind"))
    capture(monkeypatch)
    torch.testing.assert_close(together(runs("every kind")), eager, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("count", [1, 3])
def test_killed_and_resumed_is_uninterrupted(count, tmp_path, monkeypatch):
    killed(monkeypatch, 7, tmp_path / "c.pt", lambda kept: together(runs("every kind", count), kept))
    again = together(runs("every kind", count), Checkpoint(tmp_path / "c.pt", 10**6))
    assert torch.equal(again, together(runs("every kind", count)))
