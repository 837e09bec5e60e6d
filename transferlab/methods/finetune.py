"""Fine-tuning: go on training the source network on the target, under a new head."""

from dataclasses import dataclass
from typing import Any, ClassVar

from ..errors import check, choose
from ..seeds import stream
from ..specs import Artefact, Method, Recipe, Regulariser, Target, Trial
from ..specs.serial import above_zero, cell, each, flags
from ..specs.task import CLASSIFIED
from .probe import fitted_head
from .regularisers import CoTuning, Distillation


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
    batch_norm : {"statistics", "frozen", "stochastic"}, optional
        BatchNorm keeps and uses the source's statistics; and its affine parameters too; or goes by the batch's or the
        running ones as a coin says for each channel: StochNorm (see `nets.taps.batch_norm`). By default both are
        trained.
    keep_head : bool, optional
        No new head, but that of the trial that this one starts from, on the same classes. Where that one trained the
        head alone (``freeze="representation"``), this is LP-FT (Kumar et al. 2022).
    layer_decay : float, optional
        Below 1: the layer below the head learns at this multiple of the recipe's rate, and each one before it at this
        multiple of the next one's (Howard and Ruder 2018, sec. 3.2). Layers are those of `nets.taps.layers`.
    unfreeze : float, optional
        Gradual unfreezing (op. cit., sec. 3.3): at first the head is trained alone; the layers below it join, from the
        last to the first, at even distances over this share of the steps. Until then weights rest, while BatchNorm's
        statistics move unless `batch_norm` keeps them.
    auto_rgn : bool, optional
        Rates of tensors follow their relative gradient norms, found anew each epoch; see `RelativeGradientNorm`.
    probe : float, optional
        The new head starts as softmax regression on what it reads, under a penalty of this strength as `Probe` has it,
        instead of at random: LP-FT, its first step in closed form.
    """

    recipe: Recipe
    head_lr: float = 3.0
    freeze: str | None = None
    hold: Regulariser | None = None
    batch_norm: str | None = None
    keep_head: bool | None = None
    layer_decay: float | None = None
    unfreeze: float | None = None
    auto_rgn: bool | None = None
    probe: float | None = None

    tasks: ClassVar[tuple[str, ...]] = CLASSIFIED

    def __post_init__(self) -> None:
        above_zero(self, "head_lr", "probe")
        check(not (self.probe and self.keep_head), "probe", self.probe, "makes a new head, and keep_head keeps one")
        flags(self, "keep_head", "auto_rgn")
        answers = self.keep_head and isinstance(self.hold, Distillation | CoTuning)
        check(not answers, "hold", cell(self.hold), "asks the source's head, and keep_head keeps the target's")
        inside = self.layer_decay is None or 0 < self.layer_decay < 1
        check(inside, "layer_decay", self.layer_decay, "must be above 0 and below 1")
        rule = "must be above 0 and below 1, a share of the steps: no schedule may be longer than the run"
        check(self.unfreeze is None or 0 < self.unfreeze < 1, "unfreeze", self.unfreeze, rule)
        for name in ("layer_decay", "unfreeze"):
            alone = not self.auto_rgn or getattr(self, name) is None
            check(alone, name, getattr(self, name), "auto_rgn finds the rates of layers itself; leave one out")
        if self.batch_norm is not None:
            choose("batch_norm", self.batch_norm, ("statistics", "frozen", "stochastic"))

    @property
    def frozen(self) -> bool:
        return bool(self.freeze)

    def fits(self, trial: Trial) -> None:
        for hold in filter(None, each(self.hold)):
            hold.takes(trial.target)
        if self.keep_head is True:
            own, target = trial.before and trial.before.target, trial.target
            same = own and _classes(own) == _classes(target)
            label = trial.source and trial.source.label
            check(same, "source", label, "keep_head keeps that of a trial; start from one on the same classes")

    def needs(self, trial: Trial) -> tuple[Artefact, ...]:
        return (*super().needs(trial), *(trial.features() if self.probe else ()))

    def prepare(self, trial: Trial, context: Any) -> Any:
        """Put a new head on the source network, and freeze what is to stay."""
        from ..nets import taps
        from ..nets.build import head_of, new_head
        from ..train.objectives import CrossEntropy
        from ..train.optim import RelativeGradientNorm
        from ..train.run import Run, Stream

        sample, net = context.sample(trial.target, "train", trial.seed), context.network(trial)
        if self.freeze:
            taps.freeze(net, self.freeze)
        if self.batch_norm:
            taps.batch_norm(net, self.batch_norm)
        if self.probe and not context.blank:
            head = fitted_head(trial, context, net, self.probe)
        else:
            head = head_of(net)[2] if self.keep_head else new_head(net, sample.classes, stream(trial.seed, "head"))
        head.requires_grad_(True)
        learns = sum(p.requires_grad for p in net.parameters()) > len(list(head.parameters()))
        for name in ("hold", "layer_decay", "unfreeze", "auto_rgn"):
            value = getattr(self, name)
            check(learns or not value, name, cell(value), "no layer below the head is trained")
        objective = self.hold.objective(net, context.network(trial), sample) if self.hold else CrossEntropy()
        order, rates = stream(trial.seed, "target order"), {head: self.head_lr} | self._rates(net)
        scale = RelativeGradientNorm(-(-len(sample.labels) // self.recipe.batch)) if self.auto_rgn else None
        return Run(net, (Stream(sample, order),), self.recipe, order, rates, objective, gradient_scale=scale)

    def _rates(self, net: Any) -> dict[Any, float | list[float]]:
        """Return the multiples of the rate of what is trained below the head, where they are not 1."""
        from ..nets.taps import layers

        if not (self.layer_decay or self.unfreeze):
            return {}
        rates, steps = {}, self.recipe.steps
        trained = [parts for parts in layers(net) if any(p.requires_grad for m in parts for p in m.parameters())]
        for below, parts in enumerate(reversed(trained), 1):
            rate, joins = (self.layer_decay or 1.0) ** below, int((self.unfreeze or 0) * steps * below / len(trained))
            rates |= dict.fromkeys(parts, [rate * (step >= joins) for step in range(steps)] if self.unfreeze else rate)
        return rates


def _classes(target: Target) -> tuple:
    """Return what two targets have in common that may share a head."""
    return target.images, target.task, target.subset.shape
