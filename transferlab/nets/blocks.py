"""What grown networks are made of: layers with new units beside old ones, and blocks brought to one scale."""

from collections.abc import Sequence

import torch
from torch import nn

from ..errors import check, choose
from ..specs.networks import GROWTH_NORMS

SCALE = 20.0  # of activations brought to one scale; the paper names 10 and 20
EPSILON = 1e-6  # added to squared norms: an all-zero block stays zero and has a finite gradient
NOISE = 0.1  # of copied units, as a share of the standard deviation of their weights


class WideLinear(nn.Linear):
    """A linear layer with new units beside the old ones; outputs are the old block's and then each new one's.

    Parameters
    ----------
    old : Linear
        Its parameters become those of this layer, under the same names. It goes on reading its own inputs only.
    """

    def __init__(self, old: nn.Linear) -> None:
        super().__init__(old.in_features, old.out_features, old.bias is not None, device="meta")
        self.weight, self.bias = old.weight, old.bias
        self.new = nn.ModuleList()

    @property
    def blocks(self) -> list[int]:
        """Units of the old block and of each new one."""
        return [self.out_features, *(layer.out_features for layer in self.new)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        old = nn.functional.linear(x[:, : self.in_features], self.weight, self.bias)
        return torch.cat([old, *(layer(x[:, : layer.in_features]) for layer in self.new)], 1)


class BlockScale(nn.Module):
    """Bring blocks of activations to one scale: each is divided by its norm, and every unit multiplied by its own gain.

    Equations 1 and 2 of Wang et al. The norm is that over the units of a block, sample by sample; of maps, at every
    position.

    Parameters
    ----------
    blocks : sequence of int
        Units of each block.
    scale : float
        What all gains start from.
    """

    def __init__(self, blocks: Sequence[int], scale: float = SCALE) -> None:
        super().__init__()
        check(scale > 0, "scale", scale, "must be above 0")
        self.gain = nn.ParameterList(nn.Parameter(torch.full((units,), float(scale))) for units in blocks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shape = (1, -1, *[1] * (x.ndim - 2))
        found = []
        for part, gain in zip(x.float().split([len(gain) for gain in self.gain], 1), self.gain, strict=True):
            found.append(part * (part.square().sum(1, keepdim=True) + EPSILON).rsqrt() * gain.view(shape))
        return torch.cat(found, 1).to(x.dtype)


class Branch(nn.Module):
    """New units beside a representation: what comes in, and linear layers of it, each with a ReLU.

    Parameters
    ----------
    before : int
        Units of the representation.
    """

    def __init__(self, before: int) -> None:
        super().__init__()
        self.before, self.new = before, nn.ModuleList()

    @property
    def blocks(self) -> list[int]:
        """Units of the representation and of each new block."""
        return [self.before, *(len(layer.weight) for layer in self.new)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, *(nn.functional.relu(layer(x)) for layer in self.new)], 1)


def blocks_of(layer: nn.Linear) -> list[int]:
    return layer.blocks if isinstance(layer, WideLinear) else [layer.out_features]


def like(model: nn.Module, before: int, units: int) -> nn.Module:
    """Return a layer of the kind, type and place of another: linear, or a 1x1 convolution."""
    where = {"device": model.weight.device, "dtype": model.weight.dtype}
    return nn.Conv2d(before, units, 1, **where) if isinstance(model, nn.Conv2d) else nn.Linear(before, units, **where)


@torch.no_grad()
def drawn(layer: nn.Module, draw: torch.Generator, std: float | None = None, spread: float = 1.0) -> nn.Module:
    """Fill a layer: weights from N(0, std^2), by default `spread` times He's for a ReLU; biases zero."""
    std = spread * (2 / layer.weight[0].numel()) ** 0.5 if std is None else std
    layer.weight.copy_(torch.randn(layer.weight.shape, generator=draw) * std)
    layer.bias.zero_()
    return layer


@torch.no_grad()
def copied(layer: nn.Linear, old: nn.Linear, draw: torch.Generator) -> nn.Linear:
    """Fill a layer with old units, drawn at random, plus noise; weights of inputs that these lack are noise alone."""
    chosen = torch.randint(len(old.weight), (len(layer.weight),), generator=draw).to(old.weight.device)
    layer.weight.copy_(torch.randn(layer.weight.shape, generator=draw) * NOISE * old.weight.std().item())
    layer.weight[:, : old.weight.shape[1]] += old.weight[chosen]
    layer.bias.copy_(old.bias[chosen])
    return layer


def normalisation(beside: nn.Module, blocks: list[int], norm: str, scale: float, learned: "nn.Module | None") -> dict:
    """Return a normalisation by the name ``new_norm``, on the device of a layer; nothing for ``none``.

    Gains that were `learned` are kept, where both are `BlockScale`.
    """
    if choose("norm", norm, GROWTH_NORMS) == "none":
        return {}
    check(norm == "l2" or not isinstance(beside, nn.Conv2d), "norm", norm, "maps are scaled by l2 or not at all")
    over_all = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}
    found = BlockScale(blocks, scale) if norm == "l2" else over_all[norm](sum(blocks))
    if isinstance(found, BlockScale) and isinstance(learned, BlockScale):
        for fresh, old in zip(found.gain, learned.gain, strict=False):
            fresh.data.copy_(old.data)
    return {"new_norm": found.to(beside.weight.device)}
