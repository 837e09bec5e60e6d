"""How a network forgets its source while it is trained on the target."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from ..errors import check
from ..seeds import stream
from ..specs import Measure, Source, Target, Trial
from ..specs.serial import positive
from .along import Watcher, shares_of

PROBE_PENALTY = 0.1  # penalty of the linear probe, as a multiple of the features' mean variance


@dataclass(frozen=True)
class ForgettingCurve(Measure, kind="forgetting-curve", version=1):
    """What is left of the source task along training, for the units of FC7 that the source network had.

    Of held-out images of the source, the accuracy of the source's own head, put back, and that of a linear probe:
    ridge regression fitted anew to training images of the source at each look. The first tells what was lost, the
    second what can still be read. Lists with a number for each step of ``forgotten_at``, before that step is taken:
    ``source_head_accuracies`` and ``source_probe_accuracies``; and after training ``source_head_accuracy`` and
    ``source_probe_accuracy``.

    Parameters
    ----------
    images : int
        Of the source's training images, and of those held out, drawn by the seed; all if there are fewer.
    shares : tuple of float
        When it looks, as shares of the steps; at 0 nothing is forgotten yet.
    """

    images: int = 2000
    shares: tuple[float, ...] = (0.0, 0.05, 0.1, 0.25, 0.5)

    columns: ClassVar[tuple[str, ...]] = (
        *("forgotten_at", "source_head_accuracies", "source_probe_accuracies"),
        *("source_head_accuracy", "source_probe_accuracy"),
    )
    asks_source: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive("images", self.images)
        shares_of(self.kind, self.shares)

    def fits(self, trial: Trial) -> None:
        own = isinstance(trial.source, Source)
        check(own, "measure", self.kind, "asks for the source's own images; take a Source, no weights and no chain")

    def watch(self, trial: Trial, run: Any, context: Any) -> Watcher:
        """Look now and then; refuse what has no FC7, before it is trained."""
        from ..nets.sites import sites

        check("fc7" in sites(run.trained), "measure", self.kind, "wants a network with an FC7")
        known = self.question(trial, context)
        plural = lambda found: {name.replace("accuracy", "accuracies"): value for name, value in found.items()}  # noqa: E731
        return Watcher(run.recipe.steps, self.shares, "forgotten_at", lambda net: plural(known(net)))

    def measure(self, trial: Trial, net: Any, context: Any) -> dict[str, Any]:
        return self.question(trial, context)(net)

    def question(self, trial: Trial, context: Any) -> Any:
        """Return a function from a network to the two accuracies."""
        import torch

        from ..data.images import source_sample
        from ..nets.build import head_of
        from ..train.solvers import ridge
        from .forgetting import old_units
        from .metrics import scores

        source, before = trial.source, context.network(trial)
        held_out = context.sample(Target(source.images, source.size, source.subset.shape), "test", trial.seed)
        draw = torch.Generator().manual_seed(stream(trial.seed, "forgetting curve"))
        known, asked = (
            replace(sample, rows=sample.rows[some], labels=sample.labels[some], grey=bool(source.grey))
            for sample in (source_sample(source, trial.seed).to(context.device), held_out)
            for some in [torch.randperm(len(sample.rows), generator=draw)[: self.images].to(sample.rows.device)]
        )

        def ask(net: Any) -> dict[str, float]:
            near, far = (old_units(net, sample, before) for sample in (known, asked))
            weights, biases = ridge(near, known.labels, known.classes, (PROBE_PENALTY,))
            answers = {"head": head_of(before)[2](far).detach(), "probe": far.to(weights) @ weights[0] + biases[0]}
            return {f"source_{name}_accuracy": scores(of, asked.labels)["accuracy"] for name, of in answers.items()}

        return ask
