"""A trial: the unit of work and of evidence. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, ClassVar

from ..errors import check
from .artefacts import Artefact, Features, Pretrained, Trained, stored_split
from .data import WHOLE, Source, Target, Weights
from .method import Measure, Method
from .networks import AlexNet, Backbone
from .recipe import Recipe
from .serial import OneOf, cell, combinations, filled
from .task import CLASSIFIED


@dataclass(frozen=True)
class Trial(Artefact, kind="trial"):
    """One source, backbone, method, target and seed.

    Its key is that of what is trained, or read: measures are no part of it. Fields of the method, of its recipe and of
    the source may be `OneOf` several values: then a search chooses (`searches`), and the trial stands for the one that
    it chose.

    Parameters
    ----------
    target : Target
    method : Method
    backbone : Backbone
    seed : int
        Varies the source's sample and training, the target's sample, the initialisation and the order together.
    source : Source, Weights or Trial, optional
        Where the network comes from: what another trial of this seed leaves makes a chain.
    measures : tuple of Measure
        What is to be on record besides the task's scores.
    """

    target: Target
    method: Method
    backbone: Backbone
    seed: int
    source: Source | Weights | Trial | None = None
    measures: tuple[Measure, ...] = ()

    kept: ClassVar[str] = "record"
    aside: ClassVar[tuple[str, ...]] = ("measures",)

    def __post_init__(self) -> None:
        check(isinstance(self.seed, int) and self.seed >= 0, "seed", self.seed, "must be a whole number, 0 or more")
        kind, starts, target = self.method.kind, self.method.starts, self.target
        needed = starts in (None, self.source is not None)
        check(needed, "source", self.source, f"{kind} needs {'one' if starts else 'none'}")
        if self.before:
            Trained(self.before)  # one that trains
            same = (self.before.backbone, self.before.seed) == (self.backbone, self.seed)
            check(same, "source", self.before.label, f"must have the trial's own backbone and seed, {self.seed}")
            whole = self.before.target.asks.kind in CLASSIFIED
            check(whole, "source", self.before.label, f"is of a {self.before.target.asks.kind} target: no start")
        own = self.before.target if self.before else self.source
        if own and not isinstance(own, Weights):
            kept = own.size == target.size or self.method.any_size or not isinstance(self.backbone, AlexNet)
            check(kept, "size", target.size, f"AlexNet keeps its source's, {own.size}")
            same = not self.method.own_task or (own.images, own.subset.shape) == (target.images, target.subset.shape)
            check(same, "target", target.label, f"{kind} asks of the source's own images; see of_source")
        for part in (self.method, *self.measures):
            part.takes(target)
        self.method.fits(self)
        check(self.trains or not self.measures, "measures", len(self.measures), f"{kind} trains nothing")
        for measure in self.measures:
            measure.fits(self)

    @classmethod
    def of_source(cls, source: Source, method: Method, backbone: Backbone, seed: int) -> Trial:
        """Return the trial that reads a source network on its own held-out images."""
        return cls(Target(source.images, source.size, source.subset.shape), method, backbone, seed, source)

    def __hash__(self) -> int:
        return hash(self.key)

    @property
    def trains(self) -> bool:
        return hasattr(self.method, "prepare")

    @property
    def training(self) -> Trial:
        return replace(self, measures=()) if self.measures else self

    @property
    def asked(self) -> tuple[str, ...]:
        return (self.target.asks.score, *(name for measure in self.measures for name in measure.columns))

    @property
    def before(self) -> Trial | None:
        """The step before, of a chain."""
        return self.source if isinstance(self.source, Trial) else None

    @property
    def start(self) -> Pretrained | Trained | None:
        """The network that the trial starts from."""
        if self.before:
            return Trained(self.before)
        return Pretrained(self.source, self.backbone, self.seed) if self.source else None

    @property
    def root(self) -> Source | Weights | None:
        """The source at the beginning of a chain."""
        return self.before.root if self.before else self.source

    @property
    def recipe(self) -> Recipe | None:
        """The recipe of the method, if it trains by gradient."""
        return getattr(self.method, "recipe", None)

    @property
    def shape(self) -> str:
        """All but seed, source, number of images, rate and decay; where a chain made the network, what it did."""
        if self.recipe is None or not self.method.packable:
            return self.key
        target = replace(self.target, subset=self.target.subset.shape)
        before = self.before.shape if self.before else ""
        return "|".join((self.backbone.canonical, self.method.shape, target.canonical, before))

    def needs(self) -> tuple[Artefact, ...]:
        return self.method.needs(self)

    def features(self, maps: str | None = None) -> tuple[Features, ...]:
        """Return what the network that the trial starts from makes of the target's images, at all layers, or the maps
        of one; nothing without a network.
        """
        images, size = self.target.images, self.target.size
        splits = dict.fromkeys(stored_split(images, split) for split in ("train", "validation", "test"))
        return tuple(Features(self.start, images, size, split, maps) for split in splits) if self.start else ()

    def cost(self) -> float:
        return self.choices[0][0].cost() if self.options else self.method.cost(self)

    def prepare(self, context: Any) -> Any:
        """Return the training that the method is."""
        return self.method.prepare(self, context)

    def evaluate(self, context: Any) -> dict[str, Any]:
        """Return what the method, which trains nothing, measures."""
        return self.method.evaluate(self, context)

    # --------------------------------------------------------------------------------------------------------- searches

    @cached_property
    def options(self) -> dict[tuple[str, ...], OneOf]:
        """What is to be chosen, by the names that lead to it; of a chain, in its last step."""
        return {p: of for p, of in self.searched.items() if p[0] != "source"} if self.before else self.searched

    @property
    def open(self) -> bool:
        """Whether something is to be chosen, here or in a step of the chain before."""
        return bool(self.options or (self.before and self.before.open))

    def at_seed(self, seed: int) -> Trial:
        """Return the same trial of another seed."""
        return replace(self, seed=seed, source=self.before.at_seed(seed) if self.before else self.source)

    @cached_property
    def first_stage(self) -> dict[tuple[str, ...], OneOf]:
        """What is chosen first: of `options` those that are not `later`, if there are any."""
        return {p: of for p, of in self.options.items() if not of.later} or self.options

    @cached_property
    def choices(self) -> tuple[tuple[Trial, ...], ...]:
        """Return the trials of a search: for every choice, in the order in which they win ties, one a seed that
        decides.
        """
        return _choices(self if self.seed == 0 else self.at_seed(0)) if self.options else ()

    def searches(self) -> tuple[Trial, ...]:
        """Return the trials whose validation score chooses what is open here (none if nothing is)."""
        return tuple(trial for trials in self.choices for trial in trials)

    def resolve(self, score: dict[str, float]) -> Trial | None:
        """Return this trial with what its search chose, or ``None`` while a search trial is missing.

        What is `later` is still open then.

        Parameters
        ----------
        score : dict
            Validation score (accuracy) by trial key; a diverged search trial counts as 0.
        """
        if not (choices := self.choices):
            return self
        if any(t.key not in score for trials in choices for t in trials):
            return None
        totals = [sum(score[t.key] for t in trials) for trials in choices]
        return filled(self, combinations(self.first_stage)[totals.index(max(totals))])

    # ------------------------------------------------------------------------------------------------------------ words

    @property
    def label(self) -> str:
        """One line that names the trial, for progress, logs and published records."""
        start = f"{self.before.via if self.before else self.source.label} > " if self.source else ""
        rate = f" lr {'|'.join(f'{r:g}' for r in self.recipe.rates)}" if self.recipe else ""
        return f"{start}{self.target.label}, {self.method.kind}{rate}, seed {self.seed}"

    @property
    def via(self) -> str:
        """The label without its seed."""
        return self.label.rpartition(", seed")[0]

    def columns(self) -> dict[str, object]:
        """Return what tells trials apart, as one row of a table."""
        root = self.root
        subset = getattr(root, "subset", WHOLE)
        return {
            "source": root.label if isinstance(root, Weights) else root and root.images.name,
            "source_classes": subset.classes if isinstance(subset.classes, int | None) else len(subset.classes),
            **{f"source_{name}": getattr(subset, name) for name in ("per_class", "images", "depth", "lift")},
            "source_part": subset.label,
            "source_steps": root.recipe.steps if isinstance(root, Source) else None,
            **{f"source_{name}": cell(getattr(root, name, None)) for name in ("grey", "stop")},
            "via": self.before and self.before.via,
            "backbone": self.backbone.kind,
            "fc7": getattr(self.backbone, "hidden", (None,))[-1],
            "method": self.method.kind,
            **self.method.columns(),
            "target": self.target.images.name,
            "size": self.target.size,
            **({"task": self.target.task.kind} if self.target.task else {}),
            "lr": cell(self.recipe.lr) if self.recipe else None,
            "seed": self.seed,
        }


@lru_cache(maxsize=10_000)
def _choices(arm: Trial) -> tuple[tuple[Trial, ...], ...]:
    """Return the search of an arm, which its seeds share."""
    seeds = {options.seeds for options in arm.options.values()}
    check(len(seeds) == 1, "seeds", sorted(seeds), "of all that is searched must be the same")
    first = {path: of.options[0] for path, of in arm.options.items()}
    made = [filled(arm, first | choice) for choice in combinations(arm.first_stage)]
    return tuple(tuple(trial.at_seed(seed) for seed in next(iter(seeds))) for trial in made)
