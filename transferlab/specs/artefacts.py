"""What is made once and kept under a key: by a training or by reading, when what it needs is there. Nothing here
imports torch.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from ..errors import check
from .catalog import pinned
from .data import ImageSet, Source, Weights
from .networks import Backbone
from .serial import Spec

PACE = 1.5e10  # multiply-adds a second that one core trains, before anything was measured
FORWARD_SHARE = 1 / 3  # of a training step's arithmetic


class Artefact(Spec):
    """A value that says how something is made: a record, a network, or arrays.

    It has exactly one of ``prepare(context) -> Run``, which is trained, and ``evaluate(context) -> dict``: the numbers
    of a record, or tensors by name. What is made of it is found under its `key`.
    """

    kept: ClassVar[str] = "arrays"  # or "record", or "network"
    given: ClassVar[bool] = False  # whether nobody has to make it
    asked: tuple[str, ...] = ()  # the columns that its record must have

    @property
    def trains(self) -> bool:
        """Whether it comes of a training."""
        return hasattr(self, "prepare")

    @property
    def label(self) -> str:
        """A few words, for progress."""
        return self.kind

    @property
    def training(self) -> "Artefact":
        """What is really done: artefacts that share it are made at once."""
        return self

    @property
    def shape(self) -> str:
        """What those have in common that can train together."""
        return self.key

    def needs(self) -> tuple["Artefact", ...]:
        """Return what must be there first."""
        return ()

    def cost(self) -> float:
        """Return about how many seconds one core works for it."""
        return 0.0


@dataclass(frozen=True)
class Pretrained(Artefact, kind="pretrained"):
    """The network that a source trains, or that somebody else trained.

    Parameters
    ----------
    source : Source or Weights
        With ``stop``, the network of that share of the steps; one training makes it and the one of all steps.
    backbone : Backbone
    seed : int
        Of the source's sample and training. Weights are the same for every seed.
    """

    source: Source | Weights
    backbone: Backbone
    seed: int

    kept: ClassVar[str] = "network"

    def __post_init__(self) -> None:
        if self.given:
            object.__setattr__(self, "seed", 0)

    @property
    def given(self) -> bool:
        return isinstance(self.source, Weights)

    @property
    def label(self) -> str:
        return f"{self.source.label}, seed {self.seed}"

    @property
    def training(self) -> "Pretrained":
        return self if self.given or not self.source.stop else replace(self, source=replace(self.source, stop=None))

    @property
    def steps(self) -> int:
        """Steps after which the network is taken."""
        return max(1, round(self.source.recipe.steps * (self.source.stop or 1)))

    @property
    def shape(self) -> str:
        source = replace(self.source, recipe=self.source.recipe.shape, subset=self.source.subset.shape, stop=None)
        return "|".join((self.backbone.canonical, source.canonical))

    def cost(self) -> float:
        images = 0 if self.given else self.steps * self.source.recipe.batch
        return images and images * self.backbone.multiply_adds(self.source.size) / PACE

    def prepare(self, context: Any) -> Any:
        """Return the training of a fresh network on the source."""
        return context.pretraining(self)


@dataclass(frozen=True)
class Trained(Artefact, kind="trained"):
    """The network that a trial leaves, for another one to start from, or to hand out."""

    trial: "Artefact"

    kept: ClassVar[str] = "network"

    def __post_init__(self) -> None:
        check(self.trial.trains, "source", self.trial.label, "trains no network")

    @property
    def label(self) -> str:
        return f"network of {self.trial.label}"

    @property
    def backbone(self) -> Any:
        """Its architecture."""
        return self.trial.backbone

    @property
    def training(self) -> Artefact:
        return self.trial.training


def stored_split(images: ImageSet, split: str) -> str:
    """Return the split of a set that holds what a trial trains on, validates on or is tested on.

    Validation images are taken out of the training images unless the set has splits for both validation and test.
    """
    splits = pinned(images.name, images.fingerprint).get("splits", ("train", "validation", "test"))
    if split == "test":
        return "validation" if "test" not in splits and "validation" in splits else "test"
    return split if {"validation", "test"} <= set(splits) else "train"


@dataclass(frozen=True)
class Features(Artefact, kind="features", version=1):
    """What a frozen network makes of all images of one stored split, at every layer that can be read.

    Parameters
    ----------
    network : Pretrained or Trained
    images : ImageSet
    size : int
    split : str
        As it is stored.
    maps : str, optional
        The maps of this layer alone, as they are; without it maps are averaged over their positions.
    """

    network: Pretrained | Trained
    images: ImageSet
    size: int
    split: str
    maps: str | None = None

    @property
    def label(self) -> str:
        return f"features of {self.images.name} ({self.split}), {self.network.label}"

    def needs(self) -> tuple[Artefact, ...]:
        return (self.network,)

    def cost(self) -> float:
        images = pinned(self.images.name, self.images.fingerprint).get("splits", {}).get(self.split, 1000)
        return images * self.network.backbone.multiply_adds(self.size) / PACE * FORWARD_SHARE

    def evaluate(self, context: Any) -> dict[str, Any]:
        """Return float32 tensors (images, units), or of maps, by tap; none if they are too many to be kept."""
        return context.read(self)
