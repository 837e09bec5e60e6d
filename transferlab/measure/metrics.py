"""Numbers that say how good predictions are."""

import torch


def accuracy(logits: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """Return the share of right answers, over images and averaged over classes.

    Parameters
    ----------
    logits : Tensor, shape (N, classes)
    labels : Tensor of int64, shape (N,)

    Returns
    -------
    dict
        ``accuracy``, ``mean_class_accuracy`` (over the classes that occur) and ``n``, the number of images.
    """
    right = (logits.argmax(1) == labels).double()
    counts = torch.bincount(labels, minlength=logits.shape[1]).double()
    hits = torch.bincount(labels, weights=right, minlength=logits.shape[1])
    seen = counts > 0
    return {
        "accuracy": round(right.mean().item(), 5),
        "mean_class_accuracy": round((hits[seen] / counts[seen]).mean().item(), 5),
        "n": len(labels),
    }
