"""Linear probe: a linear classifier on frozen features, its penalty chosen on validation images."""

from dataclasses import dataclass
from typing import Any

from ..errors import check, choose
from ..specs import Artefact, Method, Trial


@dataclass(frozen=True)
class Probe(Method, kind="probe", version=1):
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
    grid : int
        Maps are averaged over grid x grid parts.
    """

    tap: str = "fc7"
    strengths: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
    solver: str | None = None
    grid: int | None = None

    def __post_init__(self) -> None:
        check(bool(self.strengths) and min(self.strengths) > 0, "strengths", self.strengths, "must be above 0")
        if self.solver is not None and choose("solver", self.solver, ("ridge", "logistic", "squared-hinge")) == "ridge":
            object.__setattr__(self, "solver", None)
        if self.grid == 1:
            object.__setattr__(self, "grid", None)

    def needs(self, trial: Trial) -> tuple[Artefact, ...]:
        return trial.features(self.grid or 1)

    def evaluate(self, trial: Trial, context: Any) -> dict[str, Any]:
        """Fit the probe on training images, choose the penalty on validation images, and measure it."""
        from ..measure.metrics import scores
        from ..train.solvers import logistic, ridge, squared_hinge

        part = {s: context.sample(trial.target, s, trial.seed) for s in ("train", "validation", "test")}
        x = {s: context.features(trial, sample, self.tap, self.grid or 1) for s, sample in part.items()}
        solve = {"logistic": logistic, "squared-hinge": squared_hinge}.get(self.solver, ridge)
        weights, biases = solve(x["train"], part["train"].labels, part["train"].classes, self.strengths)
        x = {s: value.to(weights) for s, value in x.items()}
        each = list(zip(weights, biases, strict=True))
        tried = [scores(x["validation"] @ w + b, part["validation"].labels) for w, b in each]
        best = max(range(len(tried)), key=lambda i: tried[i]["accuracy"])
        found = scores(x["test"] @ weights[best] + biases[best], part["test"].labels)
        found |= {f"validation_{name}": value for name, value in tried[best].items()}
        return found | {"strength": self.strengths[best], "validation_accuracies": [t["accuracy"] for t in tried]}
