"""Dropout and StochNorm that draw from a generator of the run's own, whatever is trained beside it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

FEATURES = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


@contextmanager
def own_dropout(nets: Sequence[nn.Module], generators: Sequence[torch.Generator]) -> Iterator[None]:
    """Have the dropout layers, and the stochastic BatchNorm, of each network draw from its own generator."""
    layers = []
    for layer, generator in ((m, g) for net, g in zip(nets, generators, strict=True) for m in net.modules()):
        drops = isinstance(layer, (nn.Dropout, *FEATURES)) or drops_paths(layer)
        if drops or getattr(layer, "stochastic", False):
            layers.append(layer)
            layer.forward = partial(dropped if drops else stochastic_norm, layer, generator)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def drops_paths(layer: nn.Module) -> bool:
    """Whether it is torchvision's ``StochasticDepth``, which only a network from there has."""
    return type(layer).__name__ == "StochasticDepth"


def dropped(layer: nn.Module, generator: torch.Generator, x: torch.Tensor) -> torch.Tensor:
    """Return what a dropout layer does, by the same calls as PyTorch's on a CPU."""
    if not layer.training or layer.p == 0:
        return x
    shape, keep = x.shape, 1 - layer.p
    if drops_paths(layer):
        shape = [len(x) if layer.mode == "row" else 1, *[1] * (x.ndim - 1)]
    elif isinstance(layer, FEATURES):
        shape = [*x.shape[:2], *[1] * (x.ndim - 2)]
    noise = (torch.empty_like(x) if shape == x.shape else x.new_empty(shape)).bernoulli_(keep, generator=generator)
    return x * (noise.div_(keep) if keep else noise)


def stochastic_norm(layer: nn.Module, generator: torch.Generator, x: torch.Tensor) -> torch.Tensor:
    """Return what BatchNorm does; in training, of half of the channels, by the running statistics as they were.

    StochNorm (Kou et al. 2020, "Stochastic normalization") with p = 0.5: x_hat = (1 - s) * x by the running
    statistics + s * x by the batch's, with s drawn for each channel. The running ones move as they ever do.
    """
    before = (layer.running_mean.clone(), layer.running_var.clone()) if layer.training else ()
    by_batch = type(layer).forward(layer, x)
    if not before:
        return by_batch
    coin = torch.empty_like(before[0]).bernoulli_(0.5, generator=generator).bool()
    by_running = F.batch_norm(x, *before, layer.weight, layer.bias, eps=layer.eps)
    return torch.where(coin.view(-1, *[1] * (x.ndim - 2)), by_batch, by_running)
