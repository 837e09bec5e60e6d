"""How well images are ranked for each class, where an image may be of several. In float64 on the CPU, as `metrics`."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import check

RECALLS = 11  # at which PASCAL VOC 2007 reads precision: 0, 0.1 ... 1


def precision_recall(answers: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Return precision and recall at every threshold, the strictest first.

    Equal answers share a threshold, so their order does not matter.

    Parameters
    ----------
    answers : Tensor, shape (N,)
        The larger, the surer.
    right : Tensor of bool, shape (N,)
        Some are true.
    """
    answers, order = answers.sort(descending=True)
    last = torch.cat([answers.diff() != 0, torch.ones(1, dtype=torch.bool)])
    hits = right[order].double().cumsum(0)[last]
    return hits / (last.nonzero().flatten() + 1), hits / hits[-1]


def average_precision(answers: Tensor, right: Tensor, recalls: int | None = None) -> float:
    """Return the area under the interpolated precision-recall curve: at each recall the best precision at that or a
    higher one (PASCAL VOC since 2010); or the mean of its heights at so many even `recalls`, 11 as in VOC2007.

    Parameters
    ----------
    answers, right
        As in `precision_recall`.
    recalls : int, optional
    """
    precision, recall = precision_recall(answers, right)
    best = precision.flip(0).cummax(0).values.flip(0)
    if recalls is None:
        return (best * recall.diff(prepend=recall.new_zeros(1))).sum().item()
    at = torch.searchsorted(recall, torch.arange(recalls).double() / (recalls - 1) - 1e-9)
    return best[at].mean().item()


def ranking_scores(logits: Tensor, labels: Tensor) -> dict[str, float | int | list[float | None]]:
    """Return how well images are ranked for classes, the mean over those that some image is of.

    Parameters
    ----------
    logits : Tensor, shape (N, classes)
    labels : Tensor of float, shape (N, classes)
        1, 0, or NaN where nothing is asked: such images are left out for that class.

    Returns
    -------
    dict
        ``mean_ap`` and ``mean_ap_11``, see `average_precision`; ``average_precisions`` of each class, ``None`` where no
        image is of it; ``classes_absent``, how many these are; ``log_loss``, the mean binary cross-entropy in nats; and
        ``n``, the number of images.

    Raises
    ------
    UserError
        If there are no images, or none is of any class.
    """
    check(bool((labels == 1).any()), "images", len(labels), "none is of any class: there is nothing to be right about")
    logits, labels = logits.cpu().double(), labels.cpu().double()
    asked = ~labels.isnan()
    pairs = [(logits[k, c], labels[k, c] == 1) for c, k in enumerate(asked.T)]
    area, eleven = (
        [average_precision(*of, recalls) if of[1].any() else None for of in pairs] for recalls in (None, RECALLS)
    )
    there = [c for c, value in enumerate(area) if value is not None]
    found = {
        name: sum(each[c] for c in there) / len(there) for name, each in (("mean_ap", area), ("mean_ap_11", eleven))
    }
    found["log_loss"] = F.binary_cross_entropy_with_logits(logits[asked], labels[asked]).item()
    found = {name: round(value, 5) for name, value in found.items()}
    each = [None if value is None else round(value, 5) for value in area]
    return found | {"average_precisions": each, "classes_absent": len(area) - len(there), "n": len(labels)}
