"""How a network is trained: the recipe, all that the loop can be told. This module imports no torch."""

from dataclasses import dataclass, replace

from ..errors import check, choose
from .serial import OneOf, Spec, each, positive


@dataclass(frozen=True)
class Recipe(Spec, kind="recipe"):
    """How a network is trained, in full: the loop has no other setting.

    Parameters
    ----------
    steps, batch : int
        Number of steps, images per step.
    lr : float or OneOf
        Peak learning rate of the backbone; parts of a network may learn at a multiple of it. `OneOf` several it is
        searched (`Trial.searches`).
    schedule : {"cosine", "step"}
        After a linear warm-up over the first `warmup` of the steps: half a cosine to zero, or a division by ten at
        each of `milestones`.
    milestones : tuple of float, optional
        Shares of the steps, for ``step``.
    momentum, weight_decay : float
        Nesterov momentum; decay of weights (never of biases and normalisation parameters).
    label_smoothing : float
    augment : {"crop-flip", "none"}
        Each image its own shift by up to an eighth of the side (edges repeated) and its own mirror image.
    precision : {"float32", "bf16"}
        bf16 runs the forward pass under autocast; weights stay float32.
    """

    steps: int
    batch: int
    lr: float | OneOf
    schedule: str = "cosine"
    warmup: float = 0.2
    milestones: tuple[float, ...] | None = None
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    augment: str = "crop-flip"
    precision: str = "float32"

    def __post_init__(self) -> None:
        positive("steps", self.steps)
        positive("batch", self.batch)
        fits = isinstance(self.lr, float) and 0 < self.lr < 100
        check(fits, "lr", self.lr, "must be a float between 0 and 100")
        choose("schedule", self.schedule, ("cosine", "step"))
        choose("augment", self.augment, ("crop-flip", "none"))
        choose("precision", self.precision, ("float32", "bf16"))
        for name in ("warmup", "momentum", "label_smoothing"):
            check(0 <= getattr(self, name) < 1, name, getattr(self, name), "must be at least 0 and below 1")
        check(self.weight_decay >= 0, "weight_decay", self.weight_decay, "must not be negative")
        proper = (self.milestones is None) == (self.schedule == "cosine")
        check(proper, "milestones", self.milestones, "belong to the step schedule")

    @property
    def rates(self) -> tuple[float, ...]:
        """The learning rates among which a search chooses; a single one is no search."""
        return each(self.lr)

    @property
    def shape(self) -> "Recipe":
        """What runs have in common that can go on together: all but rate, decay and momentum."""
        return replace(self, lr=1.0, weight_decay=0.0, momentum=0.0)

    @property
    def images(self) -> int:
        """Images that one run reads, repeats counted."""
        return self.steps * self.batch
