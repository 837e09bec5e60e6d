"""Nearest neighbours in frozen features: which classes the network keeps apart, without training anything."""

from dataclasses import dataclass
from typing import Any, ClassVar

from ..seeds import stream
from ..specs import Artefact, Method, Trial
from ..specs.serial import positive


@dataclass(frozen=True)
class KNN(Method, kind="knn", version=1):
    """No training: an image gets the class of the training image that is nearest in frozen features, by cosine.

    What it measures, the share of right classes, is the induction accuracy of Huh et al. (sec. 5.3) where the classes
    are finer than those that the source told apart. Without a source the network is an untrained one, for comparison.

    Parameters
    ----------
    tap : str
        The layer that is read.
    among : int
        A second accuracy counts an image as right if its class is among those of its nearest so many.
    """

    tap: str = "fc7"
    among: int = 5

    starts: ClassVar[None] = None

    def __post_init__(self) -> None:
        positive("among", self.among)

    def needs(self, trial: Trial) -> tuple[Artefact, ...]:
        return trial.features()

    def evaluate(self, trial: Trial, context: Any) -> dict[str, Any]:
        """Look up the target's test and validation images among its training images.

        Returns
        -------
        dict
            ``accuracy`` of the nearest image's class, ``accuracy_among`` for the nearest few; the same as numbers of
            images of each class, ``right`` and ``right_among``; ``n`` images. The same of the validation images.

        Raises
        ------
        UserError
            If the network has no such tap.
        """
        import torch
        from torch.nn import functional as F

        from ..train.read import BATCH, read

        part = {s: context.sample(trial.target, s, trial.seed) for s in ("train", "validation", "test")}
        if trial.source:
            x = {s: F.normalize(context.features(trial, sample, self.tap)) for s, sample in part.items()}
        else:
            weights = stream(trial.seed, "target weights")
            net = context.fresh(trial.backbone, trial.target.size, part["train"].classes, weights)
            x = {s: F.normalize(read(net, sample, [self.tap])[self.tap]) for s, sample in part.items()}
        found: dict[str, Any] = {}
        for split, before in (("test", ""), ("validation", "validation_")):
            some, asked = min(self.among, len(x["train"])), part[split]
            near = [(rows @ x["train"].T).topk(some, 1).indices for rows in x[split].split(BATCH)]
            hits = part["train"].labels[torch.cat(near)] == asked.labels[:, None]
            found[f"{before}n"] = len(asked.labels)
            for name, hit in (("", hits[:, 0]), ("_among", hits.any(1))):
                found[f"{before}accuracy{name}"] = round(hit.double().mean().item(), 5)
                found[f"{before}right{name}"] = torch.bincount(asked.labels[hit], minlength=asked.classes).tolist()
            counts = torch.bincount(asked.labels, minlength=asked.classes)
            share = torch.tensor(found[f"{before}right"]).double() / counts.cpu()
            found[f"{before}mean_class_accuracy"] = round(share[counts.cpu() > 0].mean().item(), 5)
        return found
