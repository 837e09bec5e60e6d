"""Numbers that say how good predictions are. They are computed in float64 on the CPU, which every machine has."""

from collections.abc import Iterable
from importlib import import_module
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ..data.images import Sample
from ..errors import check
from ..train.read import predict
from .ranking import ranking_scores


def scores(logits: torch.Tensor, labels: torch.Tensor) -> dict[str, float | int]:
    """Return the share of right answers, over images and averaged over classes, and what the answers cost.

    Parameters
    ----------
    logits : Tensor, shape (N, classes)
    labels : Tensor of int64, shape (N,)
        Or of float, shape (N, classes): then it is `ranking.ranking_scores`.

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
    if labels.is_floating_point():
        return ranking_scores(logits, labels)
    logits, labels = logits.cpu().double(), labels.cpu()
    right = (logits.argmax(1) == labels).double()
    counts = torch.bincount(labels, minlength=logits.shape[1]).double()
    hits = torch.bincount(labels, weights=right, minlength=logits.shape[1])
    found = {"accuracy": right.mean(), "mean_class_accuracy": (hits / counts)[counts > 0].mean()}
    found["log_loss"] = F.cross_entropy(logits, labels)
    return {name: round(value.item(), 5) for name, value in found.items()} | {"n": len(labels)}


def scored(net: nn.Module, sample: Sample) -> dict:
    """Return how good a network's logits of a sample are."""
    return scores(predict(net, sample), sample.labels)


def scores_of(net: nn.Module, trial: Any, context: Any, splits: Iterable[str] = ("test", "validation")) -> dict:
    """Return what a network reaches on a trial's test images, and under ``validation_...`` on its validation images, as
    the target's task scores it.
    """
    judge = import_module(f".{trial.target.asks.scored_by}", __package__).scored
    found: dict[str, Any] = {}
    for split in splits:
        sample = context.sample(trial.target, split, trial.seed)
        measured = judge(net, sample)
        found |= measured if split == "test" else {f"{split}_{name}": value for name, value in measured.items()}
    return found
