"""What a network reaches on the images that it was trained on: whether it overfits."""

from dataclasses import dataclass
from typing import Any, ClassVar

from ..specs import Measure, Trial


@dataclass(frozen=True)
class TrainAccuracy(Measure, kind="train-accuracy", version=1):
    """``train_accuracy`` and ``train_log_loss``: of the target's training images, not augmented."""

    columns: ClassVar[tuple[str, ...]] = ("train_accuracy", "train_log_loss")

    def measure(self, trial: Trial, net: Any, context: Any) -> dict[str, Any]:
        from .metrics import scores_of

        return {name: v for name, v in scores_of(net, trial, context, ("train",)).items() if name in self.columns}
