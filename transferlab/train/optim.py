"""Parameter groups, learning-rate schedules, and multipliers that are found from gradients."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ..specs.recipe import Recipe

Multipliers = Mapping[nn.Module, float | Sequence[float]]


def parameter_groups(net: nn.Module, recipe: Recipe, lr_multipliers: Multipliers, each: bool = False) -> list[dict]:
    """Split the trainable parameters by learning rate and decay.

    Parameters
    ----------
    net : Module
    recipe : Recipe
    lr_multipliers : mapping of Module to float or sequence of float
        Learning rate of a part of the network as a multiple of the recipe's, one or one a step; by default 1.
    each : bool
        A group for each parameter.

    Returns
    -------
    list of dict
        Groups for an optimiser, with their peak rate under ``peak``, and its multiples at each step, or ``None``, under
        ``factors``. Only weight matrices and kernels decay.
    """
    multiple = {id(p): m for part, m in lr_multipliers.items() for p in part.parameters()}
    groups: dict[tuple, list[nn.Parameter]] = {}
    for p in net.parameters():
        if p.requires_grad:
            m = multiple.get(id(p), 1.0)
            peak, factors = (m, None) if isinstance(m, float | int) else (1.0, tuple(map(float, m)))
            groups.setdefault((peak, factors, p.ndim > 1, each and id(p)), []).append(p)
    return [
        {"params": its, "peak": recipe.lr * m, "factors": f, "weight_decay": recipe.weight_decay * decays}
        for (m, f, decays, _), its in groups.items()
    ]


def factor(recipe: Recipe, step: int) -> float:
    """Return the learning rate at `step` (0 is the first) as a share of its peak."""
    done = (step + 1) / recipe.steps
    if done < recipe.warmup:
        return done / recipe.warmup
    if recipe.schedule == "step":
        return 0.1 ** sum(done > m for m in recipe.milestones)
    return 0.5 * (1 + math.cos(math.pi * (done - recipe.warmup) / (1 - recipe.warmup)))


@dataclass(frozen=True)
class RelativeGradientNorm:
    """Learning rates of tensors in proportion to their gradients (Auto-RGN: Lee et al. 2023, "Surgical fine-tuning").

    The multiplier of a tensor is the norm of its gradient by that of its values, mean over some batches, as a share of
    the largest. Parameters of BatchNorm, and tensors of zeros, have 1 and are no part of the comparison.

    Parameters
    ----------
    every : int
        Steps after which multipliers are found anew: an epoch.
    batches : int
        The next so many are read; at the end of a block of draws, its last ones.
    """

    every: int
    batches: int = 5

    def which(self, i: int, count: int) -> range:
        """Return the steps that are read before step `i` of a block of `count`."""
        first = max(0, min(i, count - self.batches))
        return range(first, min(first + self.batches, count))


def relative_norms(weights: Iterable[torch.Tensor], gradients: Iterable[torch.Tensor | None]) -> torch.Tensor:
    """Return the norm of each tensor's gradient, 0 where there is none, by that of its values."""
    pairs = zip(weights, gradients, strict=True)
    return torch.stack([(p.new_zeros(()) if g is None else g.norm()) / p.detach().norm() for p, g in pairs])


def multipliers(net: nn.Module, ratios: torch.Tensor) -> torch.Tensor:
    """Return the multipliers of a network's trainable parameters, in order, from their `relative_norms`."""
    norms = {id(p) for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) for p in m.parameters()}
    left_out = torch.tensor([id(p) in norms for p in net.parameters() if p.requires_grad], device=ratios.device)
    left_out |= ~ratios.isfinite()
    return (ratios / ratios.masked_fill(left_out, 0).max().clamp_min(1e-30)).masked_fill(left_out, 1)
