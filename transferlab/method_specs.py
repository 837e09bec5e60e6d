"""What is done on the target, as frozen dataclasses. Nothing here imports torch."""

from dataclasses import dataclass

from .errors import check, choose
from .recipes import Recipe
from .serial import Spec, above_zero, flags, positive


@dataclass(frozen=True)
class SourceTask(Spec, kind="source-task", version=1):
    """No transfer: the source network with its own head, on held-out images of the source."""


@dataclass(frozen=True)
class Scratch(Spec, kind="scratch", version=1):
    """Train a fresh network on the target."""

    recipe: Recipe


@dataclass(frozen=True)
class Probe(Spec, kind="probe", version=1):
    """A linear classifier on frozen features.

    Parameters
    ----------
    tap : str
        The layer that is read.
    strengths : tuple of float
        Penalties, relative to the mean eigenvalue of the features' covariance; the best on validation is kept.
    solver : {"ridge", "logistic", "squared-hinge"}, optional
        Ridge regression on one-hot labels, in closed form (the default, kept as ``None``); softmax regression; or
        one-vs-rest support vector machines with the squared hinge loss.
    """

    tap: str = "fc7"
    strengths: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
    solver: str | None = None

    def __post_init__(self) -> None:
        check(bool(self.strengths) and min(self.strengths) > 0, "strengths", self.strengths, "must be above 0")
        if self.solver is not None and choose("solver", self.solver, ("ridge", "logistic", "squared-hinge")) == "ridge":
            object.__setattr__(self, "solver", None)


@dataclass(frozen=True)
class Neighbours(Spec, kind="neighbours", version=1):
    """No training: an image gets the class of the training image that is nearest in frozen features, by cosine.

    What it measures, the share of right classes, is the induction accuracy of Huh et al. (sec. 5.3) where the classes are
    finer than those that the source told apart. Without a source the network is an untrained one, for comparison.

    Parameters
    ----------
    tap : str
        The layer that is read.
    among : int
        A second accuracy counts an image as right if its class is among those of its nearest so many.
    """

    tap: str = "fc7"
    among: int = 5

    def __post_init__(self) -> None:
        positive("among", self.among)


@dataclass(frozen=True)
class Concepts(Spec, kind="concepts", version=1):
    """No transfer: how well a source network knows the nodes above the classes it was taught (Huh et al., sec. 5.4).

    Parameters
    ----------
    tap : str
        The layer in which the likeness of classes is read.
    """

    tap: str = "fc7"


@dataclass(frozen=True)
class FineTune(Spec, kind="fine-tune", version=1):
    """Go on training the source network on the target, under a new head.

    Parameters
    ----------
    recipe : Recipe
    head_lr : float
        Learning rate of the new head as a multiple of the backbone's.
    freeze : str, optional
        The last layer that is kept as it is; everything before it is kept too.
    l2_sp : float, optional
        Strength of a pull towards the source's weights (`methods.looked_at.NearStart`).
    lwf : float, optional
        Weight of keeping the source head's answers, learning without forgetting (`methods.looked_at.SameAnswers`).
    examine : bool, optional
        Measure also what the network knows and has forgotten (`methods.looked_at.examined`). The training is the same, and its search.
    first : Step, optional
        What is done before, on another target: a chain of tasks.
    blocks : tuple of int, optional
        Units that the head reads, first ones and others, to measure what each block reaches alone (`methods.grow.measure`).
    """

    recipe: Recipe
    head_lr: float = 3.0
    freeze: str | None = None
    l2_sp: float | None = None
    lwf: float | None = None
    examine: bool | None = None
    first: Spec | None = None
    blocks: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        above_zero(self, "head_lr", "l2_sp", "lwf")
        flags(self, "examine")
        check(not (self.l2_sp and self.lwf), "lwf", self.lwf, "goes without l2_sp")
        check(not (self.lwf and self.freeze), "lwf", self.lwf, "keeps answers of a network all layers of which learn; leave freeze out")
        check(not (self.first and self.examine), "examine", self.examine, "compares with the source; leave it out of a chain")


def growths(first: Spec | None) -> int:
    """Return how often a chain of tasks grows its network."""
    return isinstance(first.method, Grow) + growths(first.method.first) if first else 0


LOOKS = ("watch", "examine", "blocks")
"""Fields that say what else is measured: training is the same, and so is the search."""

GROWTH = {"widen": 1, "widen-twice": 2, "deepen": 1, "widen-and-deepen": 2, "normalise": 0, "net2wider": 1, "net2deeper": 0}
"""Ways to grow, each with how many numbers of units it takes; the last three are controls."""

LACKS = {
    "deepen": ("copy",),
    "normalise": ("norm", "copy"),
    "net2wider": ("scale", "norm", "copy"),
    "net2deeper": ("scale", "norm", "copy"),
}
"""Options that a way to grow does not take."""

NORMS = ("l2", "batch", "layer", "none")
SCOPES = ("new", "fc7-new", "fc6-new", "all")


@dataclass(frozen=True)
class Grow(Spec, kind="grow", version=1):
    """Add units to the source network, put a new head on it, and go on training on the target (Wang et al.).

    Parameters
    ----------
    recipe : Recipe
        With ``augment="none"`` and a scope that leaves the convolutions as they are, their activations are computed once.
    how : {"widen", "widen-twice", "deepen", "widen-and-deepen", "normalise", "net2wider", "net2deeper"}
        As in `nets.grow`.
    units : tuple of int
        New units: beside FC7; beside FC6 and FC7; on top; beside FC7 and on top.
    norm : {"l2", "batch", "layer", "none"}, optional
        How old and new activations are brought to one scale; by default ``l2``, as in the paper.
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
    watch : bool, optional
        Look at old and new units while they are trained (`methods.grow.Watch`). The outcome is the same; so is the search.
    examine, first : optional
        As in `FineTune`.
    grown : int, optional
        How often the chain grew before; counted here. (Such growths have keys of their own: they once repeated the first one's draw.)
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
    watch: bool | None = None
    examine: bool | None = None
    first: Spec | None = None
    grown: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "grown", growths(self.first) or None)
        wanted = GROWTH[choose("how", self.how, GROWTH)]
        check(isinstance(self.units, tuple) and len(self.units) == wanted, "units", self.units, f"{self.how} takes a tuple of {wanted}")
        for units in self.units:
            positive("units", units)
        if self.norm is not None and choose("norm", self.norm, NORMS) == "l2":
            object.__setattr__(self, "norm", None)
        above_zero(self, "scale", "new_lr", "unit_lr", "spread")
        flags(self, "copy", "watch", "examine")
        for name in LACKS.get(self.how, ()):
            check(getattr(self, name) is None, name, getattr(self, name), f"{self.how} takes none; leave it out")
        check(not (self.scale and self.norm), "scale", self.scale, f"is that of l2, not of norm {self.norm}; leave it out")
        if self.scope is not None and choose("scope", self.scope, SCOPES) == "all":
            object.__setattr__(self, "scope", None)
        check(self.spread is None or (self.how == "widen" and not self.copy), "spread", self.spread, "is that of random units beside FC7")
        check(not (self.first and (self.watch or self.examine)), "first", "a chain", "is neither watched nor examined")
        check(not self.watch or self.how == "widen", "watch", self.watch, f"looks at units beside others; {self.how} adds none")
