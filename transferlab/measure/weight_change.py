"""How far fine-tuning moved the weights of each layer."""

from dataclasses import dataclass
from typing import Any, ClassVar

from ..errors import check
from ..specs import Measure, Trial
from ..specs.task import CLASSIFIED
from .along import same_layers, weights_of

DECIMALS = 6  # that are kept of numbers that may be very near to 0 or to 1


@dataclass(frozen=True)
class WeightChange(Measure, kind="weight-change", version=1):
    """How far the weights W of each layer are from W0, where the trial started.

    It puts on record lists with a number for each convolution and linear layer but the head, in the order in which the
    network defines them. ``changed_layers``: their names. ``relative_change``: ||W - W0|| / ||W0||, Frobenius norms,
    biases left out. ``sign_flips``: the share of weights whose sign is another one. ``weight_cosine``: the cosine of
    the angle between W and W0.
    """

    tasks: ClassVar[tuple[str, ...]] = CLASSIFIED
    columns: ClassVar[tuple[str, ...]] = ("changed_layers", "relative_change", "sign_flips", "weight_cosine")

    def fits(self, trial: Trial) -> None:
        check(trial.source is not None, "measure", self.kind, "asks for a source")

    def watch(self, trial: Trial, run: Any, context: Any) -> None:
        """Refuse a network that grows, before it is trained."""
        same_layers(self.kind, context.network(trial), run.trained)

    def measure(self, trial: Trial, net: Any, context: Any) -> dict[str, Any]:
        before, after = weights_of(context.network(trial)), weights_of(net)
        found: dict[str, list] = {"changed_layers": list(after)} | {name: [] for name in self.columns[1:]}
        for name, weight in after.items():
            now, was = (w.detach().double().flatten() for w in (weight, before[name]))
            apart, size = (now - was).norm(), was.norm().clamp_min(1e-300)
            flips = (now.sign() != was.sign()).double().mean()
            cosine = now @ was / (size * now.norm().clamp_min(1e-300))
            for column, value in zip(self.columns[1:], (apart / size, flips, cosine), strict=True):
                found[column].append(round(value.item(), DECIMALS))
        return found
