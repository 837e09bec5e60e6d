"""Fine-tuning: go on training the source network on the target, under a new head."""

from dataclasses import dataclass
from typing import Any

from ..errors import choose
from ..seeds import stream
from ..specs import Method, Recipe, Regulariser, Trial
from ..specs.serial import above_zero


@dataclass(frozen=True)
class FineTune(Method, kind="fine-tune", version=1):
    """Go on training the source network on the target, under a new head.

    Parameters
    ----------
    recipe : Recipe
    head_lr : float
        Learning rate of the new head as a multiple of the backbone's.
    freeze : str, optional
        The last layer that is kept as it is; everything before it is kept too.
    hold : Regulariser, optional
        What pulls the network towards where it started.
    batch_norm : {"statistics", "frozen"}, optional
        BatchNorm keeps and uses the source's statistics; and its affine parameters too. By default both are trained.
    """

    recipe: Recipe
    head_lr: float = 3.0
    freeze: str | None = None
    hold: Regulariser | None = None
    batch_norm: str | None = None

    def __post_init__(self) -> None:
        above_zero(self, "head_lr")
        if self.batch_norm is not None:
            choose("batch_norm", self.batch_norm, ("statistics", "frozen"))

    @property
    def frozen(self) -> bool:
        return bool(self.freeze)

    def prepare(self, trial: Trial, context: Any) -> Any:
        """Put a new head on the source network, and freeze what is to stay."""
        from ..nets.build import new_head
        from ..nets.taps import batch_norm, freeze
        from ..train.objectives import CrossEntropy
        from ..train.run import Run, Stream

        sample, net = context.sample(trial.target, "train", trial.seed), context.network(trial)
        if self.freeze:
            freeze(net, self.freeze)
        if self.batch_norm:
            batch_norm(net, self.batch_norm)
        head = new_head(net, sample.classes, stream(trial.seed, "head"))
        objective = self.hold.objective(net, context.network(trial), sample) if self.hold else CrossEntropy()
        order = stream(trial.seed, "target order")
        return Run(net, (Stream(sample, order),), self.recipe, order, {head: self.head_lr}, objective)
