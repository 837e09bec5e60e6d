"""What is asked of an image: which of its one label, several labels or boxes. Nothing here imports torch."""

from dataclasses import dataclass
from typing import Any, ClassVar

from ..errors import check
from .serial import Spec


class Task(Spec):
    """What a target asks of a network: its labels, and by which number answers are compared.

    Labels are those of `data.images.Sample`; losses go by them.
    """

    score: ClassVar[str] = "accuracy"  # the column that a search compares, under validation_..., and every record has
    labels: ClassVar[str] = "class"  # or of whole images: the "classes" of its objects, or their "boxes"
    # the module of `measure` whose function `scored(net, sample) -> dict` says how good a network is
    scored_by: ClassVar[str] = "metrics"

    @property
    def chosen_by(self) -> str:
        """The column that a search asks for."""
        return f"validation_{self.score}"


@dataclass(frozen=True)
class SingleLabel(Task, kind="single-label"):
    """One label an image; of a set that has objects, each one's box is an image. A target without a task has this."""


@dataclass(frozen=True)
class MultiLabel(Task, kind="multi-label"):
    """Which classes have an object in an image; of those that are there as difficult ones only nothing is asked."""

    score: ClassVar[str] = "mean_ap"
    labels: ClassVar[str] = "classes"


@dataclass(frozen=True)
class Detection(Task, kind="detection"):
    """Where objects of which class are."""

    score: ClassVar[str] = "ap50"
    labels: ClassVar[str] = "boxes"
    scored_by: ClassVar[str] = "detection"


SINGLE_LABEL = SingleLabel()
CLASSIFIED = (SingleLabel.kind, MultiLabel.kind)  # what a classifier answers: one logit a class


class ForTasks(Spec):
    """What goes with targets of some kinds of task."""

    tasks: ClassVar[tuple[str, ...]] = (SingleLabel.kind,)

    def takes(self, target: Any) -> None:
        """Check that a target's task is one of `tasks`.

        Raises
        ------
        UserError
            If it is another one.
        """
        task = target.asks.kind
        check(task in self.tasks, "task", task, f"{self.kind} takes {' and '.join(self.tasks)} targets only")
