"""What a method, a measure and a regulariser say about themselves. Nothing here imports torch.

Each is a frozen dataclass in a file of its own, in ``methods`` or ``measure``, whose functions import what they compute
with when they are called.
"""

from dataclasses import replace
from typing import Any, ClassVar

from .artefacts import FORWARD_SHARE, PACE, Artefact
from .serial import OneOf, Spec, cell
from .task import ForTasks

IMAGES_READ = 5000  # images that measuring a trial reads, roughly


class Method(ForTasks):
    """What is done on the target.

    A method has exactly one of ``prepare(trial, context) -> Run``, which is trained and then measured, and
    ``evaluate(trial, context)
    -> dict`` of numbers (or lists) by name. What is on record of both are the task's `score` (``accuracy``) on the test
    split, and under ``validation_...``. `tasks` are the kinds of task that it can do.
    """

    starts: ClassVar[bool | None] = True  # whether it needs a source; None: it may have one
    # whether it asks a source's head, so of its own images: test ones, only these are new
    own_task: ClassVar[bool] = False
    any_size: ClassVar[bool] = False  # whether a source may have images of another size than an AlexNet's target
    packable: ClassVar[bool] = True  # whether trials of one shape may train together

    @property
    def frozen(self) -> bool:
        """Whether the first layers stay as they are; without augmentation their activations are computed once."""
        return False

    def fits(self, trial: Any) -> None:
        """Check that a trial has what this needs of it; fields may still be open.

        Raises
        ------
        UserError
            If it has not.
        """

    def reads(self, trial: Any) -> tuple[Any, ...]:
        """Return what is read beside the trial's own images: specs with ``images`` and ``size``."""
        return ()

    def needs(self, trial: Any) -> tuple[Artefact, ...]:
        """Return what must be there before a trial is run: the network that it starts from."""
        return (start,) if (start := trial.start) else ()

    def cost(self, trial: Any) -> float:
        """Return about how many seconds one core works for a trial."""
        images = trial.recipe.images if trial.recipe and not (self.frozen and trial.recipe.augment == "none") else 0
        return trial.backbone.multiply_adds(trial.target.size) / PACE * (images + IMAGES_READ * FORWARD_SHARE)

    @property
    def shape(self) -> str:
        """What methods have in common whose trials can train together: all but rate, decay and momentum."""
        return replace(self, recipe=self.recipe.shape).canonical if hasattr(self, "recipe") else self.canonical

    def columns(self) -> dict[str, object]:
        """Return what was chosen beside the recipe, by name, the fields of a spec each in a column."""
        given = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "recipe"}
        for name, value in list(given.items()):
            if isinstance(value, Spec) and not isinstance(value, OneOf):
                given |= {f"{name}_{n}": getattr(value, n) for n in value.__dataclass_fields__}
        return {name: cell(value) for name, value in given.items()}


class Measure(ForTasks):
    """What is looked at besides accuracy: it is no part of what is trained.

    Its property `columns` has the names under which it puts something on record; `asks_source` says whether it looks at
    the source's images.
    ``watch(trial, run, context)`` may return a watcher, which looks while a network is trained; ``measure(trial, net,
    context)`` looks at the network that training left. Both give numbers (or lists) for the record.
    """

    columns: ClassVar[tuple[str, ...]] = ()
    asks_source: ClassVar[bool] = False

    def fits(self, trial: Any) -> None:
        """Check that a trial has what this looks at.

        Raises
        ------
        UserError
            If it has not.
        """

    def watch(self, trial: Any, run: Any, context: Any) -> Any:
        """Return what looks at the network while it is trained, if anything does."""
        return None

    def measure(self, trial: Any, net: Any, context: Any) -> dict[str, Any]:
        """Return what the trained network shows."""
        return {}


class Regulariser(ForTasks):
    """What holds a network near to where it started.

    ``objective(net, before, sample)`` returns the training's objective, with the pull in it: of a network with its new
    head, which may get a second one, from the network before and the images that it is trained on.
    """
