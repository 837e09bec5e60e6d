"""Numbers that say how good predictions are. They are computed in float64 on the CPU, which every machine has."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ..errors import check
from ..train.read import predict


def scores(logits: torch.Tensor, labels: torch.Tensor) -> dict[str, float | int]:
    """Return the share of right answers, over images and averaged over classes, and what the answers cost.

    Parameters
    ----------
    logits : Tensor, shape (N, classes)
    labels : Tensor of int64, shape (N,)

    Returns
    -------
    dict
        ``accuracy``, ``mean_class_accuracy`` (over the classes that occur), ``log_loss`` (mean cross-entropy, in nats)
        and ``n``, the number of images.

    Raises
    ------
    UserError
        If there are no images.
    """
    check(len(labels) > 0, "images", 0, "there are none to be right or wrong about")
    logits, labels = logits.cpu().double(), labels.cpu()
    right = (logits.argmax(1) == labels).double()
    counts = torch.bincount(labels, minlength=logits.shape[1]).double()
    hits = torch.bincount(labels, weights=right, minlength=logits.shape[1])
    found = {"accuracy": right.mean(), "mean_class_accuracy": (hits / counts)[counts > 0].mean()}
    found["log_loss"] = F.cross_entropy(logits, labels)
    return {name: round(value.item(), 5) for name, value in found.items()} | {"n": len(labels)}


def scores_of(net: nn.Module, trial: Any, context: Any, splits: Iterable[str] = ("test", "validation")) -> dict:
    """Return what a network reaches on a trial's test images, and under ``validation_...`` on its validation images."""
    found: dict[str, Any] = {}
    for split in splits:
        sample = context.sample(trial.target, split, trial.seed)
        measured = scores(predict(net, sample), sample.labels)
        found |= measured if split == "test" else {f"{split}_{name}": value for name, value in measured.items()}
    return found
