"""Growing: add units to the source network and go on training on the target, under a new head."""

from __future__ import annotations

from inspect import signature
from typing import Any

import torch
from torch import nn

from ..data.images import target_sample
from ..errors import check
from ..measure.metrics import accuracy
from ..nets.build import head_of, new_head
from ..nets.grow import deepen, net2deeper, net2wider, new_modules, normalised, train_only, widen, widen_and_deepen, widen_twice
from ..nets.sites import read_by_head, sites
from ..seeds import stream
from ..specs import Grow, Recipe, Trial
from ..train.feed import Batch
from ..train.fit import cross_entropy
from ..train.frozen import kept_inputs
from ..train.pack import Trainee
from . import scratch

WAYS = {"widen": widen, "widen-twice": widen_twice, "deepen": deepen, "widen-and-deepen": widen_and_deepen}
WAYS |= {"normalise": normalised, "net2wider": net2wider, "net2deeper": net2deeper}  # controls
LOOKS = 21  # at old and new units while they are trained


def prepare(trial: Trial, network: nn.Module, device: torch.device) -> Trainee:
    """Grow the source network, and freeze what is to stay."""
    method = trial.method
    sample = target_sample(trial.target, "train", trial.seed).to(device)
    grown = surgery(network, method, sample.classes, stream(trial.seed, "head"))
    train_only(grown, method.scope or "all")
    units, head = new_modules(grown)
    rates = {units: method.unit_lr or method.new_lr, head: method.new_lr}
    return Trainee(grown, sample, trial.recipe, stream(trial.seed, "target order"), rates)


def surgery(network: nn.Module, method: Grow, classes: int, seed: int) -> nn.Module:
    """Return the grown network that a method describes, with a new head."""
    options = {"norm": method.norm, "scale": method.scale, "init": method.copy and "copy", "spread": method.spread, "classes": classes}
    way, units = WAYS[method.how], (method.units,) if len(method.units) > 1 else method.units
    takes = signature(way).parameters
    grown = way(network, *units, **{k: v for k, v in (options | {"seed": seed}).items() if k in takes and v is not None})
    if method.how.startswith("net2"):  # they keep the old head, whose classes are the source's
        new_head(grown, classes, seed)
    return grown


def measure(net: nn.Module, trial: Trial, losses: torch.Tensor, device: torch.device) -> dict[str, Any]:
    """Return what `scratch.measure` does, and what each block of a widened layer reaches alone (figure 6).

    A block alone is the trained head without the weights that read the other blocks: ``accuracy_old`` and ``accuracy_new``,
    of networks whose head is a linear layer that reads one old block and one new one, or two that the method names.

    Raises
    ------
    UserError
        If the head reads another number of units than the method says.
    """
    _, _, head = head_of(net)
    named = list(getattr(trial.method, "blocks", None) or ())
    blocks = named or read_by_head(net)
    check(not named or head.weight.shape[1] == sum(named), "blocks", named, f"the head reads {head.weight.shape[1]} units")
    if len(blocks) != 2 or not isinstance(head, nn.Linear):
        return scratch.measure(net, trial, losses, device)
    inputs: list[torch.Tensor] = []
    with kept_inputs(head, inputs.append):
        found = scratch.measure(net, trial, losses, device)
    labels = target_sample(trial.target, trial.split, trial.seed).labels.to(device)
    old, new = said(head, torch.cat(inputs), blocks)
    alone = {name: accuracy(part + head.bias, labels)["accuracy"] for name, part in (("accuracy_old", old), ("accuracy_new", new))}
    return found | alone


@torch.no_grad()
def said(head: nn.Linear, inputs: torch.Tensor, blocks: list[int]) -> list[torch.Tensor]:
    """Return what each block that the head reads adds to the logits, shape (N, classes) each."""
    return [x @ w.T for x, w in zip(inputs.float().split(blocks, 1), head.weight.float().split(blocks, 1), strict=True)]


class Watch:
    """A loss that looks at the old and the new units of FC7 while they are trained (sec. 3.2: "pace of learning").

    Parameters
    ----------
    net : Module
        With one new block beside FC7.
    steps : int
        Of the training: it is looked at `LOOKS` times, evenly, before a step is taken.

    Attributes
    ----------
    seen : dict of str to list of float
        ``at``: the steps. ``size_*``: root mean square of what the head reads of a block. ``said_*``: that of what a block adds to
        the logits, means over classes taken away. ``pace_*``: change of a block's incoming weights since the last look, in
        thousandths of their norm a step (one number fewer).

    Raises
    ------
    UserError
        If the network has no FC7 with one new block.
    """

    def __init__(self, net: nn.Module, steps: int) -> None:
        places = sites(net)
        self.blocks, (_, _, self.head) = read_by_head(net), head_of(net)
        check("fc7" in places and len(self.blocks) == 2, "watch", type(net).__name__, "wants an FC7 with one block of new units")
        layer = places["fc7"].layer
        self.weights = {"old": layer.weight, "new": layer.new[0].weight}
        self.before = {name: w.detach().clone() for name, w in self.weights.items()}
        self.step, self.at = 0, sorted({round(i * (steps - 1) / (LOOKS - 1)) for i in range(LOOKS)})
        names = [f"{what}_{block}" for what in ("size", "said", "pace") for block in self.weights]
        self.seen: dict[str, list[float]] = {"at": list(self.at)} | {name: [] for name in names}

    def __call__(self, net: nn.Module, batch: Batch, recipe: Recipe) -> torch.Tensor:
        if self.step not in self.at:
            loss = cross_entropy(net, batch, recipe)
        else:
            with kept_inputs(self.head, self.look):
                loss = cross_entropy(net, batch, recipe)
        self.step += 1
        return loss

    @torch.no_grad()
    def look(self, inputs: torch.Tensor) -> None:
        """Note how large the blocks are, what they add, and how far their weights have gone since."""
        inputs = inputs.float()
        words = said(self.head, inputs, self.blocks)
        steps = self.step - self.at[self.at.index(self.step) - 1]
        for (name, weight), x, logits in zip(self.weights.items(), inputs.split(self.blocks, 1), words, strict=True):
            self._note(f"size_{name}", x.square().mean().sqrt())
            self._note(f"said_{name}", (logits - logits.mean(1, keepdim=True)).square().mean().sqrt())
            if self.step:
                self._note(f"pace_{name}", 1000 * (weight - self.before[name]).norm() / self.before[name].norm() / steps)
            self.before[name].copy_(weight)

    def _note(self, name: str, value: torch.Tensor) -> None:
        self.seen[name].append(float(f"{value.item():.4g}"))
