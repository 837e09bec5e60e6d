"""Dropout that draws from a generator of the run's own, whatever is trained beside it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn

FEATURES = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


@contextmanager
def own_dropout(nets: Sequence[nn.Module], generators: Sequence[torch.Generator]) -> Iterator[None]:
    """Have the dropout layers of each network draw from its own generator."""
    layers = [(m, g) for net, g in zip(nets, generators, strict=True) for m in net.modules()]
    layers = [(m, g) for m, g in layers if isinstance(m, (nn.Dropout, *FEATURES)) or drops_paths(m)]
    for layer, generator in layers:
        layer.forward = partial(dropped, layer, generator)
    try:
        yield
    finally:
        for layer, _ in layers:
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
