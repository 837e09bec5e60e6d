"""Linear probe: a linear classifier on frozen features, its penalty chosen on validation images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from ..data.images import target_sample
from ..measure.metrics import accuracy
from ..specs import Trial
from ..train.predict import features
from .feature_cache import FeatureCache
from .solvers import logistic, ridge, squared_hinge


def run(
    trial: Trial,
    network: nn.Module | Callable[[], nn.Module],
    device: torch.device,
    cache: FeatureCache | None = None,
) -> dict[str, float]:
    """Fit the probe on training images, choose the penalty on validation images, and measure it.

    Parameters
    ----------
    network : Module or callable
        The source's network, or what loads it, which is called only if features are missing.
    cache : FeatureCache, optional
        Where trials share features; without it the trial's own images are read.
    """
    tap, strengths = trial.method.tap, trial.method.strengths
    part = {s: target_sample(trial.target, s, trial.seed) for s in {"train", "validation", trial.split}}
    if cache:
        load = (lambda: network) if isinstance(network, nn.Module) else network
        x = {s: cache.read(trial, sample, tap, load, device) for s, sample in part.items()}
    else:
        network = network if isinstance(network, nn.Module) else network()
        x = {s: features(network, sample.to(device), [tap])[tap] for s, sample in part.items()}
    labels = {s: sample.labels.to(device) for s, sample in part.items()}

    solve = {"logistic": logistic, "squared-hinge": squared_hinge}.get(trial.method.solver, ridge)
    weights, biases = solve(x["train"], labels["train"], part["train"].classes, strengths)
    x = {s: value.to(weights.dtype) for s, value in x.items()}
    scores = [accuracy(x["validation"] @ w + b, labels["validation"])["accuracy"] for w, b in zip(weights, biases, strict=True)]
    best = max(range(len(strengths)), key=scores.__getitem__)
    return accuracy(x[trial.split] @ weights[best] + biases[best], labels[trial.split]) | {"strength": strengths[best]}
