"""Methods: one file each. Some train a network, others only read one."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ..specs import Concepts, FineTune, Grow, Neighbours, Probe, Scratch, SourceTask, Trial
from ..train.checkpoint import Checkpoint
from ..train.fit import finite, fit_together
from ..train.frozen import shortened
from ..train.pack import Trainee
from . import concepts, finetune, grow, looked_at, neighbours, probe, scratch, source_task

__all__ = ["measure", "prepare", "run"]

TRAIN = {Scratch: scratch.prepare, FineTune: finetune.prepare, Grow: grow.prepare}
READ = {SourceTask: source_task.run, Probe: probe.run, Neighbours: neighbours.run, Concepts: concepts.run}


def prepare(trial: Trial, network: nn.Module | None, device: torch.device) -> Trainee | dict[str, Any]:
    """Return the network that a trial trains, or, if it trains none, what it measured.

    Parameters
    ----------
    trial : Trial
        With a single learning rate.
    network : Module or None
        The source's network on `device`; the method may change it.

    Returns
    -------
    Trainee or dict
        Metrics by name.
    """
    kind = type(trial.method)
    if step := getattr(trial.method, "first", None):
        network = run_first(replace(trial, target=step.target, method=step.method), network, device)
    if kind in READ:
        return READ[kind](trial, network, device)
    if not looked_at.wanted(trial):
        return shortened(TRAIN[kind](trial, network, device))
    before = copy.deepcopy(network)
    trainee = shortened(TRAIN[kind](trial, network, device))
    loss = looked_at.loss_of(trial, trainee, before)
    (losses,) = fit_together([trainee], loss)
    found = measure(trainee.trained, trial, finite(losses), device)
    return found | getattr(loss, "seen", {}) | (looked_at.examined(trainee.trained, before, trial, device) if trial.method.examine else {})


def run_first(trial: Trial, network: nn.Module, device: torch.device) -> nn.Module:
    """Return the network that an earlier task of a chain leaves."""
    ready = prepare(trial, network, device)
    finite(fit_together([ready])[0])
    ready.trained.requires_grad_(True)
    for module in ready.trained.modules():
        module.frozen = False
    return ready.trained


def measure(net: nn.Module, trial: Trial, losses: torch.Tensor, device: torch.device) -> dict[str, Any]:
    """Return what a trained network reaches on the split that the trial reads, and its loss at the end of training."""
    blocks = isinstance(trial.method, Grow) or getattr(trial.method, "blocks", None)
    return (grow.measure if blocks else scratch.measure)(net, trial, losses, device)


def run(trial: Trial, network: nn.Module | None, device: torch.device, checkpoint: Checkpoint | None = None) -> dict[str, Any]:
    """Run one trial alone, and return its metrics by name.

    Parameters
    ----------
    trial, network, device
        As in `prepare`.
    checkpoint : Checkpoint, optional
        Where long training keeps its state.

    Raises
    ------
    Diverged
        If the loss stops being finite.
    """
    ready = prepare(trial, network, device)
    if not isinstance(ready, Trainee):
        return ready
    (losses,) = fit_together([ready], checkpoint=checkpoint)
    return measure(ready.trained, trial, finite(losses), device)
