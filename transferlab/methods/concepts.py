"""What a network knows of the concepts above the classes it was taught: nothing is trained."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ..data.images import load, target_sample
from ..data.subsets import relabel
from ..errors import check
from ..seeds import stream
from ..specs import Trial
from ..train.predict import features, predict


def run(trial: Trial, network: nn.Module, device: torch.device) -> dict[str, float | int | list]:
    """Measure every inner node of the target's class tree, and a random group of as many classes beside it.

    Of a group of classes: the share of its images that get a label inside the group (coarse accuracy), the share that get their
    own (fine accuracy), and how much alike the group's members look: the mean cosine between the mean features of its classes.

    Returns
    -------
    dict
        ``accuracy`` and ``n``; ``groups``, one list a node with two classes below it or more, but not all: the node, its number of
        classes, coarse accuracy, fine accuracy and likeness, then the same three of the random group.

    Raises
    ------
    UserError
        If the target has no class tree, or the network has no such tap.
    """
    target = trial.target
    data = load(target.images, target.size)
    check(data.tree is not None, "target", target.label, "has no class tree")
    sample = target_sample(target, trial.split, trial.seed).to(device)
    classes = relabel(data.classes, target.subset, trial.seed, data.tree).names
    predicted = predict(network, sample).argmax(1)
    confusion = torch.zeros(len(classes), len(classes), dtype=torch.float64, device=device)
    confusion.index_put_((sample.labels, predicted), torch.ones(1, dtype=torch.float64, device=device), accumulate=True)
    confusion = (confusion / confusion.sum(1, keepdim=True)).cpu()
    means = F.one_hot(sample.labels, len(classes)).float().T @ F.normalize(features(network, sample, [trial.method.tap])[trial.method.tap])
    likeness = (F.normalize(means) @ F.normalize(means).T).double().cpu()

    def measured(group: list[int]) -> list[float]:
        size = len(group)
        within = likeness[group][:, group]
        alike = (within.sum() - within.trace()) / (size * (size - 1))
        coarse, fine = confusion[group][:, group].sum(1).mean(), confusion[group, group].mean()
        return [round(v.item(), 4) for v in (coarse, fine, alike)]

    draw = np.random.default_rng(stream(trial.seed, "groups"))
    place = {name: i for i, name in enumerate(classes)}
    groups = []
    for node in sorted(data.tree.parent):
        group = sorted(place[c] for c in data.tree.under(node) if c in place)
        if 1 < len(group) < len(classes):
            other = sorted(draw.choice(len(classes), len(group), replace=False).tolist())
            groups.append([node, len(group), *measured(group), *measured(other)])
    return {"accuracy": round((predicted == sample.labels).double().mean().item(), 5), "n": len(sample.labels), "groups": groups}
