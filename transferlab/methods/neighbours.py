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


def run(trial: Trial, network: nn.Module | None, device: torch.device) -> dict[str, float | int | list[int]]:
    """Look up each image of the trial's split among the target's training images.

    Parameters
    ----------
    network : Module or None
        The source's network; without one, a fresh one is read.

    Returns
    -------
    dict
        ``accuracy`` of the nearest image's class, ``accuracy_among`` for the nearest few; ``right`` and ``right_among``, the same
        as numbers of images of each class; ``n``.

    Raises
    ------
    UserError
        If the network has no such tap.
    """
    method = trial.method
    known, asked = (target_sample(trial.target, split, trial.seed).to(device) for split in ("train", trial.split))
    if network is None:
        network = build(trial.backbone, trial.target.size, asked.classes, stream(trial.seed, "target weights")).to(device)
    near, far = (F.normalize(features(network, sample, [method.tap])[method.tap]) for sample in (known, asked))
    nearest = torch.cat([(part @ near.T).topk(min(method.among, len(near)), 1).indices for part in far.split(BATCH)])
    hits = known.labels[nearest] == asked.labels[:, None]
    found = {}
    for name, hit in (("", hits[:, 0]), ("_among", hits.any(1))):
        found[f"accuracy{name}"] = round(hit.double().mean().item(), 5)
        found[f"right{name}"] = torch.bincount(asked.labels[hit], minlength=asked.classes).tolist()
    return found | {"n": len(asked.labels)}
