"""Whether fine-tuning left the valley in which it began: the loss on the straight line between the two networks."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from ..errors import check
from ..seeds import stream
from ..specs import Measure, Trial


@dataclass(frozen=True)
class Barrier(Measure, kind="barrier", version=1):
    """The loss on the straight line between the network where a chain's last trial starts and the one that it leaves.

    It is for a trial that goes on with all of another one's network, such as fine-tuning after the head was trained
    alone. At each place of ``path_at``, from 0 to 1, weights are mixed and BatchNorm's statistics are estimated anew
    on the training images, at the ends too. ``path_losses`` (mean cross-entropy in nats) and ``path_accuracies`` are
    on the target's test images. ``barrier``: by how much the loss exceeds the line between its two ends, at most;
    ``barrier_accuracy``: by how much the accuracy falls short of its own, at most (Frankle, Dziugaite, Roy and Carbin
    2020, sec. 2).

    Parameters
    ----------
    points : int
        On the line, the ends included.
    """

    points: int = 11

    columns: ClassVar[tuple[str, ...]] = (
        *("path_at", "path_losses", "path_accuracies", "barrier", "barrier_accuracy"),
    )

    def __post_init__(self) -> None:
        check(self.points > 1, "points", self.points, "must be 2 or more, the ends included")

    def fits(self, trial: Trial) -> None:
        check(
            trial.before, "measure", self.kind, "asks for a chain: the line begins at the network of the trial before"
        )

    def watch(self, trial: Trial, run: Any, context: Any) -> None:
        """Refuse what does not begin at the network of the trial before, with its head, before it is trained."""
        before, now = context.network(trial).state_dict(), run.trained.state_dict()
        same = before.keys() == now.keys() and all(v.shape == now[n].shape for n, v in before.items())
        same = same and all(bool((v == now[n]).all()) for n, v in before.items())
        check(same, "measure", self.kind, "wants a training that goes on with the head of the trial before")

    def measure(self, trial: Trial, net: Any, context: Any) -> dict[str, Any]:
        train, test = (context.sample(trial.target, split, trial.seed) for split in ("train", "test"))
        return on_the_line(context.network(trial), net, train, test, self.points, stream(trial.seed, "barrier"))


def on_the_line(before: Any, after: Any, train: Any, test: Any, points: int, seed: int) -> dict[str, Any]:
    """Return what `Barrier` puts on record of two networks.

    Parameters
    ----------
    before, after : Module
        Of one shape. Both stay as they are.
    train, test : Sample
    points : int
    seed : int
        Of the order in which training images give BatchNorm its statistics.
    """
    import copy

    import torch

    from ..train.read import predict
    from .metrics import scores

    order = torch.randperm(len(train.rows), generator=torch.Generator().manual_seed(seed)).to(train.rows.device)
    train = replace(train, rows=train.rows[order], labels=train.labels[order])
    mixed, ends = copy.deepcopy(before), (before.state_dict(), after.state_dict())
    places, found = [i / (points - 1) for i in range(points)], []
    for at in places:
        mixed.load_state_dict(
            {n: torch.lerp(v, ends[1][n], at) if v.is_floating_point() else v for n, v in ends[0].items()}
        )
        estimate_statistics(mixed, train)
        found.append(scores(predict(mixed, test), test.labels))
    losses, accuracies = ([each[name] for each in found] for name in ("log_loss", "accuracy"))
    above = lambda values: max(v - (1 - at) * values[0] - at * values[-1] for at, v in zip(places, values, strict=True))  # noqa: E731
    heights = round(above(losses), 5), round(above([-accuracy for accuracy in accuracies]), 5)
    return dict(zip(Barrier.columns, (places, losses, accuracies, *heights), strict=True))


def estimate_statistics(net: Any, sample: Any) -> None:
    """Set BatchNorm's running statistics to the means over batches of a sample in random order, in place."""
    import torch
    from torch.nn.modules.batchnorm import _BatchNorm

    from ..train.read import batches

    norms = [(module, module.momentum) for module in net.modules() if isinstance(module, _BatchNorm)]
    for module, _ in norms:
        module.reset_running_stats()
        module.momentum = None  # a plain mean
    with torch.no_grad():
        for images in batches(net, sample) if norms else ():
            for module, _ in norms:
                module.train()
            net(images)
    for module, momentum in norms:
        module.momentum = momentum
