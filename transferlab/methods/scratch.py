"""Training from scratch on the target, for comparison."""

from dataclasses import dataclass
from typing import Any, ClassVar

from ..seeds import stream
from ..specs import Method, Recipe, Trial
from ..specs.task import CLASSIFIED


@dataclass(frozen=True)
class Scratch(Method, kind="scratch", version=1):
    """Train a fresh network on the target."""

    recipe: Recipe

    starts: ClassVar[bool] = False
    tasks: ClassVar[tuple[str, ...]] = CLASSIFIED

    def prepare(self, trial: Trial, context: Any) -> Any:
        """Return the training of a network with random weights."""
        from ..train.run import Run, Stream

        sample = context.sample(trial.target, "train", trial.seed)
        net = context.fresh(trial.backbone, trial.target.size, sample.classes, stream(trial.seed, "target weights"))
        order = stream(trial.seed, "target order")
        return Run(net, (Stream(sample, order),), self.recipe, order)
