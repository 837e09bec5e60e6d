"""The vocabulary: what is trained, on what, from what and how, as frozen dataclasses.

A :class:`Trial` is a value. It serialises to canonical JSON, and the first 16 hexadecimal digits of the SHA-256 of
that JSON are its key: equal trials are run once, ever. Whatever changes a result is therefore a field here, and
whatever does not (the device, the number of workers) is not. A field that is ``None`` is left out of the JSON, so a
new field that defaults to ``None`` leaves every old key, and every old record, as it was.

This module imports no torch.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

from .backbones import AlexNet, Backbone
from .data.catalog import pinned
from .errors import check, choose
from .method_specs import LOOKS, Concepts, FineTune, Grow, Neighbours, Probe, Scratch, SourceTask
from .recipes import Recipe
from .serial import Spec, digest, flags, positive

SEARCH_SEEDS = (0, 1)
"""The seeds whose mean validation accuracy chooses a learning rate, once per (target, arm)."""


@dataclass(frozen=True)
class ImageSet(Spec, kind="image-set", version=1):
    """A labelled image set, by name and content. The version is that of decoding (and of the synthetic world).

    Parameters
    ----------
    name : str
        ``flowers102`` (a Parquet set), ``folder:PATH``, ``torchvision:CIFAR100`` or ``synthetic:DISTANCE``.
    fingerprint : str
        What the images are; by default the one pinned for `name` in the manifest.
    """

    name: str
    fingerprint: str = ""

    def __post_init__(self) -> None:
        if not self.fingerprint:
            object.__setattr__(self, "fingerprint", pinned(self.name)["fingerprint"])


@dataclass(frozen=True)
class Subset(Spec, kind="subset", version=1):
    """Which part of a set's training images, and under which labels. The version is that of the draws.

    The steps are taken in the order of the fields. Draws are nested: for one seed, 20 images per class are among the
    50, and 50 classes are among the 100.

    Parameters
    ----------
    exclude : tuple of str, optional
        Classes, or inner nodes of the class tree, whose images are left out.
    classes : int or tuple of str, optional
        How many classes, drawn at random by the seed; or which: classes, or inner nodes of the class tree for all that
        lie below them (a name that is both means the class).
    per_class : int, optional
        Images per class, drawn at random by the seed; all of them by default.
    depth : int, optional
        Coarse labels, bottom-up: each class is replaced by its ancestor at this depth of the class tree (the root has
        depth 0); a class that is shallower stays (Huh et al., sec. 3.2).
    images : int, optional
        Images in all, instead of `per_class`: spread over the classes as evenly as can be (before labels are merged), drawn
        at random by the seed.
    lift : int, optional
        Coarse labels, top-down, instead of `depth`: so many times, each class is replaced by its parent, and what then lies
        below another one is merged into it (Huh et al., sec. 3.2).
    """

    exclude: tuple[str, ...] | None = None
    classes: int | tuple[str, ...] | None = None
    per_class: int | None = None
    depth: int | None = None
    images: int | None = None
    lift: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.classes, int):
            check(self.classes > 1, "classes", self.classes, "must be at least 2")
        for name in ("per_class", "images", "lift"):
            if getattr(self, name) is not None:
                positive(name, getattr(self, name))
        if self.depth is not None:
            check(isinstance(self.depth, int) and self.depth >= 0, "depth", self.depth, "must be a whole number, 0 or more")
            check(self.lift is None, "lift", self.lift, "labels are merged by depth or by lift, not by both")
        if self.images is not None:
            check(self.per_class is None, "images", self.images, "a budget is images or per_class, not both")

    @property
    def label(self) -> str:
        """A few words, for tables and progress."""
        drawn = isinstance(self.classes, int | None)
        chosen = f"{self.classes} classes" if drawn else "+".join(self.classes) if len(self.classes) < 3 else f"{len(self.classes)} named"
        parts = [chosen if self.classes else "", f"{self.per_class} a class" if self.per_class else ""]
        parts += [f"{self.images} images" if self.images else "", f"depth {self.depth}" if self.depth is not None else ""]
        gone = "+".join(self.exclude) if self.exclude and len(self.exclude) < 3 else f"{len(self.exclude or ())} named"
        parts += [f"lifted {self.lift}" if self.lift else "", f"without {gone}" if self.exclude else ""]
        return ", ".join(p for p in parts if p)

    @property
    def shape(self) -> "Subset":
        """What parts have in common that make the same task: all but the number of images."""
        return replace(self, per_class=None, images=None)


EVERYTHING = Subset()


class _OnImages:
    """What sources and targets share: images by name, a part of them, a size in pixels."""

    def __post_init__(self) -> None:
        if isinstance(self.images, str):
            object.__setattr__(self, "images", ImageSet(self.images))
        check(isinstance(self.size, int) and self.size >= 16, "size", self.size, "must be 16 pixels or more")

    @property
    def label(self) -> str:
        """A few words, for tables and progress."""
        name = f"{self.images.name}, grey" if getattr(self, "grey", None) else self.images.name
        return f"{name} ({self.subset.label})" if self.subset != EVERYTHING else name


@dataclass(frozen=True)
class Target(_OnImages, Spec, kind="target"):
    """The task that knowledge is moved to.

    Images are decoded to `size` pixels: the short side resized with a box filter, then a centre crop. A set without a
    validation split gives up 20% of its training images for one, stratified, drawn by the seed; a set without a test
    split is tested on its validation split.

    Parameters
    ----------
    images : ImageSet or str
    size : int
        Side of the square images, in pixels.
    subset : Subset
        Part of the training images; the same classes and labels are kept in the other splits.
    """

    images: ImageSet
    size: int
    subset: Subset = EVERYTHING


@dataclass(frozen=True)
class Step(Spec, kind="step"):
    """One task of a chain, done before another: what is trained on which target.

    Parameters
    ----------
    target : Target
    method : FineTune or Grow
        With a single learning rate: it is not searched.
    """

    target: Target
    method: FineTune | Grow

    def __post_init__(self) -> None:
        kind = getattr(self.method, "kind", self.method)
        check(kind in ("fine-tune", "grow"), "method", kind, "of a step must be fine-tune or grow")
        check(len(self.method.recipe.rates) == 1, "lr", self.method.recipe.lr, "of a step must be a single rate")


@dataclass(frozen=True)
class Source(_OnImages, Spec, kind="source"):
    """What a network learned before: the images, the part of them, the recipe. Its seed is the trial's.

    Parameters
    ----------
    images : ImageSet or str
    size : int
        Side of the square images, in pixels.
    recipe : Recipe
        One learning rate: sources are not searched.
    subset : Subset
    grey : bool, optional
        Colours are taken away: every pixel gets its luma (ITU-R 601), so that sources with and without colour can be compared.
    """

    images: ImageSet
    size: int
    recipe: Recipe
    subset: Subset = EVERYTHING
    grey: bool | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check(len(self.recipe.rates) == 1, "source lr", self.recipe.lr, "must be a single rate")
        flags(self, "grey")


@dataclass(frozen=True)
class Weights(Spec, kind="weights"):
    """Weights trained by somebody else, instead of a source that is trained here.

    Parameters
    ----------
    name : str
        ``file:PATH`` (safetensors or a torch state dict) or ``torchvision:WEIGHTS`` (``IMAGENET1K_V1`` ...).
    fingerprint : str
        SHA-256 of the file's bytes, first 16 digits; by default the one pinned for `name`. Torchvision's weights are
        what their name says.
    """

    name: str
    fingerprint: str = ""

    def __post_init__(self) -> None:
        if not self.fingerprint:
            kind, _, name = self.name.partition(":")
            choose("weights", kind, ("file", "torchvision"))
            object.__setattr__(self, "fingerprint", name if kind == "torchvision" else pinned(self.name)["fingerprint"])

    @property
    def label(self) -> str:
        """A few words, for tables and progress."""
        return self.name


Method = SourceTask | Scratch | Probe | Neighbours | Concepts | FineTune | Grow


@dataclass(frozen=True)
class Trial(Spec, kind="trial"):
    """One source, backbone, method, target and seed: the unit of work and of evidence.

    Parameters
    ----------
    target : Target
    method : Method
    backbone : Backbone
    seed : int
        Varies the source's sample and training, the target's sample, the initialisation and the order together.
    source : Source or Weights, optional
    split : {"test", "validation"}
        What is read at the end; trials of a search read validation only.
    """

    target: Target
    method: Method
    backbone: Backbone
    seed: int
    source: Source | Weights | None = None
    split: str = "test"

    def __post_init__(self) -> None:
        check(isinstance(self.seed, int) and self.seed >= 0, "seed", self.seed, "must be a whole number, 0 or more")
        choose("split", self.split, ("test", "validation"))
        needs = not isinstance(self.method, Scratch)
        may = isinstance(self.method, Neighbours)
        check(may or (self.source is not None) == needs, "source", self.source, f"{self.method.kind} needs {'one' if needs else 'none'}")
        if isinstance(self.source, Weights):
            check(not getattr(self.method, "examine", None), "examine", True, "asks for the source's own images; take a Source")
        if isinstance(self.backbone, AlexNet) and isinstance(self.source, Source):
            check(self.source.size == self.target.size, "size", self.target.size, f"AlexNet keeps its source's, {self.source.size}")

    @classmethod
    def of_source(cls, source: Source, backbone: Backbone, seed: int) -> "Trial":
        """Return the trial that measures a source network on its own held-out images."""
        return cls(Target(source.images, source.size, source.subset.shape), SourceTask(), backbone, seed, source)

    @property
    def recipe(self) -> Recipe | None:
        """The recipe of the method, if it trains by gradient."""
        return getattr(self.method, "recipe", None)

    @property
    def targets(self) -> tuple[Target, ...]:
        """The target, and those of a chain before it."""
        step = getattr(self.method, "first", None)
        return (*replace(self, target=step.target, method=step.method).targets, self.target) if step else (self.target,)

    @property
    def shape(self) -> str:
        """What trials have in common that can train together: all but seed, source, number of images, rate and decay."""
        if self.recipe is None:
            return self.key
        method, target = replace(self.method, recipe=self.recipe.shape), replace(self.target, subset=self.target.subset.shape)
        return "|".join((self.backbone.canonical, method.canonical, target.canonical))

    def searches(self) -> tuple["Trial", ...]:
        """Return the trials whose validation accuracy chooses this trial's learning rate (none if it has one)."""
        if self.recipe is None or len(self.recipe.rates) == 1:
            return ()
        arm = self if self.seed == 0 and self.split == "validation" else replace(self, seed=0, split="validation")
        looks = {name: None for name in LOOKS if getattr(arm.method, name, None)}
        return _searches(replace(arm, method=replace(arm.method, **looks)) if looks else arm)

    def __hash__(self) -> int:
        return hash(self.key)

    def at(self, rate: float) -> "Trial":
        """Return the same trial at one learning rate."""
        return replace(self, method=replace(self.method, recipe=replace(self.recipe, lr=rate)))

    def resolve(self, accuracy: dict[str, float]) -> "Trial | None":
        """Return this trial at the rate that its search chose, or ``None`` while a search trial is missing.

        Parameters
        ----------
        accuracy : dict
            Validation accuracy by trial key; a diverged search trial counts as 0. Ties go to the smaller rate.
        """
        searches = self.searches()
        if not searches:
            return self
        if any(t.key not in accuracy for t in searches):
            return None
        total = dict.fromkeys(sorted(self.recipe.rates), 0.0)
        for t in searches:
            total[t.recipe.lr] += accuracy[t.key]
        return self.at(max(total, key=total.get))

    @property
    def label(self) -> str:
        """One line that names the trial, for progress, logs and published records."""
        start = f"{self.source.label} > " if self.source else ""
        rate = f" lr {'|'.join(f'{r:g}' for r in self.recipe.rates)}" if self.recipe else ""
        return f"{start}{self.target.label}, {self.method.kind}{rate}, seed {self.seed}, {self.split}"

    def columns(self) -> dict[str, object]:
        """Return what tells trials apart, as one row of a table."""
        subset = getattr(self.source, "subset", EVERYTHING)
        return {
            "source": self.source.label if isinstance(self.source, Weights) else self.source and self.source.images.name,
            "source_classes": subset.classes if isinstance(subset.classes, int | None) else len(subset.classes),
            **{f"source_{name}": getattr(subset, name) for name in ("per_class", "images", "depth", "lift")},
            "source_part": subset.label,
            "source_grey": getattr(self.source, "grey", None),
            "source_steps": self.source.recipe.steps if isinstance(self.source, Source) else None,
            "backbone": self.backbone.kind,
            "fc7": getattr(self.backbone, "hidden", (None,))[-1],
            "method": self.method.kind,
            **settings(self.method),
            "target": self.target.images.name,
            "size": self.target.size,
            "lr": self.recipe.lr if self.recipe and len(self.recipe.rates) == 1 else None,
            "seed": self.seed,
            "split": self.split,
        }


@lru_cache(maxsize=10_000)
def _searches(arm: Trial) -> tuple[Trial, ...]:
    """Return the search of an arm, which its seeds share."""
    return tuple(replace(arm.at(rate), seed=seed) for rate in arm.recipe.rates for seed in SEARCH_SEEDS)


def settings(method: Method) -> dict[str, object]:
    """Return what was chosen for a method beside its recipe, by name; several numbers as ``64+128``."""
    found = {name: getattr(method, name) for name in method.__dataclass_fields__ if name != "recipe"}
    first = {"first": f"{found['first'].target.label}, {found['first'].method.kind}"} if found.get("first") else {}
    return {name: "+".join(map(str, value)) if isinstance(value, tuple) else value for name, value in found.items()} | first


def source_shape(trial: Trial) -> str:
    """Return what trials have in common whose sources can train together: all but seed, number of images, rate and decay."""
    source = replace(trial.source, recipe=trial.source.recipe.shape, subset=trial.source.subset.shape)
    return "|".join((trial.backbone.canonical, source.canonical))


def source_key(trial: Trial) -> str:
    """Return the key under which the trial's pretrained network is kept: of its source, backbone and seed."""
    return digest(f'{{"backbone":{trial.backbone.canonical},"seed":{trial.seed},"source":{trial.source.canonical}}}')
