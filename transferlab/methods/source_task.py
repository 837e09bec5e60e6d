"""No transfer: a source network with its own head on held-out images of the source."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from ..specs import Method, Trial


@dataclass(frozen=True)
class SourceTask(Method, kind="source-task", version=1):
    """No transfer: the source network with its own head, on held-out images of the source.

    Only on its test images: it was trained on all others.
    """

    own_task: ClassVar[bool] = True

    def evaluate(self, trial: Trial, context: Any) -> dict[str, Any]:
        """Return how good the network is at its own task, in grey if it was trained so, and how it was trained."""
        from ..measure.metrics import scores
        from ..train.read import predict

        sample = context.sample(trial.target, "test", trial.seed)
        sample = replace(sample, grey=bool(getattr(trial.source, "grey", None)))
        return scores(predict(context.network(trial), sample), sample.labels) | context.about(trial.start)
