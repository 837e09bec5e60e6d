"""Fine-tuning: go on training the source network on the target, under a new head."""

import torch
from torch import nn

from ..data.images import target_sample
from ..nets.build import new_head
from ..nets.taps import freeze
from ..seeds import stream
from ..specs import Trial
from ..train.pack import Trainee


def prepare(trial: Trial, network: nn.Module, device: torch.device) -> Trainee:
    """Put a new head on the source network, and freeze what is to stay."""
    sample = target_sample(trial.target, "train", trial.seed).to(device)
    if trial.method.freeze:
        freeze(network, trial.method.freeze)
    head = new_head(network, sample.classes, stream(trial.seed, "head"))
    order = stream(trial.seed, "target order")
    return Trainee(network, sample, trial.recipe, order, {head: trial.method.head_lr})
