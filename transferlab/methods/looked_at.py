"""Trials whose training has a loss of its own or is looked at, or whose network is looked at afterwards: they run alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from ..data.images import Sample, target_sample
from ..errors import check
from ..measure.metrics import accuracy
from ..measure.representation import cka, nearest_neighbours, selectivity, silhouette
from ..nets.build import head_of
from ..nets.sites import read_by_head, sites
from ..specs import FineTune, Recipe, Trial
from ..train.feed import Batch
from ..train.fit import cross_entropy
from ..train.frozen import activations, kept_inputs
from ..train.pack import Loss, Trainee
from .grow import Watch

TEMPERATURE = 2.0  # of answers that are to be kept (Li and Hoiem 2016, sec. 3)


def wanted(trial: Trial) -> bool:
    """Whether a trial is one of these."""
    return any(getattr(trial.method, name, None) for name in ("watch", "examine", "l2_sp", "lwf"))


def loss_of(trial: Trial, trainee: Trainee, before: nn.Module) -> Loss:
    """Return the loss that the trial trains with.

    Parameters
    ----------
    before : Module
        The source network as it was.

    Raises
    ------
    UserError
        If the network is none that the trial can look at.
    """
    method = trial.method
    check(not method.examine or "fc7" in sites(before), "examine", type(before).__name__, "wants a network with an FC7")
    if getattr(method, "watch", None):
        return Watch(trainee.trained, trial.recipe.steps)
    if isinstance(method, FineTune) and method.l2_sp:
        return NearStart(trainee.trained, before, method.l2_sp)
    if isinstance(method, FineTune) and method.lwf:
        return SameAnswers(trainee.trained, before, method.lwf)
    return cross_entropy


class NearStart:
    """Cross-entropy, and a pull towards the weights that training started from.

    Half of `strength` times the squared distance of all weights but the head's (L2-SP, Li, Grandvalet and Davoine 2018, eq. 1); the
    recipe's decay goes on beside it.

    Parameters
    ----------
    net, before : Module
    strength : float
    """

    def __init__(self, net: nn.Module, before: nn.Module, strength: float) -> None:
        start, head = before.state_dict(), {id(p) for p in head_of(net)[2].parameters()}
        named = [(n, p) for n, p in net.named_parameters() if p.requires_grad and id(p) not in head]
        self.pairs, self.strength = [(p, start[n].detach().clone()) for n, p in named], strength

    def __call__(self, net: nn.Module, batch: Batch, recipe: Recipe) -> torch.Tensor:
        away = sum(((p - start) ** 2).sum() for p, start in self.pairs)
        return cross_entropy(net, batch, recipe) + self.strength / 2 * away


class SameAnswers:
    """Cross-entropy, and what the source's head says about the target's images is to stay as it was.

    The distillation loss of learning without forgetting (Li and Hoiem 2016, eq. 2-3) with weight `strength`; the old head is kept as it is.

    Parameters
    ----------
    net, before : Module
        All layers of `net` but the head are those of `before`.
    strength : float
    """

    def __init__(self, net: nn.Module, before: nn.Module, strength: float) -> None:
        self.before, self.strength = before.eval().requires_grad_(False), strength
        self.head, self.old_head = head_of(net)[2], head_of(self.before)[2]
        check(isinstance(self.head, nn.Linear), "lwf", type(net).__name__, "wants a network whose head is a linear layer")

    def __call__(self, net: nn.Module, batch: Batch, recipe: Recipe) -> torch.Tensor:
        read: list[torch.Tensor] = []
        with kept_inputs(self.head, read.append):
            loss = cross_entropy(net, batch, recipe)
        with torch.no_grad():
            then = F.log_softmax(self.before(batch.images) / TEMPERATURE, 1)
        now = F.log_softmax(self.old_head(read[0]) / TEMPERATURE, 1)
        return loss + self.strength * TEMPERATURE**2 * F.kl_div(now, then, reduction="batchmean", log_target=True)


def examined(net: nn.Module, before: nn.Module, trial: Trial, device: torch.device) -> dict[str, float]:
    """Return what a network knows after training on the target, beside what it knew before.

    Returns
    -------
    dict
        ``source_accuracy``: of the old head on the old units of FC7, for held-out images of the source. ``near_*``: accuracy of
        five nearest training images, ``silhouette_*``, both in what the head reads, and ``selective_*``, the median unit's
        selectivity, on the target's held-out images, ``before`` and ``after``; ``selective_old`` and ``selective_new`` of the
        two blocks, where there are two. ``alike``: CKA of the old units with themselves before.
    """
    target, subset = trial.target, trial.source.subset
    known, asked = (target_sample(target, split, trial.seed).to(device) for split in ("train", trial.split))
    found: dict[str, float] = {}
    for when, network in (("before", before), ("after", net)):
        near, far = (activations(network, head_of(network)[2], sample) for sample in (known, asked))
        found[f"near_{when}"] = nearest_neighbours(near, known.labels, far, asked.labels)
        found[f"silhouette_{when}"] = silhouette(far, asked.labels)
        units = selectivity(far, asked.labels)
        found[f"selective_{when}"] = units.median().item()
    blocks = read_by_head(net)
    if len(blocks) == 2:
        found |= {f"selective_{name}": part.median().item() for name, part in zip(("old", "new"), units.split(blocks), strict=True)}
    found["alike"] = cka(old_units(before, asked, before), old_units(net, asked, before))
    own = target_sample(type(target)(trial.source.images, trial.source.size, subset.shape), "test", trial.seed).to(device)
    with torch.no_grad():
        answers = head_of(before)[2](old_units(net, own, before))
    found["source_accuracy"] = accuracy(answers, own.labels)["accuracy"]
    return {name: round(value, 5) for name, value in found.items()}


def old_units(net: nn.Module, sample: Sample, before: nn.Module) -> torch.Tensor:
    """Return the activations of those units of FC7 that the source network had, before they are brought to any scale."""
    behind = sites(net)["fc7"].behind
    relu = behind.relu if isinstance(behind, nn.Sequential) else behind
    return activations(net, relu, sample).relu()[:, : head_of(before)[2].weight.shape[1]]
