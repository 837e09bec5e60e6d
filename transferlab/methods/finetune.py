"""Fine-tuning: go on training the source network on the target, under a new head."""

import torch
from torch import nn

from ..data.images import target_sample
from ..nets.build import new_head
from ..nets.taps import freeze
from ..seeds import stream
from ..specs import Trial
from ..train.checkpoint import Checkpoint
from ..train.fit import fit
from .scratch import measure


def run(trial: Trial, network: nn.Module, device: torch.device, checkpoint: Checkpoint | None = None) -> dict[str, float]:
    """Fine-tune the source network and measure it."""
    sample = target_sample(trial.target, "train", trial.seed).to(device)
    if trial.method.freeze:
        freeze(network, trial.method.freeze)
    head = new_head(network, sample.classes, stream(trial.seed, "head"))
    order, rates = stream(trial.seed, "target order"), {head: trial.method.head_lr}
    losses = fit(network, sample, trial.recipe, order, rates, checkpoint=checkpoint)
    return measure(network, trial, losses, device)
