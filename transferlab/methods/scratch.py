"""Training from scratch: on a target, for comparison, and on a source, to have something to transfer."""

import torch
from torch import nn

from ..data.images import Sample, source_sample, target_sample
from ..measure.metrics import accuracy
from ..nets.build import build
from ..seeds import stream
from ..specs import Backbone, Recipe, Source, Trial
from ..train.checkpoint import Checkpoint
from ..train.fit import fit
from ..train.predict import predict


def train_fresh(
    backbone: Backbone, sample: Sample, size: int, recipe: Recipe, seed: int, purpose: str, checkpoint: Checkpoint | None = None
) -> tuple[nn.Module, torch.Tensor]:
    """Return a network trained from scratch and its loss at every step."""
    net = build(backbone, size, sample.classes, stream(seed, f"{purpose} weights")).to(sample.labels.device)
    return net, fit(net, sample, recipe, stream(seed, f"{purpose} order"), checkpoint=checkpoint)


def pretrain(
    source: Source, backbone: Backbone, seed: int, device: torch.device, checkpoint: Checkpoint | None = None
) -> tuple[nn.Module, torch.Tensor]:
    """Return the network that a source trains, and its loss at every step."""
    sample = source_sample(source, seed).to(device)
    return train_fresh(backbone, sample, source.size, source.recipe, seed, "source", checkpoint)


def run(trial: Trial, network: None, device: torch.device, checkpoint: Checkpoint | None = None) -> dict[str, float]:
    """Train a fresh network on the target and measure it."""
    sample = target_sample(trial.target, "train", trial.seed).to(device)
    net, losses = train_fresh(trial.backbone, sample, trial.target.size, trial.recipe, trial.seed, "target", checkpoint)
    return measure(net, trial, losses, device)


def measure(net: nn.Module, trial: Trial, losses: torch.Tensor, device: torch.device) -> dict[str, float]:
    """Return what a trained network reaches on the split that the trial reads, and its loss at the end of training."""
    read = target_sample(trial.target, trial.split, trial.seed).to(device)
    return accuracy(predict(net, read), read.labels) | {"train_loss": round(losses[-20:].mean().item(), 4)}
