"""Second heads: more than one answer from one representation, such as that to the source task beside the target's."""

from collections.abc import Sequence

import torch
from torch import nn

from ..errors import choose
from .alexnet import SECOND_HEADS
from .blocks import drawn, like
from .build import HEAD_STD, head_of
from .taps import kept_inputs

SOURCE_HEAD = "source_head"  # what the second head is called that answers for the source


def add_head(net: nn.Module, name: str, classes: int, seed: int) -> nn.Module:
    """Add a second head, in place, and return it: it reads what the head reads, and ``forward`` leaves it out.

    Parameters
    ----------
    net : Module
        From `build`; one that is to grow grows first.
    name : str
        It is a tap of the network by this name, and the module ``second_heads.NAME``.
    classes : int
    seed : int
        Of the weights, from N(0, 0.01^2), as those of `build.new_head`; the bias is zero.
    """
    _, _, head = head_of(net)
    if not hasattr(net, SECOND_HEADS):
        net.add_module(SECOND_HEADS, nn.ModuleDict())
    second = drawn(like(head, head.weight.shape[1], classes), torch.Generator().manual_seed(seed), HEAD_STD)
    net.second_heads[name] = second
    return second


@torch.no_grad()
def keep_head(net: nn.Module, name: str, old: nn.Module, rows: list[int] | slice = slice(None)) -> nn.Module:
    """Add a second head that starts as an old head, or as some of its outputs, in place, and return it.

    Parameters
    ----------
    net : Module
    name : str
        As in `add_head`.
    old : Module
        The head of this network, or of one with the same backbone; it stays as it is.
    rows : list of int or slice
        Its outputs that are kept, in order; by default all.
    """
    second = add_head(net, name, len(old.weight[rows]), seed=0)
    for its, value in zip(second.parameters(), old.parameters(), strict=True):
        its.copy_(value[rows])
    return second


def logits(net: nn.Module, images: torch.Tensor, names: Sequence[str] = ("head",)) -> list[torch.Tensor]:
    """Return the logits (N, classes) of several heads, in one pass.

    Parameters
    ----------
    net : Module
    images : Tensor
        What the network takes.
    names : sequence of str
        ``head``, and names of second heads.

    Raises
    ------
    UserError
        If the network has no such head.
    """
    for name in names:
        choose("head", name, ("head", *getattr(net, SECOND_HEADS, ())))
    read: list[torch.Tensor] = []
    with kept_inputs(head_of(net)[2], read.append):
        first = net(images)
    return [first if name == "head" else _flat(net.second_heads[name](read[-1])) for name in names]


def _flat(found: torch.Tensor) -> torch.Tensor:
    """Return logits; of maps as SqueezeNet makes them, by a ReLU and the mean over positions."""
    return nn.functional.adaptive_avg_pool2d(found.relu(), 1).flatten(1) if found.ndim == 4 else found
