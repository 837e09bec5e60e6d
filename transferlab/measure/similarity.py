"""How much a network still sees as it did before it was fine-tuned."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from ..errors import check
from ..seeds import stream
from ..specs import Measure, Trial
from ..specs.task import CLASSIFIED
from .along import Watcher, layer_taps, same_layers, shares_of

FEWEST = 4  # images of which there is an unbiased estimate


@dataclass(frozen=True)
class Similarity(Measure, kind="similarity", version=1):
    """How much layers still see of the target's test images as they did before training: debiased CKA, batch by batch.

    Lists with a number for each layer (`along.layer_taps`, in ``similar_layers``); maps count as they are, position by
    position. ``cka``: after training. ``cka_along``: such a list for each step of ``cka_at``, before that step is
    taken.

    Parameters
    ----------
    images : int
        Test images that are compared, drawn by the seed; all if there are fewer.
    batch : int
        Images that are compared at once, fewer than twice as many in any batch.
    shares : tuple of float
        When it looks, as shares of the steps.
    """

    images: int = 1000
    batch: int = 125
    shares: tuple[float, ...] = (0.05, 0.1, 0.25, 0.5)

    tasks: ClassVar[tuple[str, ...]] = CLASSIFIED
    columns: ClassVar[tuple[str, ...]] = ("similar_layers", "cka", "cka_at", "cka_along")

    def __post_init__(self) -> None:
        for name in ("images", "batch"):
            check(getattr(self, name) >= FEWEST, name, getattr(self, name), f"must be {FEWEST} or more")
        shares_of(self.kind, self.shares)

    def fits(self, trial: Trial) -> None:
        check(trial.source is not None, "measure", self.kind, "asks for a source")

    def watch(self, trial: Trial, run: Any, context: Any) -> Watcher:
        """Look at the layers now and then; refuse a network that grows, before it is trained."""
        same_layers(self.kind, context.network(trial), run.trained)
        compare = self.comparison(trial, context)
        return Watcher(run.recipe.steps, self.shares, "cka_at", lambda net: {"cka_along": compare(net)})

    def measure(self, trial: Trial, net: Any, context: Any) -> dict[str, Any]:
        return {"similar_layers": layer_taps(net), "cka": self.comparison(trial, context)(net)}

    def comparison(self, trial: Trial, context: Any) -> Any:
        """Return a function from a network to the alignment of its layers with those where the trial starts.

        Raises
        ------
        UserError
            If there are too few test images.
        """
        import torch

        from ..train.read import read
        from .representation import debiased_cka, gram

        sample = context.sample(trial.target, "test", trial.seed)
        count = len(sample.rows)
        check(count >= FEWEST, "test images", count, f"must be {FEWEST} or more to be compared")
        draw = torch.randperm(count, generator=torch.Generator().manual_seed(stream(trial.seed, "similarity")))
        which = draw[: self.images].to(sample.rows.device).tensor_split(max(1, min(count, self.images) // self.batch))
        parts = [replace(sample, rows=sample.rows[some], labels=sample.labels[some]) for some in which]

        def grams(net: Any) -> dict[str, list[Any]]:
            layers = layer_taps(net)
            found: dict[str, list[Any]] = {tap: [] for tap in layers}
            for part in parts:
                for tap, value in read(net, part, layers, None).items():
                    found[tap].append(gram(value))
            return found

        before = grams(context.network(trial))

        def compare(net: Any) -> list[float]:
            now = grams(net)
            return [round(debiased_cka(zip(before[tap], of, strict=True)), 5) for tap, of in now.items()]

        return compare
