"""Methods: one file each, a trial in, metrics out. `run` finds the right one."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..specs import FineTune, Probe, Scratch, SourceTask, Trial
from ..train.checkpoint import Checkpoint
from . import finetune, probe, scratch, source_task

METHODS = {SourceTask: source_task.run, Scratch: scratch.run, Probe: probe.run, FineTune: finetune.run}


def run(trial: Trial, network: nn.Module | None, device: torch.device, checkpoint: Checkpoint | None = None) -> dict[str, Any]:
    """Run one trial.

    Parameters
    ----------
    trial : Trial
        With a single learning rate.
    network : Module or None
        The source's network on `device`; the method may change it.
    checkpoint : Checkpoint, optional
        Where long training keeps its state.

    Returns
    -------
    dict
        Metrics by name.

    Raises
    ------
    Diverged
        If the loss stops being finite.
    """
    return METHODS[type(trial.method)](trial, network, device, checkpoint)
