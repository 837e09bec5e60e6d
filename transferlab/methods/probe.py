"""Linear probe: a linear classifier on frozen features, its penalty chosen on validation images."""

from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, ClassVar

from ..errors import check, choose
from ..specs import Artefact, Method, Trial
from ..specs.serial import components_of, flags, positive
from ..specs.task import CLASSIFIED

SECONDS = 1.0  # of one core, roughly
MOST_PAIRED = 10  # classes of which every pair gets a classifier
SEEN = 200  # images that say how large answers are


@dataclass(frozen=True)
class Probe(Method, kind="probe", version=1):
    """A linear classifier on frozen features.

    Parameters
    ----------
    tap : str
        The layer that is read; ``pixels`` and ``colours`` are what an image is without the network.
    strengths : tuple of float
        Penalties, relative to the mean eigenvalue of the features' covariance; the best on validation is kept.
    solver : {"ridge", "logistic", "squared-hinge"}, optional
        Ridge regression on one-hot labels, in closed form (the default, kept as ``None``); softmax regression, or of
        several labels an image logistic regression of each class; or one-vs-rest support vector machines with the
        squared hinge loss.
    grid : int
        Maps are averaged over grid x grid parts.
    pool : {"max"}, optional
        The largest value of each part instead.
    normalise : bool, optional
        An image's features are scaled to length 1.
    components : int, float or "all", optional
        So many principal components of the training images' features are kept; below 1 so many that they hold more
        than this share of the variance. Penalties stay relative to the mean variance of all features.
    whiten : bool, optional
        Components get variance 1, and an image's are scaled to length 1 again where `normalise` is set.
    pairs : bool, optional
        One classifier for every pair of classes, ten classes at most; their votes are counted, of equals the surer.
    """

    tap: str = "fc7"
    strengths: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
    solver: str | None = None
    grid: int | None = None
    pool: str | None = None
    normalise: bool | None = None
    components: float | str | None = None
    whiten: bool | None = None
    pairs: bool | None = None

    tasks: ClassVar[tuple[str, ...]] = CLASSIFIED

    def __post_init__(self) -> None:
        check(bool(self.strengths) and min(self.strengths) > 0, "strengths", self.strengths, "must be above 0")
        if self.solver is not None and choose("solver", self.solver, ("ridge", "logistic", "squared-hinge")) == "ridge":
            object.__setattr__(self, "solver", None)
        if self.grid == 1:
            object.__setattr__(self, "grid", None)
        flags(self, "normalise", "whiten", "pairs")
        if self.grid is not None:
            positive("grid", self.grid)
        components_of(self.components)
        check(self.pool in (None, "max"), "pool", self.pool, "must be max, or left out for the mean")
        check(self.components or not self.whiten, "whiten", self.whiten, "asks for a number of components")

    def fits(self, trial: Trial) -> None:
        one = trial.target.asks.labels == "class"
        check(one or not self.pairs, "pairs", self.pairs, "asks for one label an image")

    def needs(self, trial: Trial) -> tuple[Artefact, ...]:
        return trial.features(self.tap if self.grid or self.pool else None)

    def cost(self, trial: Trial) -> float:
        return SECONDS  # features are counted for themselves

    def evaluate(self, trial: Trial, context: Any) -> dict[str, Any]:
        """Fit the probe on training images, choose the penalty on validation images, and measure it.

        Raises
        ------
        UserError
            If the network has no such tap, there are fewer training images than components, or too many classes for
            pairs.
        """
        from ..measure.metrics import scores

        part = {s: context.sample(trial.target, s, trial.seed) for s in ("train", "validation", "test")}
        read = {s: context.features(trial, sample, self.tap, self.grid or 1, self.pool) for s, sample in part.items()}
        x, scale = self._prepared(read)
        strengths = tuple(scale * strength for strength in self.strengths)
        each = self._fitted(x["train"], part["train"].labels, part["train"].classes, strengths)
        tried = [scores(logits(x["validation"]), part["validation"].labels) for logits in each]
        score = trial.target.asks.score
        best = max(range(len(tried)), key=lambda i: tried[i][score])
        found = scores(each[best](x["test"]), part["test"].labels)
        found |= {f"validation_{name}": value for name, value in tried[best].items()}
        every = "validation_accuracies" if score == "accuracy" else "validation_scores"
        return found | {"strength": self.strengths[best], every: [t[score] for t in tried]}

    def _prepared(self, x: dict[str, Any]) -> tuple[dict[str, Any], float]:
        """Return features by split as the classifier takes them, and what penalties are multiplied by so that they mean
        what they do without components; only training images say how.
        """
        from torch.nn.functional import normalize

        from ..measure.representation import pca

        if self.normalise:
            x = {s: normalize(value) for s, value in x.items()}
        if not self.components:
            return x, 1.0
        mean, basis = pca(x["train"], self.components, bool(self.whiten))
        before = x["train"].to(basis).var(0, correction=0).mean()
        x = {s: (value.to(basis) - mean) @ basis for s, value in x.items()}
        if self.whiten:  # variances are no longer those of the features
            return {s: normalize(value) for s, value in x.items()} if self.normalise else x, 1.0
        return x, (before / x["train"].var(0, correction=0).mean().clamp_min(1e-12)).item()

    def _fitted(self, x: Any, labels: Any, classes: int, strengths: tuple[float, ...]) -> list[Any]:
        """Return a function from features to logits for every penalty."""
        from ..train.solvers import logistic, ridge, squared_hinge

        solve = {"logistic": logistic, "squared-hinge": squared_hinge}.get(self.solver, ridge)
        if not self.pairs:
            linear = zip(*solve(x, labels, classes, strengths), strict=True)
            return [lambda x, w=w, b=b: x.to(w) @ w + b for w, b in linear]
        check(classes <= MOST_PAIRED, "pairs", self.pairs, f"takes {MOST_PAIRED} classes at most, not {classes}")
        margins = []
        for pair in combinations(range(classes), 2):
            of = (labels == pair[0]) | (labels == pair[1])
            w, b = solve(x[of], (labels[of] == pair[1]).long(), 2, strengths)
            margins.append((w.diff(dim=-1), b.diff(dim=-1)))
        return [lambda x, i=i: votes([x.to(w) @ w[i] + b[i] for w, b in margins], classes) for i in range(len(w))]


def fitted_head(trial: Trial, context: Any, net: Any, strength: float) -> Any:
    """Put a new head on a network that a trial starts from, fitted to its training images, and return it.

    It is softmax regression (logistic regression, where labels are several) on what the head reads, as that is before
    any training. Where a ReLU follows, as in SqueezeNet, biases are raised so that it cuts nothing off: what all
    classes share changes no probability.
    """
    import torch

    from ..nets.build import new_head
    from ..train.read import inputs_of
    from ..train.solvers import logistic

    sample = context.sample(trial.target, "train", trial.seed)
    read = context.features(trial, sample, "representation")
    weights, biases = logistic(read, sample.labels, sample.classes, (strength,))
    head = new_head(net, sample.classes, 0)
    with torch.no_grad():
        head.weight.copy_(weights[0].T.reshape(head.weight.shape))
        head.bias.copy_(biases[0])
        if head.weight.ndim > 2:
            few = replace(sample, rows=sample.rows[:SEEN], labels=sample.labels[:SEEN])
            head.bias += 2 * head(inputs_of(net, head, few)).abs().max()
    return head


def votes(margins: list[Any], classes: int) -> Any:
    """Return one-vs-one classifiers' votes as logits (N, classes): of each class the pairs that it wins, and, to part
    equals, its summed margins squashed below a third, as scikit-learn does.

    Parameters
    ----------
    margins : list of Tensor, shape (N, 1)
        Of the pairs (0, 1), (0, 2) ...: above 0 where the second is more likely.
    """
    import torch

    found = torch.cat(margins, 1)
    side = found.new_zeros(len(margins), classes)
    for row, pair in enumerate(combinations(range(classes), 2)):
        side[row, list(pair)] = found.new_tensor([-1.0, 1.0])
    sure = found @ side
    won_less_lost = torch.where(found > 0, 1.0, -1.0).to(side) @ side
    return (won_less_lost + classes - 1) / 2 + sure / (3 * (sure.abs() + 1))
