"""Linear probe: ridge regression on frozen features, all penalties from one eigendecomposition."""

import torch
from torch import nn

from ..data.images import target_sample
from ..measure.metrics import accuracy
from ..specs import Trial
from ..train.checkpoint import Checkpoint
from ..train.predict import features


def ridge(x: torch.Tensor, labels: torch.Tensor, classes: int, strengths: tuple[float, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Solve one-vs-all ridge regression on one-hot labels for every penalty at once.

    Parameters
    ----------
    x : Tensor, shape (N, D)
    labels : Tensor of int64, shape (N,)
    classes : int
    strengths : tuple of float, length S
        Penalties, as multiples of the mean eigenvalue of the covariance of `x`.

    Returns
    -------
    weights : Tensor of float64, shape (S, D, classes)
    biases : Tensor of float64, shape (S, classes)
    """
    x = x.double()
    y = nn.functional.one_hot(labels, classes).double()
    x_mean, y_mean = x.mean(0), y.mean(0)
    centred = x - x_mean
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(x))
    moment = vectors.T @ (centred.T @ (y - y_mean)) / len(x)  # (D, classes), in the eigenbasis
    penalties = torch.tensor(strengths, dtype=x.dtype, device=x.device) * values.mean().clamp_min(1e-12)
    shrunk = 1 / (values.clamp_min(0) + penalties[:, None])  # (S, D)
    weights = vectors @ (shrunk[:, :, None] * moment)
    return weights, y_mean - x_mean @ weights


def run(trial: Trial, network: nn.Module, device: torch.device, checkpoint: Checkpoint | None = None) -> dict[str, float]:
    """Fit the probe on training images, choose the penalty on validation images, and measure it."""
    tap, strengths = trial.method.tap, trial.method.strengths
    part = {s: target_sample(trial.target, s, trial.seed).to(device) for s in {"train", "validation", trial.split}}
    x = {s: features(network, sample, [tap])[tap].double() for s, sample in part.items()}
    weights, biases = ridge(x["train"], part["train"].labels, part["train"].classes, strengths)
    scores = [accuracy(x["validation"] @ w + b, part["validation"].labels)["accuracy"] for w, b in zip(weights, biases, strict=True)]
    best = max(range(len(strengths)), key=scores.__getitem__)
    found = accuracy(x[trial.split] @ weights[best] + biases[best], part[trial.split].labels)
    return found | {"strength": strengths[best]}
