"""Whether single units tell the target's classes apart, before and after training on it."""

from dataclasses import dataclass
from typing import Any, ClassVar

from ..errors import check
from ..specs import Measure, Trial
from .along import layer_taps, same_layers


@dataclass(frozen=True)
class Selectivity(Measure, kind="selectivity", version=1):
    """How selective units are for the target's classes, layer by layer, before and after training.

    The selectivity of a unit is that of `representation.selectivity`, on the target's test images; a unit of a
    convolution is a channel, the mean of its map. Lists, a number a layer (`along.layer_taps`, in
    ``selective_layers``): ``unit_selectivity_before`` and ``unit_selectivity_after``, the median unit's, and
    ``selectivity_p``, two-sided, of Wilcoxon's signed-rank test that units are as selective after as they were before.
    """

    columns: ClassVar[tuple[str, ...]] = (
        *("selective_layers", "unit_selectivity_before", "unit_selectivity_after", "selectivity_p"),
    )

    def fits(self, trial: Trial) -> None:
        check(trial.source is not None, "measure", self.kind, "asks for a source")

    def watch(self, trial: Trial, run: Any, context: Any) -> None:
        """Refuse a network that grows, before it is trained."""
        same_layers(self.kind, context.network(trial), run.trained)

    def measure(self, trial: Trial, net: Any, context: Any) -> dict[str, Any]:
        from ..train.read import read
        from .representation import selectivity

        sample, layers = context.sample(trial.target, "test", trial.seed), layer_taps(net)
        seen = (read(one, sample, layers) for one in (context.network(trial), net))
        before, after = ({tap: selectivity(x, sample.labels) for tap, x in of.items()} for of in seen)
        medians = ([round(of[tap].quantile(0.5).item(), 5) for tap in layers] for of in (before, after))
        ps = [float(f"{signed_rank((after[tap] - before[tap]).tolist()):.3g}") for tap in layers]
        return dict(zip(self.columns, (layers, *medians, ps), strict=True))


def signed_rank(changes: list[float]) -> float:
    """Return the two-sided p of Wilcoxon's signed-rank test that changes lie around none: exact for 50 without ties or
    fewer, those of 0 left out; 1 if nothing has changed.
    """
    from scipy.stats import wilcoxon  # takes a second

    return float(wilcoxon(changes).pvalue) if any(changes) else 1.0
