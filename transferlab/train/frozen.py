"""Training the last part of a network on activations that are computed once, where all before it is frozen."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import nn

from ..data.augment import normalise
from ..data.images import Sample
from ..nets.alexnet import AlexNetModule
from .pack import Trainee
from .predict import BATCH

LAST = ("classifier", "fc", "heads", "head")  # what torchvision's networks call everything behind the representation


def shortened(trainee: Trainee) -> Trainee:
    """Return a trainee that gives the same, to rounding, and computes frozen activations only once.

    Where images are augmented, or nothing at the start is frozen, that is the trainee itself.
    """
    part = trained_part(trainee.net) if trainee.recipe.augment == "none" else None
    if part is None:
        return trainee
    entrance, top = part
    inputs = activations(trainee.net, entrance, trainee.sample)
    rows = torch.arange(len(inputs), device=inputs.device)
    sample = replace(trainee.sample, pixels=inputs, rows=rows)
    return replace(trainee, net=top, sample=sample, whole=trainee.net)


def trained_part(net: nn.Module) -> tuple[nn.Module, nn.Module] | None:
    """Return the module in front of which everything is frozen, and the network from there on, of the same modules.

    ``None`` if training reaches farther down than FC6 of an AlexNet, or the part behind the representation of other networks.
    """
    if isinstance(net, AlexNetModule):
        children = list(net.named_children())
        first = next((i for i, (_, child) in enumerate(children) if _trains(child)), 0)
        if not any(True for _, child in children[:first] for _ in child.parameters()) or children[first][0].startswith("conv"):
            return None
        return children[first][1], nn.Sequential(OrderedDict(children[first:]))
    name = next((n for n in LAST if isinstance(getattr(net, n, None), nn.Module)), None)
    if name is None or any(_trains(child) for n, child in net.named_children() if n != name):
        return None
    last = net.get_submodule(name)
    return last, nn.Sequential(OrderedDict([(name, last), ("flatten", nn.Flatten())]))


def _trains(module: nn.Module) -> bool:
    return any(p.requires_grad for p in module.parameters())


@torch.no_grad()
def activations(net: nn.Module, entrance: nn.Module, sample: Sample) -> torch.Tensor:
    """Return what a module of a network is given for a sample's images, not augmented: float32, one row an image."""
    net.to(memory_format=torch.channels_last).eval()
    parts: list[torch.Tensor] = []
    with kept_inputs(entrance, parts.append):
        for rows in sample.rows.split(BATCH):
            net(normalise(sample.pixels[rows]))
    return torch.cat(parts).float()


@contextmanager
def kept_inputs(module: nn.Module, keep: Callable[[torch.Tensor], None]) -> Iterator[None]:
    """Hand on what a module is given, each time that its network runs."""
    handle = module.register_forward_pre_hook(lambda _, inputs: keep(inputs[0]))
    try:
        yield
    finally:
        handle.remove()
