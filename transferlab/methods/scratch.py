"""Training from scratch: on a target, for comparison, and on a source, to have something to transfer."""

import torch
from torch import nn

from ..data.images import Sample, source_sample, target_sample
from ..measure.metrics import accuracy
from ..nets.build import build
from ..seeds import stream
from ..specs import Backbone, Recipe, Source, Trial
from ..train.pack import Trainee
from ..train.predict import predict


def fresh(backbone: Backbone, sample: Sample, size: int, recipe: Recipe, seed: int, purpose: str) -> Trainee:
    """Return a network with random weights, ready to be trained."""
    net = build(backbone, size, sample.classes, stream(seed, f"{purpose} weights")).to(sample.labels.device)
    return Trainee(net, sample, recipe, stream(seed, f"{purpose} order"))


def prepare_source(source: Source, backbone: Backbone, seed: int, device: torch.device) -> Trainee:
    """Return the network that a source trains."""
    return fresh(backbone, source_sample(source, seed).to(device), source.size, source.recipe, seed, "source")


def prepare(trial: Trial, network: None, device: torch.device) -> Trainee:
    """Return a fresh network to train on the target."""
    sample = target_sample(trial.target, "train", trial.seed).to(device)
    return fresh(trial.backbone, sample, trial.target.size, trial.recipe, trial.seed, "target")


def measure(net: nn.Module, trial: Trial, losses: torch.Tensor, device: torch.device) -> dict[str, float]:
    """Return what a trained network reaches on the split that the trial reads, and its loss at the end of training."""
    read = target_sample(trial.target, trial.split, trial.seed).to(device)
    return accuracy(predict(net, read), read.labels) | trained(net, losses)


def trained(net: nn.Module, losses: torch.Tensor) -> dict[str, float]:
    """Return the loss at the end of training, and how many parameters the network has and how many of them were trained."""
    sizes = [(p.numel(), p.requires_grad) for p in net.parameters()]
    return {
        "train_loss": round(losses[-20:].mean().item(), 4),
        "parameters": sum(n for n, _ in sizes),
        "trained": sum(n for n, learns in sizes if learns),
    }
