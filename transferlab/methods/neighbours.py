"""Nearest neighbours in frozen features: which classes the network keeps apart, without training anything."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ..data.images import target_sample
from ..nets.build import build
from ..seeds import stream
from ..specs import Trial
from ..train.predict import BATCH, features


def run(trial: Trial, network: nn.Module | None, device: torch.device) -> dict:
    """Look up each image of the trial's split among the target's training images.

    Parameters
    ----------
    network : Module or None
        The source's network; without one, a fresh one is read.

    Returns
    -------
    dict
        ``accuracy`` of the nearest image's class, ``accuracy_among`` for the nearest few; the same as
        numbers of images of each class, ``right`` and ``right_among``; ``n`` images.

    Raises
    ------
    UserError
        If the network has no such tap.
    """
    among, tap = trial.method.among, trial.method.tap
    known = target_sample(trial.target, "train", trial.seed).to(device)
    asked = target_sample(trial.target, trial.split, trial.seed).to(device)
    if network is None:
        weights = stream(trial.seed, "target weights")
        network = build(trial.backbone, trial.target.size, asked.classes, weights).to(device)
    near = F.normalize(features(network, known, [tap])[tap])
    far = F.normalize(features(network, asked, [tap])[tap])
    some = min(among, len(near))
    nearest = torch.cat([(part @ near.T).topk(some, 1).indices for part in far.split(BATCH)])
    hits = known.labels[nearest] == asked.labels[:, None]
    found = {"n": len(asked.labels)}
    for name, hit in (("", hits[:, 0]), ("_among", hits.any(1))):
        found[f"accuracy{name}"] = round(hit.double().mean().item(), 5)
        right = torch.bincount(asked.labels[hit], minlength=asked.classes)
        found[f"right{name}"] = right.tolist()
    return found
