"""Detection: a detector on the source network's convolutions, or on fresh ones."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from ..errors import check, choose
from ..seeds import stream
from ..specs import AlexNet, Method, Recipe, Trial
from ..specs.serial import above_zero, each
from ..specs.task import Detection

TIMES = 2.0  # the cost of a classifier's step, roughly


@dataclass(frozen=True)
class Detect(Method, kind="detect", version=1):
    """Train torchvision's Faster R-CNN on the convolutions of the source network, or of a fresh one: the floor.

    Only convolutional layers go over, to images of any size; see `nets.detector`. Label smoothing has no part in it.

    Parameters
    ----------
    recipe : Recipe
        In float32.
    head_lr : float
        Learning rate of all that is new as a multiple of the backbone's; from scratch all learns alike.
    freeze : str, optional
        The last layer that is kept as it is; everything before it is kept too.
    batch_norm : {"train", "statistics", "frozen"}, optional
        In the backbone; see `nets.taps.batch_norm`. Where it starts from a network its statistics are kept by default,
        for images a step are few; from scratch they are the batch's.
    entrance : int, optional
        From scratch: the size in pixels of the images for which AlexNet's convolutions are laid out, which must be the
        source's for a comparison with one. By default the target's.
    """

    recipe: Recipe
    head_lr: float = 3.0
    freeze: str | None = None
    batch_norm: str | None = None
    entrance: int | None = None

    starts: ClassVar[None] = None
    tasks: ClassVar[tuple[str, ...]] = (Detection.kind,)
    any_size: ClassVar[bool] = True
    packable: ClassVar[bool] = False  # what training draws of an image's proposals, no other network may draw before

    def __post_init__(self) -> None:
        above_zero(self, "head_lr")
        check(self.recipe.precision == "float32", "precision", self.recipe.precision, "boxes are found in float32")
        if self.batch_norm is not None:
            choose("batch_norm", self.batch_norm, ("train", "statistics", "frozen"))
        rule = "must be 16 pixels or more"
        check(self.entrance is None or self.entrance >= 16, "entrance", self.entrance, rule)

    def fits(self, trial: Trial) -> None:
        scratch = trial.source is None
        fresh = self.entrance is None or (scratch and isinstance(trial.backbone, AlexNet))
        check(fresh, "entrance", self.entrance, "is that of an AlexNet from scratch; a source has its own")
        check(not (scratch and self.freeze), "freeze", self.freeze, "from scratch nothing is worth keeping")
        kept = not scratch or {*each(self.batch_norm)} <= {None, "train"}
        check(kept, "batch_norm", self.batch_norm, "from scratch there are no statistics to keep")

    def cost(self, trial: Trial) -> float:
        size = trial.target.size
        built = self.entrance or getattr(trial.root, "size", size)
        return TIMES * (size / built) ** 2 * super().cost(replace(trial, target=replace(trial.target, size=built)))

    def prepare(self, trial: Trial, context: Any) -> Any:
        """Put a detector on the network."""
        from torch.nn.modules.batchnorm import _BatchNorm

        from ..nets import taps
        from ..nets.detector import detector
        from ..train.objectives import DetectionLosses
        from ..train.run import Run, Stream

        size, sample = trial.target.size, context.sample(trial.target, "train", trial.seed)
        if trial.source:
            net = context.network(trial)
        else:
            weights = stream(trial.seed, "target weights")
            net = context.fresh(trial.backbone, self.entrance or size, sample.classes, weights)
        if self.freeze:
            taps.freeze(net, self.freeze)
        made, rates = detector(net, size, sample.classes, stream(trial.seed, "head")), {}
        if trial.source:
            norms = [m for m in made.modules() if isinstance(m, _BatchNorm) and not getattr(m, "frozen", False)]
            taps.batch_norm(made, self.batch_norm or ("statistics" if norms else "train"))
            rates = dict.fromkeys((made.backbone.fpn, made.rpn, made.roi_heads), self.head_lr)
        order = stream(trial.seed, "target order")
        return Run(made, (Stream(sample, order),), self.recipe, order, rates, DetectionLosses())
