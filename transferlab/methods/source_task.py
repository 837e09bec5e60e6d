"""No transfer: a source network with its own head on held-out images of the source."""

import torch
from torch import nn

from ..data.images import grey, target_sample
from ..measure.metrics import accuracy
from ..specs import Trial
from ..train.predict import predict


def run(trial: Trial, network: nn.Module, device: torch.device) -> dict[str, float]:
    """Return the source network's accuracy on its own task, without colour if it was trained so."""
    sample = target_sample(trial.target, trial.split, trial.seed)
    sample = (grey(sample) if getattr(trial.source, "grey", None) else sample).to(device)
    return accuracy(predict(network, sample), sample.labels)
