"""Training the last part of a network on activations that are computed once, where all before it is frozen."""

from dataclasses import replace

import torch
from torch import nn

from ..data.images import Sample
from ..nets.alexnet import SECOND_HEADS, AlexNetModule, Chain
from .read import inputs_of
from .run import Run

LAST = ("classifier", "fc", "heads", "head")  # what torchvision's networks call everything behind the representation


def shortened(run: Run) -> Run:
    """Return a run that gives the same, to rounding, and computes frozen activations only once.

    Where images are augmented or the objective reads them, or nothing at the start is frozen, that is the run itself.
    """
    part = None if run.recipe.augment != "none" or run.objective.reads_images else trained_part(run.net)
    if part is None:
        return run
    entrance, top = part

    def read(sample: Sample) -> Sample:
        inputs = inputs_of(run.net, entrance, sample)
        return replace(sample, pixels=inputs, rows=torch.arange(len(inputs), device=inputs.device), grey=False)

    streams = tuple(replace(s, sample=read(s.sample)) for s in run.streams)
    return replace(run, net=top, streams=streams, whole=run.net)


def trained_part(net: nn.Module) -> tuple[nn.Module, nn.Module] | None:
    """Return the module in front of which everything is frozen, and the network from there on, of the same modules.

    ``None`` if training reaches farther down than FC6 of an AlexNet, or the part behind the representation of others.
    """
    children = dict(net.named_children())
    seconds = [(SECOND_HEADS, children.pop(SECOND_HEADS))] if SECOND_HEADS in children else []
    if isinstance(net, AlexNetModule):
        named = list(children.items())
        first = next((i for i, (_, child) in enumerate(named) if _trains(child)), 0)
        if named[first][0].startswith("conv"):
            return None
        return named[first][1], Chain([*named[first:], *seconds], net.head_name)
    name = next((n for n in LAST if n in children), None)
    if name is None or any(_trains(child) for n, child in children.items() if n != name):
        return None
    return children[name], Chain([(name, children[name]), ("flatten", nn.Flatten()), *seconds], net.head_name)


def _trains(module: nn.Module) -> bool:
    return any(p.requires_grad for p in module.parameters())
