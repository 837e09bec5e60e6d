"""Growing: add units to the source network and go on training on the target, under a new head (Wang et al.)."""

from dataclasses import dataclass
from typing import Any, ClassVar

from ..errors import check, choose
from ..seeds import stream
from ..specs import Method, Recipe, Trial
from ..specs.networks import GROWTH_NORMS, GROWTH_SCOPES
from ..specs.serial import above_zero, flags, positive
from ..specs.task import CLASSIFIED

NUMBERS = {"widen": 1, "widen-twice": 2, "deepen": 1, "widen-and-deepen": 2, "normalise": 0}
"""Ways to grow, each with how many numbers of units it takes; the last one is a control."""

LACKS = {"deepen": ("copy",), "normalise": ("norm", "copy")}
"""Options that a way to grow does not take."""


@dataclass(frozen=True)
class Grow(Method, kind="grow", version=1):
    """Add units to the source network, put a new head on it, and go on training on the target (Wang et al.).

    Parameters
    ----------
    recipe : Recipe
        With ``augment="none"`` and a scope that leaves the convolutions as they are, their activations are computed
        once.
    how : {"widen", "widen-twice", "deepen", "widen-and-deepen", "normalise"}
        As in `nets.grow`.
    units : tuple of int
        New units: beside FC7; beside FC6 and FC7; on top; beside FC7 and on top.
    norm : {"l2", "batch", "layer", "none"}, optional
        How old and new activations are normalised; by default ``l2``, as in the paper.
    scale : float, optional
        What the gains of ``l2`` start from; by default `nets.grow.SCALE`.
    copy : bool, optional
        New units are copies of old ones with noise, instead of random.
    spread : float, optional
        Standard deviation of the weights that new units beside FC7 start from, as a multiple of He's.
    scope : {"new", "fc7-new", "fc6-new"}, optional
        What is trained; by default everything.
    new_lr : float
        Learning rate of what is new, the head included, as a multiple of the backbone's.
    unit_lr : float, optional
        Another one for the new units, the head left out.
    """

    recipe: Recipe
    how: str
    units: tuple[int, ...] = ()
    norm: str | None = None
    scale: float | None = None
    copy: bool | None = None
    scope: str | None = None
    new_lr: float = 10.0
    unit_lr: float | None = None
    spread: float | None = None

    tasks: ClassVar[tuple[str, ...]] = CLASSIFIED

    def __post_init__(self) -> None:
        wanted = NUMBERS[choose("how", self.how, NUMBERS)]
        counted = isinstance(self.units, tuple) and len(self.units) == wanted
        check(counted, "units", self.units, f"{self.how} takes a tuple of {wanted}")
        for units in self.units:
            positive("units", units)
        if self.norm is not None and choose("norm", self.norm, GROWTH_NORMS) == "l2":
            object.__setattr__(self, "norm", None)
        above_zero(self, "scale", "new_lr", "unit_lr", "spread")
        flags(self, "copy")
        for name in LACKS.get(self.how, ()):
            check(getattr(self, name) is None, name, getattr(self, name), f"{self.how} takes none; leave it out")
        rule = f"is that of l2, not of norm {self.norm}; leave it out"
        check(not (self.scale and self.norm), "scale", self.scale, rule)
        if self.scope is not None and choose("scope", self.scope, GROWTH_SCOPES) == "all":
            object.__setattr__(self, "scope", None)
        spread = self.spread is None or (self.how == "widen" and not self.copy)
        check(spread, "spread", self.spread, "is that of random units beside FC7")

    @property
    def frozen(self) -> bool:
        return bool(self.scope)

    def prepare(self, trial: Trial, context: Any) -> Any:
        """Grow the source network, and freeze what is to stay."""
        from ..nets.grow import GROWTH_OPERATIONS, new_modules, train_only
        from ..train.run import Run, Stream

        sample = context.sample(trial.target, "train", trial.seed)
        options = {"norm": self.norm, "scale": self.scale, "init": self.copy and "copy", "spread": self.spread}
        options |= {"classes": sample.classes, "seed": stream(trial.seed, "head")}
        units = (self.units,) if len(self.units) > 1 else self.units
        chosen = {name: value for name, value in options.items() if value is not None}
        grown = GROWTH_OPERATIONS[self.how](context.network(trial), *units, **chosen)
        train_only(grown, self.scope or "all")
        added, head = new_modules(grown)
        rates = {added: self.unit_lr or self.new_lr, head: self.new_lr}
        order = stream(trial.seed, "target order")
        return Run(grown, (Stream(sample, order),), self.recipe, order, rates)
