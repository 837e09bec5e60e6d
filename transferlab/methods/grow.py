"""Growing: add units to the source network and go on training on the target, under a new head."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from ..data.images import target_sample
from ..nets.build import new_head
from ..nets.grow import deepen, net2deeper, net2wider, new_modules, normalised, train_only, widen, widen_and_deepen, widen_twice
from ..seeds import stream
from ..specs import Grow, Trial
from ..train.pack import Trainee


def prepare(trial: Trial, network: nn.Module, device: torch.device) -> Trainee:
    """Grow the source network, and freeze what is to stay."""
    sample = target_sample(trial.target, "train", trial.seed).to(device)
    grown = surgery(network, trial.method, sample.classes, stream(trial.seed, "head"))
    train_only(grown, trial.method.scope or "all")
    order = stream(trial.seed, "target order")
    return Trainee(grown, sample, trial.recipe, order, dict.fromkeys(new_modules(grown), trial.method.new_lr))


def surgery(network: nn.Module, method: Grow, classes: int, seed: int) -> nn.Module:
    """Return the grown network that a method describes, with a new head."""
    scaling = {"scale": method.scale} if method.scale else {}
    given = {"classes": classes, "seed": seed} | scaling
    norm = {"norm": method.norm} if method.norm else {}
    beside = given | norm | ({"init": "copy"} if method.copy else {})
    acts: dict[str, Callable[[], nn.Module]] = {
        "widen": lambda: widen(network, *method.units, **beside),
        "widen-twice": lambda: widen_twice(network, method.units, **beside),
        "deepen": lambda: deepen(network, *method.units, **given | norm),
        "widen-and-deepen": lambda: widen_and_deepen(network, method.units, **beside),
        "normalise": lambda: normalised(network, **given),
        "net2wider": lambda: net2wider(network, *method.units, seed=seed),
        "net2deeper": lambda: net2deeper(network),
    }
    grown = acts[method.how]()
    if method.how.startswith("net2"):  # they keep the old head, whose classes are the source's
        new_head(grown, classes, seed)
    return grown
