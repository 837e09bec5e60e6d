"""What a network knows after training on the target, and what it has forgotten of the source."""

from dataclasses import dataclass
from typing import Any, ClassVar

from ..errors import check
from ..specs import Measure, Source, Target, Trial

KNOWN = ("knn_accuracy", "silhouette", "selectivity")
BEFORE_AND_AFTER = tuple(f"{name}_{when}" for name in KNOWN for when in ("before", "after"))


@dataclass(frozen=True)
class Forgetting(Measure, kind="forgetting", version=1):
    """What a network knows after training on the target, beside what it knew before.

    ``source_accuracy``: of the old head on the old units of FC7, for held-out images of the source. ``knn_accuracy_*``:
    accuracy of five nearest training images, ``silhouette_*``, both in what the head reads, and ``selectivity_*``, the
    median unit's selectivity, on the target's test images, ``before`` and ``after``; where there are two blocks, also
    ``selectivity_old`` and ``selectivity_new``. ``cka_old_units``: CKA of the old units with themselves before.
    """

    columns: ClassVar[tuple[str, ...]] = ("source_accuracy", *BEFORE_AND_AFTER, "cka_old_units")
    asks_source: ClassVar[bool] = True

    def fits(self, trial: Trial) -> None:
        own = isinstance(trial.source, Source)
        check(own, "measure", self.kind, "asks for the source's own images; take a Source, no weights and no chain")

    def watch(self, trial: Trial, run: Any, context: Any) -> None:
        """Refuse what has no FC7, before it is trained."""
        from ..nets.sites import sites

        check("fc7" in sites(run.trained), "measure", self.kind, "wants a network with an FC7")

    def measure(self, trial: Trial, net: Any, context: Any) -> dict[str, Any]:
        from ..nets.build import head_of
        from ..nets.sites import read_by_head
        from ..train.read import inputs_of
        from .metrics import scores
        from .representation import cka, knn_accuracy, selectivity, silhouette

        before, source = context.network(trial), trial.source
        known, asked = (context.sample(trial.target, split, trial.seed) for split in ("train", "test"))
        found: dict[str, float] = {}
        for when, network in (("before", before), ("after", net)):
            near, far = (inputs_of(network, head_of(network)[2], sample) for sample in (known, asked))
            found[f"knn_accuracy_{when}"] = knn_accuracy(near, known.labels, far, asked.labels)
            found[f"silhouette_{when}"] = silhouette(far, asked.labels)
            units = selectivity(far, asked.labels)
            found[f"selectivity_{when}"] = units.median().item()
        blocks = read_by_head(net)
        if len(blocks) == 2:
            parts = zip(("old", "new"), units.split(blocks), strict=True)
            found |= {f"selectivity_{name}": part.median().item() for name, part in parts}
        found["cka_old_units"] = cka(old_units(before, asked, before), old_units(net, asked, before))
        own = context.sample(Target(source.images, source.size, source.subset.shape), "test", trial.seed)
        answers = head_of(before)[2](old_units(net, own, before)).detach()
        found["source_accuracy"] = scores(answers, own.labels)["accuracy"]
        return {name: round(value, 5) for name, value in found.items()}


def old_units(net: Any, sample: Any, before: Any) -> Any:
    """Return the activations of those units of FC7 that the source network had, before they are normalised."""
    from torch import nn

    from ..nets.build import head_of
    from ..nets.sites import sites
    from ..train.read import inputs_of

    behind = sites(net)["fc7"].behind
    relu = behind.relu if isinstance(behind, nn.Sequential) else behind
    return inputs_of(net, relu, sample).relu()[:, : head_of(before)[2].weight.shape[1]]
