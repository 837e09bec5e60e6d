"""Parameter groups and learning-rate schedules."""

import math

import torch
from torch import nn

from ..specs import Recipe


def parameter_groups(net: nn.Module, recipe: Recipe, multiples: dict[nn.Module, float]) -> list[dict]:
    """Split the trainable parameters by learning rate and decay.

    Parameters
    ----------
    net : Module
    recipe : Recipe
    multiples : dict of Module to float
        Learning rate of a part of the network as a multiple of the recipe's; parts that are not named have 1.

    Returns
    -------
    list of dict
        Groups for an optimiser, with their peak rate under ``peak``. Only weight matrices and kernels decay.
    """
    multiple = {id(p): m for part, m in multiples.items() for p in part.parameters()}
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for p in net.parameters():
        if p.requires_grad:
            groups.setdefault((multiple.get(id(p), 1.0), p.ndim > 1), []).append(p)
    return [
        {"params": params, "peak": recipe.lr * m, "lr": 0.0, "weight_decay": recipe.weight_decay * decays}
        for (m, decays), params in groups.items()
    ]


def factor(recipe: Recipe, step: int) -> float:
    """Return the learning rate at `step` (0 is the first) as a share of its peak."""
    done = (step + 1) / recipe.steps
    if done < recipe.warmup:
        return done / recipe.warmup
    if recipe.schedule == "step":
        return 0.1 ** sum(done > m for m in recipe.milestones)
    return 0.5 * (1 + math.cos(math.pi * (done - recipe.warmup) / (1 - recipe.warmup)))


def optimiser(groups: list[dict], recipe: Recipe) -> torch.optim.SGD:
    """Return SGD with Nesterov momentum over `groups`."""
    return torch.optim.SGD(groups, lr=0.0, momentum=recipe.momentum, nesterov=recipe.momentum > 0)
