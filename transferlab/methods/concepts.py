"""What a network knows of the concepts above the classes it was taught: nothing is trained."""

from dataclasses import dataclass
from typing import Any, ClassVar

from ..errors import check
from ..seeds import stream
from ..specs import Method, Trial


@dataclass(frozen=True)
class Concepts(Method, kind="concepts", version=1):
    """No transfer: how well a source network knows the nodes above the classes it was taught (Huh et al., sec. 5.4).

    Parameters
    ----------
    tap : str
        The layer in which the likeness of classes is read.
    """

    tap: str = "fc7"

    own_task: ClassVar[bool] = True

    def evaluate(self, trial: Trial, context: Any) -> dict[str, Any]:
        """Measure every inner node of the target's class tree, and a random group of as many classes beside it.

        Of a group of classes: the share of its images that get a label inside the group (coarse accuracy), the share
        that get their own (fine accuracy), and how much alike the group's members look: the mean cosine between the
        mean features of its classes.

        Returns
        -------
        dict
            ``accuracy`` and the like; ``groups``, one list a node with two classes below it or more, but not all: the
            node, its number of classes, coarse accuracy, fine accuracy and likeness, then the same three of the random
            group.

        Raises
        ------
        UserError
            If the target has no class tree, or the network has no such tap.
        """
        import numpy as np
        import torch
        from torch.nn import functional as F

        from ..data.images import load
        from ..data.subsets import relabel
        from ..measure.metrics import scores_of
        from ..train.read import predict, read

        target, net = trial.target, context.network(trial)
        data = load(target.images, target.size)
        check(data.tree is not None, "target", target.label, "has no class tree")
        sample = context.sample(target, "test", trial.seed)
        classes = relabel(data.classes, target.subset, trial.seed, data.tree).names
        pairs = (sample.labels * len(classes) + predict(net, sample).argmax(1)).cpu()
        confusion = torch.bincount(pairs, minlength=len(classes) ** 2).view(len(classes), -1).double()
        confusion = confusion / confusion.sum(1, keepdim=True)
        features = F.normalize(read(net, sample, [self.tap])[self.tap])
        means = F.normalize(F.one_hot(sample.labels, len(classes)).float().T @ features)
        likeness = (means @ means.T).cpu().double()

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
        return scores_of(net, trial, context, ("test",)) | {"groups": groups}
